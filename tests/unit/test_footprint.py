"""The memory that decoding takes is known before it is taken."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lib.config.conversion import ConvertConfig
from lib.config.images import TiffPolicy
from lib.ingest.convert import LARGE_BYTES, TASK_BYTES, with_memory_for
from lib.ingest.tiff.decode import read_tiff
from tests.fakes.tiff_bytes import refusal_of, written

SIDE = 5000
KINDS: dict[str, tuple[type[np.generic], int, dict[str, Any]]] = {
    "8-bit RGB": (np.uint8, 3, {"photometric": "rgb"}),
    "8-bit RGB by deflate": (np.uint8, 3, {"photometric": "rgb", "compression": "zlib"}),
    "8-bit RGB on its side": (np.uint8, 3, {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]}),
    "CMYK": (np.uint8, 4, {"photometric": "separated"}),
    "16-bit gray": (np.uint16, 1, {"photometric": "minisblack"}),
    "16-bit RGB": (np.uint16, 3, {"photometric": "rgb"}),
    "floats": (np.float32, 3, {"photometric": "rgb"}),
}


def picture(kind: str) -> bytes:
    """A TIFF of SIDE x SIDE pixels, white above and black below."""
    dtype, samples, options = KINDS[kind]
    pixels = np.zeros((SIDE, SIDE, samples), dtype)
    pixels[: SIDE // 2] = 1
    return written(pixels[..., 0] if samples == 1 else pixels, **options)


PROGRAM = """
import itertools, json, os, sys
from pathlib import Path
from lib.config.images import TiffPolicy
from lib.ingest.image import resize_image
from lib.ingest.tiff.decode import read_tiff
from tests.fakes.tiff_bytes import NOISE, written
from tests.unit.test_footprint import KINDS, picture

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

read_tiff(written(NOISE), TiffPolicy())  # what is imported only now does not count
for kind, size in itertools.product(KINDS, (None, 224)):
    data = picture(kind)
    if os.fork() == 0:  # so that no freed memory of another kind is used again
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
        before = peak()
        found = read_tiff(data, TiffPolicy(), size)
        resize_image(found.rgb, 224)
        print(json.dumps([[kind, size], peak() - before + len(data), found.decoding_bytes]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_decoding_takes_what_was_foreseen() -> None:
    answer = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, check=True, text=True)
    measured = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(measured) == 2 * len(KINDS)  # whole, and by bands where the layout allows
    for kind, taken, foreseen in measured:
        assert taken <= foreseen <= 1.5 * taken + 2**26, kind


def test_an_image_that_takes_too_much_is_refused_with_its_size_and_the_setting() -> None:
    data = picture("16-bit RGB")
    refusal = refusal_of(data, TiffPolicy(max_image_gib=0.4))
    assert refusal.code == "too_large"
    assert refusal.detail == "5000 x 5000 pixels of 3 uint16 samples take 0.5 GiB to decode; --max-image-gib is 0.4"
    assert read_tiff(data, TiffPolicy(max_image_gib=0.5)).rgb.shape == (SIDE, SIDE, 3)


def test_tasks_reserve_memory_for_large_images_alone_and_what_a_person_says_holds() -> None:
    config = ConvertConfig(source="/s", output="/o")
    assert with_memory_for(0, config).convert_memory_gib is None
    assert with_memory_for(LARGE_BYTES - 1, config).convert_memory_gib is None
    assert with_memory_for(2 * LARGE_BYTES, config).convert_memory_gib == (2 * LARGE_BYTES + TASK_BYTES) / 2**30
    stated = config.part(ConvertConfig, convert_memory_gib=5)
    assert with_memory_for(2 * LARGE_BYTES, stated).convert_memory_gib == 5
