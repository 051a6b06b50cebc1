"""The `convert` job beside the notebook's loop, a process pool around our own decoding, and Ray Data's own reader."""

import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2

from lib.config.images import TiffPolicy
from lib.ingest.image import encode_jpeg, resize_image
from lib.ingest.tiff.decode import decode_tiff
from tests.benchmarks.sources import COMPRESSIONS, write_linked_source
from tests.benchmarks.timing import interleaved_medians, print_row, seconds

SIZES = (180, 224)
COUNTS = (1000, 6000)
PROGRAMS = ("our job", "Pool(2), our decoding", "Pool(2), OpenCV", "notebook's loop", "ray.data.read_images")


def run(repeats: int) -> None:
    """Images a second, 512 px TIFFs to small JPEGs."""
    print_row("convert 512 px TIFFs, steady images/s", *PROGRAMS, "job / our Pool", "job / notebook")
    print_row(*["---"] * (len(PROGRAMS) + 3))
    for size, compression in itertools.product(SIZES, COMPRESSIONS):
        rates = steady_rates(compression, size, repeats)
        cells = [f"{rates[name]:,.0f}" for name in PROGRAMS]
        pool, notebook = rates["Pool(2), our decoding"], rates["notebook's loop"]
        ratios = (f"{rates['our job'] / pool:.2f}", f"{rates['our job'] / notebook:.2f}")
        print_row(f"{compression} to {size} px", *cells, *ratios)
    with tempfile.TemporaryDirectory() as folder:
        source = write_linked_source(Path(folder), "lzw", 100)
        print_row("cold start of the job, 100 images, s", f"{seconds(lambda: _job(source, SIZES[0])):.1f}")


def steady_rates(compression: str, size: int, repeats: int) -> dict[str, float]:
    """Images a second of each program, from the slope between two numbers of images."""
    with tempfile.TemporaryDirectory() as folder:
        medians = []
        for count in COUNTS:
            source = write_linked_source(Path(folder) / str(count), compression, count)
            medians.append(interleaved_medians(_programs(source, size), repeats))
    few, many = medians
    return {name: (COUNTS[1] - COUNTS[0]) / (many[name] - few[name]) for name in PROGRAMS}


def _programs(source: Path, size: int) -> dict[str, Callable[[], object]]:
    return {
        "our job": partial(_job, source, size),
        "Pool(2), our decoding": partial(_pool, source, size, _convert_strictly),
        "Pool(2), OpenCV": partial(_pool, source, size, _convert_as_the_notebook),
        "notebook's loop": partial(_loop, source, size),
        "ray.data.read_images": partial(_read_images, source, size),
    }


def _job(source: Path, size: int) -> None:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "jobs.convert", "--source", str(source), "--output", output + "/dataset"]
        flags = ["--image-size", str(size), "--duplicates", "keep"]  # the source is a few pictures under many names
        subprocess.run([*command, *flags], check=True, capture_output=True)


def _pool(source: Path, size: int, convert: Callable[[str, str, int], None]) -> None:
    with tempfile.TemporaryDirectory() as output, multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(convert, [(str(file), output, size) for file in source.rglob("*.tif")], chunksize=32)


def _loop(source: Path, size: int) -> None:
    with tempfile.TemporaryDirectory() as output:
        for file in source.rglob("*.tif"):
            _convert_as_the_notebook(str(file), output, size)


def _convert_strictly(file: str, output: str, size: int) -> None:
    cv2.setNumThreads(1)
    image = resize_image(decode_tiff(Path(file).read_bytes(), TiffPolicy()), size)
    (Path(output) / f"{Path(file).stem}.jpg").write_bytes(encode_jpeg(image, 95))


def _convert_as_the_notebook(file: str, output: str, size: int) -> None:
    image = cv2.imread(file)
    cv2.imwrite(f"{output}/{Path(file).stem}.jpg", cv2.resize(image, (size, size)))


READ_IMAGES = """
import sys, ray, cv2
from ray.data import DataContext
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
DataContext.get_current().enable_progress_bars = False
def encode(batch):
    batch["image"] = [cv2.imencode(".jpg", image)[1].tobytes() for image in batch["image"]]
    return batch
images = ray.data.read_images(sys.argv[1], size=(int(sys.argv[3]), int(sys.argv[3])), mode="RGB")
images.map_batches(encode).write_parquet(sys.argv[2])
"""


def _read_images(source: Path, size: int) -> None:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", READ_IMAGES, str(source), output, str(size)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
