"""Small labelled sources of real TIFFs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile


def write_tiff(path: Path, seed: int, side: int = 40) -> None:
    """A smooth picture, which survives JPEG, of its own for each seed."""
    rows, columns = np.mgrid[:side, :side] / side
    corners = np.random.default_rng(seed).uniform(0, 255, (3, 3))
    picture = corners[0] + rows[..., None] * (corners[1] - corners[0]) / 2
    picture += columns[..., None] * (corners[2] - corners[0]) / 2
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, picture.clip(0, 255).astype(np.uint8), photometric="rgb", metadata=None)


def write_source(folder: Path, classes: Sequence[str] = ("liver", "lung"), train: int = 6, test: int = 2) -> Path:
    """`train/<label>/` and `test/<label>/` with so many images a class."""
    for number, label in enumerate(classes):
        for split, count in (("train", train), ("test", test)):
            for index in range(count):
                seed = hash((number, split == "train", index)) % 2**32
                write_tiff(folder / split / label / f"{label}_{index:03d}.tif", seed)
    return folder
