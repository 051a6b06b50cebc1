"""Tiny sources of TIFFs whose classes a small network tells apart within a few epochs."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

COMPRESSIONS = (None, "zlib", "lzw")


def striped_image(number: int, classes: int, size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Stripes with the direction and the tint of a class, and with phase and noise of their own.

    Args:
        number: Of the class, from 0.
        classes: How many classes there are.
        size: Side in pixels.
        seed: Of phase and noise.
    """
    random = np.random.default_rng((seed, number))
    angle = np.pi * number / classes
    rows, columns = np.mgrid[:size, :size]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    stripes = 1 + np.sin(along * 2 * np.pi / 8 + random.uniform(0, 2 * np.pi))
    tint = 50 + 70 * np.eye(3)[number % 3]
    image = stripes[..., None] * tint + random.normal(0, 8, (size, size, 3))
    return image.clip(0, 255).astype(np.uint8)


def write_source(
    folder: Path,
    classes: Mapping[str, int],
    *,
    test_per_class: int = 2,
    size: int = 64,
    without_test: str | None = None,
) -> Path:
    """Write `train/<label>/` with so many TIFFs a class, and `test/<label>/`. Every image is another one.

    Args:
        folder: Where to.
        classes: Training images of each class.
        test_per_class: Test images of each class.
        size: Side in pixels.
        without_test: A class that gets no test image.
    """
    for number, (label, train) in enumerate(classes.items()):
        test = 0 if label == without_test else test_per_class
        for split, count, first in (("train", train, 0), ("test", test, 1000)):
            for index in range(count):
                image = striped_image(number, len(classes), size, first + index)
                file = folder / split / label / f"{label}_{split}_{index:03d}.tif"
                write_tiff(file, image, COMPRESSIONS[index % len(COMPRESSIONS)])
    return folder


def write_tiff(file: Path, image: npt.NDArray[np.uint8], compression: str | None = None) -> None:
    """Write one RGB TIFF."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, image, photometric="rgb", compression=compression, metadata=None)


def damage(file: Path) -> None:
    """Cut a file in half."""
    os.truncate(file, file.stat().st_size // 2)
