"""Training the CNN beside the notebook's `image_dataset_from_directory` and `fit`, on its JPEGs and on ours."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import pandas as pd

from tests.benchmarks.sources import PICTURES, tissue_tiffs, write_linked_source
from tests.benchmarks.timing import print_row, seconds
from tests.fakes.jobs import ROOT

COUNT, EPOCHS, SIZE = 960, 5, 180

NOTEBOOK = """
import sys, time, json, keras
folder, epochs = sys.argv[1], int(sys.argv[2])
images = keras.utils.image_dataset_from_directory(folder, image_size=(180, 180), batch_size=32)
from lib.models.cnn import build_cnn
model = build_cnn(4, 180)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
class Clock(keras.callbacks.Callback):
    times = []
    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()
    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter() - self.began)
model.fit(images, epochs=epochs, verbose=0, callbacks=[Clock()])
print(json.dumps(Clock.times))
"""


def run(repeats: int) -> None:
    """Images a second in epochs after the first, the time a command takes outside epochs, and the wait for data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_linked_source(folder / "tiffs", "uncompressed", COUNT)
        dataset = folder / "dataset"
        run_job("convert", "--source", source, "--output", dataset, "--layout", "folder", "--duplicates", "keep")
        large = write_large_jpegs(folder / "jpegs")
        programs = {
            "our job, 1 worker": lambda: train(dataset, 1),
            "our job, 2 workers": lambda: train(dataset, 2),
            "notebook, 512 px JPEGs": lambda: notebook(large),
            f"notebook, {SIZE} px JPEGs": lambda: notebook(dataset / "train"),
        }
        found: dict[str, list[tuple[float, float, float]]] = {program: [] for program in programs}
        for _ in range(repeats):
            for program, start in programs.items():
                found[program].append(start())
    print_row(f"fit the CNN, {SIZE} px, {COUNT} images", "images/s after the first epoch", "s outside epochs", "wait")
    print_row(*["---"] * 4)
    for program, results in found.items():
        rate, outside, wait = (statistics.median(values) for values in zip(*results, strict=True))
        print_row(program, f"{rate:,.0f}", f"{outside:.1f}", f"{wait:.1%}" if "job" in program else "")


def train(dataset: Path, workers: int) -> tuple[float, float, float]:
    """Images a second, seconds outside epochs, and the share of waiting, of the job."""
    with tempfile.TemporaryDirectory() as output:
        flags = ["--epochs", EPOCHS, "--patience", EPOCHS, "--output", f"{output}/model", "--num-workers", workers]
        took = seconds(lambda: run_job("train", "--dataset", dataset, *flags))
        history = pd.read_parquet(f"{output}/model/history.parquet")
    later = history[1:]
    return later["images_per_s"].median(), took - history["seconds"].sum(), later["wait_share"].median()


def notebook(folder: Path) -> tuple[float, float, float]:
    """The same of the notebook, whose waiting is not known."""
    began = time.perf_counter()
    times = json.loads(run_python("-c", NOTEBOOK, folder, EPOCHS).splitlines()[-1])
    took = time.perf_counter() - began
    images = sum(len(files) for _, _, files in os.walk(folder))
    return images / statistics.median(times[1:]), took - sum(times), 0.0


def write_large_jpegs(folder: Path) -> Path:
    """The folder that the notebook's loop made: JPEGs of the size of the TIFFs, here few pictures under many names."""
    pictures = []
    for number, data in enumerate(tissue_tiffs("uncompressed")):
        tiff, jpeg = folder / f"{number}.tif", folder / f"{number}.jpg"
        folder.mkdir(parents=True, exist_ok=True)
        tiff.write_bytes(data)
        cv2.imwrite(str(jpeg), cv2.imread(str(tiff)))
        pictures.append(jpeg)
    train = folder / "train"
    for number in range(COUNT):
        file = train / f"class_{number % 4}" / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(pictures[number % PICTURES], file)
    return train


def run_job(name: str, *flags: object) -> None:
    """Run one of our jobs."""
    run_python("-m", f"jobs.{name}", *flags)


def run_python(*arguments: object) -> str:
    """What a Python program prints."""
    command = [sys.executable, *map(str, arguments)]
    found = os.environ | {"PYTHONPATH": str(ROOT)}  # by Ray's workers too, where the program is no file
    return subprocess.run(command, check=True, capture_output=True, text=True, env=found).stdout
