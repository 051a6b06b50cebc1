"""The `convert` job beside the notebook's loop, a process pool around our own decoding, and Ray Data's own reader."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2

from lib.config import TiffPolicy
from lib.ingest.image import encode_jpeg, resize_image
from lib.ingest.tiff import decode_tiff
from tests.benchmarks.sources import COMPRESSIONS, write_linked_source
from tests.benchmarks.timing import interleaved_medians, print_row, seconds

SIZE = 180
COUNTS = (500, 2500)
PROGRAMS = ("our job", "Pool(2), our decoding", "Pool(2), OpenCV", "notebook's loop", "ray.data.read_images")


def run(repeats: int) -> None:
    """Images a second, 512 px TIFFs to 180 px JPEG."""
    print_row(f"convert 512 to {SIZE} px, steady images/s", *PROGRAMS, "job / our Pool", "job / notebook")
    print_row(*["---"] * (len(PROGRAMS) + 3))
    for compression in COMPRESSIONS:
        rates = steady_rates(compression, repeats)
        cells = [f"{rates[name]:,.0f}" for name in PROGRAMS]
        pool, notebook = rates["Pool(2), our decoding"], rates["notebook's loop"]
        print_row(compression, *cells, f"{rates['our job'] / pool:.2f}", f"{rates['our job'] / notebook:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        source = write_linked_source(Path(folder), "lzw", 100)
        print_row("cold start of the job, 100 images, s", f"{seconds(lambda: _job(source)):.1f}")


def steady_rates(compression: str, repeats: int) -> dict[str, float]:
    """Images a second of each program, from the slope between two numbers of images."""
    with tempfile.TemporaryDirectory() as folder:
        medians = []
        for count in COUNTS:
            source = write_linked_source(Path(folder) / str(count), compression, count)
            medians.append(interleaved_medians(_programs(source), repeats))
    few, many = medians
    return {name: (COUNTS[1] - COUNTS[0]) / (many[name] - few[name]) for name in PROGRAMS}


def _programs(source: Path) -> dict[str, Callable[[], object]]:
    return {
        "our job": partial(_job, source),
        "Pool(2), our decoding": partial(_pool, source, _convert_strictly),
        "Pool(2), OpenCV": partial(_pool, source, _convert_as_the_notebook),
        "notebook's loop": partial(_loop, source),
        "ray.data.read_images": partial(_read_images, source),
    }


def _job(source: Path) -> None:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "jobs.convert", "--source", str(source), "--output", output + "/dataset"]
        flags = ["--image-size", str(SIZE), "--duplicates", "keep"]  # the source is a few pictures under many names
        subprocess.run([*command, *flags], check=True, capture_output=True)


def _pool(source: Path, convert: Callable[[str, str], None]) -> None:
    with tempfile.TemporaryDirectory() as output, multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(convert, [(str(file), output) for file in source.rglob("*.tif")], chunksize=32)


def _loop(source: Path) -> None:
    with tempfile.TemporaryDirectory() as output:
        for file in source.rglob("*.tif"):
            _convert_as_the_notebook(str(file), output)


def _convert_strictly(file: str, output: str) -> None:
    cv2.setNumThreads(1)
    image = resize_image(decode_tiff(Path(file).read_bytes(), TiffPolicy()), SIZE)
    (Path(output) / f"{Path(file).stem}.jpg").write_bytes(encode_jpeg(image, 95))


def _convert_as_the_notebook(file: str, output: str) -> None:
    image = cv2.imread(file)
    cv2.imwrite(f"{output}/{Path(file).stem}.jpg", cv2.resize(image, (SIZE, SIZE)))


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


def _read_images(source: Path) -> None:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", READ_IMAGES, str(source), output, str(SIZE)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
