"""Sources of many TIFFs that take little disk: a few pictures under many names."""

import io
import os
from pathlib import Path

import numpy as np
import tifffile

from lib.sample.tissue import TISSUES, draw_tissue

PICTURES = 24
COMPRESSIONS = {"uncompressed": None, "lzw": "lzw", "deflate": "zlib", "jpeg": "jpeg"}


def tissue_tiffs(compression: str, size: int = 512) -> list[bytes]:
    """Different pictures as TIFFs of size x size pixels, 8-bit RGB."""
    return [_tiff(number, COMPRESSIONS[compression], size) for number in range(PICTURES)]


def _tiff(number: int, compression: str | None, size: int) -> bytes:
    pixels = draw_tissue(TISSUES[number % len(TISSUES)], np.random.default_rng(number), size)
    sink = io.BytesIO()
    tifffile.imwrite(sink, pixels, photometric="rgb", compression=compression)
    return sink.getvalue()


def write_linked_source(folder: Path, compression: str, count: int) -> Path:
    """A training source of `count` files, each a hard link to one of a few."""
    originals = []
    for number, data in enumerate(tissue_tiffs(compression)):
        originals.append(folder / f"original_{number}")
        folder.mkdir(parents=True, exist_ok=True)
        originals[-1].write_bytes(data)
    source = folder / f"source_{count}"
    for number in range(count):
        file = source / "train" / f"class_{number % 4}" / f"{number:06d}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % PICTURES], file)
    return source
