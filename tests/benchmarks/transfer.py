"""Ten epochs on a frozen base: features computed once, beside the notebook's `fit` that runs the base every time."""

import tempfile
from pathlib import Path

import keras

from lib.models.registry import build_base
from lib.models.spec import parse_spec
from tests.benchmarks.fit import run_job, run_python
from tests.benchmarks.sources import write_linked_source
from tests.benchmarks.timing import interleaved_medians, print_row

EPOCHS, SIZE = 10, 180
COUNTS = {"mobilenet:alpha=0.25": (240, 1200), "vgg16": (48, 192)}

NOTEBOOK = """
import sys, keras
from lib.models.registry import build_network
from lib.models.spec import parse_spec
folder, spec, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
images = keras.utils.image_dataset_from_directory(folder, image_size=(180, 180), batch_size=32)
model = build_network(parse_spec(spec), 4, 180, 0).model
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=False)
model.fit(images, epochs=epochs, verbose=0)
"""


def run(repeats: int) -> None:
    """Milliseconds an image for all epochs, from the slope between two numbers of images, and so without start-up."""
    print_row(f"{EPOCHS} epochs of a head, {SIZE} px, ms an image", "our job", "notebook's frozen base", "ratio")
    print_row(*["---"] * 4)
    for base, counts in COUNTS.items():
        with tempfile.TemporaryDirectory() as folder:
            spec = f"{base}{',' if ':' in base else ':'}weights={_random_weights(base, Path(folder))}"
            few, many = (_medians(spec, count, Path(folder) / str(count), repeats) for count in counts)
        ours, theirs = ((many[name] - few[name]) / (counts[1] - counts[0]) * 1000 for name in few)
        print_row(base, f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.1f}")


def _medians(spec: str, count: int, folder: Path, repeats: int) -> dict[str, float]:
    source = write_linked_source(folder / "tiffs", "uncompressed", count)
    dataset = folder / "dataset"
    run_job("convert", "--source", source, "--output", dataset, "--layout", "folder", "--duplicates", "keep")
    programs = {
        "ours": lambda: _train(dataset, spec),
        "theirs": lambda: run_python("-c", NOTEBOOK, dataset / "train", spec, EPOCHS),
    }
    return interleaved_medians(programs, repeats)


def _train(dataset: Path, spec: str) -> None:
    with tempfile.TemporaryDirectory() as output:
        flags = ["--epochs", EPOCHS, "--patience", EPOCHS, "--output", f"{output}/model", "--model", spec]
        run_job("train", "--dataset", dataset, *flags)


def _random_weights(base: str, folder: Path) -> Path:
    """A file of weights as Keras Applications would have it: speed does not depend on what they are."""
    keras.utils.set_random_seed(0)
    network = build_base(parse_spec(f"{base}{',' if ':' in base else ':'}weights=none"), SIZE)
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    file = folder / "base.weights.h5"
    inner.save_weights(file)
    return file
