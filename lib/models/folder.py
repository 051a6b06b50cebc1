"""The model folder: `model.keras`, what it means (`model.json`), and how it came about."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lib.storage.filesystem import Location
from lib.storage.output import read_complete

if TYPE_CHECKING:
    import keras

MODEL_FILE = "model.json"
NETWORK_FILE = "model.keras"
HISTORY_FILE = "history.parquet"
CURVES_FILE = "curves.png"


def read_model_record(folder: Location) -> dict[str, Any]:
    """The content of `model.json`.

    Raises:
        SettingsError: If the folder is not complete.
    """
    return read_complete(folder, MODEL_FILE, made_by="train")


def load_network(folder: Location) -> "keras.Model":
    """The trained network: uint8 RGB (n, image_size, image_size, 3) to logits (n, classes)."""
    import keras

    with (folder / NETWORK_FILE).as_local_file() as file:
        return keras.saving.load_model(file, compile=False)


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities of logits of shape (n, classes), in float32; each row sums to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)
