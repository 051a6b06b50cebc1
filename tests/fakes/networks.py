"""Weights of Keras networks that tell images apart, though nothing was learned."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np


def write_random_weights(file: Path, function: str, seed: int = 0, **options: Any) -> Path:
    """Weights of a network without its classifier, drawn so that signals neither die out nor grow.

    Args:
        file: Where to; it ends in `.weights.h5`.
        function: Its constructor in `keras.applications`.
        seed: Of the draw.
        **options: What the constructor takes.
    """
    network = getattr(keras.applications, function)(include_top=False, weights=None, **options)
    random = np.random.default_rng(seed)
    network.set_weights([_lively(weight, random) for weight in network.get_weights()])
    network.save_weights(file)
    return file


def _lively(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Kernels with a deviation of sqrt(2 / fan in), as rectified layers need it; all else as it is."""
    if weight.ndim != 4:
        return weight
    height, width, inputs, outputs = weight.shape
    fan_in = height * width * (1 if outputs == 1 else inputs)  # the kernel of a depthwise convolution ends in 1
    return random.normal(0, np.sqrt(2 / fan_in), weight.shape).astype(weight.dtype)


SCRIPT = """
import sys
import keras
import numpy as np
from lib.models.saved import load_network
from lib.storage.location import Location

folder = sys.argv[1]
network = load_network(Location(folder), trusts_saved_model=True)
images = np.load(f"{folder}/images.npy")
embedding = keras.Model(network.input, network.layers[-1].input)
for name, model in (("logits", network), ("embeddings", embedding)):
    np.save(f"{folder}/{name}.npy", keras.ops.convert_to_numpy(model(images)))
network.save(f"{folder}/again.keras")
"""


def in_another_process(folder: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logits and embeddings of a model folder's network there; it is also saved once more, as `again.keras`."""
    np.save(folder / "images.npy", images)
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], check=True, capture_output=True)
    return np.load(folder / "logits.npy"), np.load(folder / "embeddings.npy")
