"""Training the CNN from a dataset folder beside the notebook's `image_dataset_from_directory` and `fit`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.sources import write_linked_source
from tests.benchmarks.timing import interleaved_medians, print_row

COUNT, FEW_EPOCHS, MANY_EPOCHS = 960, 2, 6

NOTEBOOK = """
import sys, keras
folder, epochs = sys.argv[1], int(sys.argv[2])
images = keras.utils.image_dataset_from_directory(folder, image_size=(180, 180), batch_size=32)
from lib.models.cnn import build_cnn
model = build_cnn(4, 180)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
model.fit(images, epochs=epochs, verbose=0)
"""


def run(repeats: int) -> None:
    """Images a second an epoch, from the slope between few and many epochs, and the time to the end of the first."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_linked_source(Path(folder) / "tiffs", "uncompressed", COUNT)
        dataset = f"{folder}/dataset"
        _job("convert", "--source", str(source), "--output", dataset, "--layout", "folder", "--duplicates", "keep")
        medians = {
            epochs: interleaved_medians(
                {
                    "our job": lambda epochs=epochs: _train(dataset, epochs),
                    "notebook": lambda epochs=epochs: _run("-c", NOTEBOOK, f"{dataset}/train", str(epochs)),
                },
                repeats,
            )
            for epochs in (FEW_EPOCHS, MANY_EPOCHS)
        }
        images = json.loads((Path(dataset) / "dataset.json").read_text())["counts_by_split"]["train"]
        count = sum(row["accepted"] for row in images.values()) * (MANY_EPOCHS - FEW_EPOCHS)
    print_row("fit the CNN, 180 px", "our job", "notebook's", "ratio")
    print_row(*["---"] * 4)
    rates = {name: count / (medians[MANY_EPOCHS][name] - medians[FEW_EPOCHS][name]) for name in medians[FEW_EPOCHS]}
    print_row("images/s an epoch", *(f"{rate:,.0f}" for rate in rates.values()), _ratio(rates))
    print_row(
        f"seconds for {FEW_EPOCHS} epochs, start included", *(f"{t:.1f}" for t in medians[FEW_EPOCHS].values()), ""
    )


def _ratio(rates: dict[str, float]) -> str:
    return f"{rates['our job'] / rates['notebook']:.2f}"


def _train(dataset: str, epochs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--epochs", str(epochs), "--patience", str(epochs), "--output", f"{folder}/model"]
        _job("train", "--dataset", dataset, *flags)


def _job(name: str, *flags: str) -> None:
    _run("-m", f"jobs.{name}", *flags)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
