"""Model folders as `train` writes them, in which nothing was trained."""

from pathlib import Path

import keras

from lib.folders.model import NETWORK_FILE
from lib.models.registry import build_network
from lib.models.spec import parse_spec
from lib.storage.location import Location
from tests.fakes.records import model_record

CLASS_NAMES = ("liver", "lung", "skin")


def write_model_folder(folder: Path, network: keras.Model, spec: str = "cnn") -> Path:
    """What is read of a model folder by those that only use the model.

    Args:
        folder: Where to.
        network: From uint8 images to the logits of `CLASS_NAMES`.
        spec: As what it is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / NETWORK_FILE)
    record = model_record(name=folder.name, spec=spec, class_names=list(CLASS_NAMES), image_size=network.input_shape[1])
    record.write(Location(str(folder)))
    return folder


def build_model_folder(folder: Path, spec: str, image_size: int) -> Path:
    """A model folder with a network that tells images apart: its last layer is drawn with large weights.

    Args:
        folder: Where to.
        spec: Which network.
        image_size: Side of its images in pixels.
    """
    network = build_network(parse_spec(spec), len(CLASS_NAMES), image_size, seed=0).model
    kernel = network.layers[-1].kernel
    kernel.assign(keras.random.normal(kernel.shape, stddev=3 / kernel.shape[0] ** 0.5, seed=1))
    return write_model_folder(folder, network, spec)
