"""Networks of model folders: the trained one, and the base that a new head is put on."""

from typing import TYPE_CHECKING

from lib.folders.model import NETWORK_FILE
from lib.storage.location import Location

if TYPE_CHECKING:
    import keras


def load_network(folder: Location) -> "keras.Model":
    """The trained network: uint8 RGB (n, image_size, image_size, 3) to logits (n, classes)."""
    import keras

    import lib.models.hub  # makes the layer that holds a SavedModel known to Keras
    import lib.models.onnx_encoder  # noqa: F401 - and the one that holds an ONNX network

    with (folder / NETWORK_FILE).as_local_file() as file:
        return keras.saving.load_model(file, compile=False)
