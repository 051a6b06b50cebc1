"""Networks of model folders: the trained one, and the base that a new head is put on."""

from typing import TYPE_CHECKING

from lib.errors import StorageError, one_line
from lib.folders.model import NETWORK_FILE
from lib.storage.location import Location

if TYPE_CHECKING:
    import keras


def load_network(folder: Location, *, trusts_saved_model: bool = False) -> "keras.Model":
    """The trained network: uint8 RGB (n, image_size, image_size, 3) to logits (n, classes).

    Args:
        folder: Of the model.
        trusts_saved_model: Whether Keras may know the layer that holds a SavedModel, which is a program.

    Raises:
        StorageError: If it cannot be read or opened.
    """
    import keras

    import lib.models.onnx_encoder  # noqa: F401 - makes the layer that holds an ONNX network, no program, known to Keras
    from lib.models.hub import SAVED_MODEL_LAYERS

    known = SAVED_MODEL_LAYERS if trusts_saved_model else {}
    with (folder / NETWORK_FILE).as_local_file() as file:
        try:
            return keras.saving.load_model(file, custom_objects=known, compile=False)
        except Exception as error:  # Keras raises what it likes for a file of others, with pages of text
            reason = one_line(error)[:300]
            raise StorageError(f"cannot open {(folder / NETWORK_FILE).uri} with Keras: {reason}") from error
