"""Whether a `model.keras` brings a program with it: seen in its description, before Keras opens it.

A SavedModel may read and write files, and a Lambda layer is Python code. Keras refuses the latter by itself, and knows
the layer that holds the former only where `load_network` is told to trust it.
"""

from collections.abc import Sequence

from lib.errors import SettingsError
from lib.folders.model import NETWORK_FILE, ModelRecord
from lib.folders.network_file import read_layer_classes
from lib.folders.output import read_complete
from lib.models.spec import HUB, SAVED, ModelSpec
from lib.storage.location import Location

SAVED_MODEL_LAYER = "SavedModelLayer"
FOREIGN = {"TFSMLayer": "a SavedModel outside its own file"}
CODE = {"Lambda": "a Lambda layer", "__lambda__": "a Lambda layer"}


def read_trusted(folder: Location, *, trusts_saved_model: bool) -> ModelRecord:
    """What is known of a model that may be opened.

    Args:
        folder: Of the model.
        trusts_saved_model: Whether it may hold a SavedModel.

    Raises:
        SettingsError: If the folder is not complete, or its network brings a program that is not trusted.
        StorageError: If it cannot be read, or holds no network.
    """
    model = read_complete(folder, ModelRecord)
    refuse_programs(folder, model.spec, trusts_saved_model=trusts_saved_model)
    return model


def check_earlier(specs: Sequence[ModelSpec], *, trusts_saved_model: bool) -> None:
    """Look at the earlier models that models are to be built on, as `read_trusted` does.

    Raises:
        SettingsError: If one of them is not complete, or brings a program that is not trusted.
        StorageError: If one cannot be read, or holds no network.
    """
    for spec in specs:
        if spec.name == SAVED:
            read_trusted(Location(spec.weights), trusts_saved_model=trusts_saved_model)


def refuse_programs(folder: Location, spec: str, *, trusts_saved_model: bool) -> None:
    """Stop before a network is opened that would run a program of others.

    Args:
        folder: With `model.keras`.
        spec: What `model.json` says that it was made from.
        trusts_saved_model: Whether it may hold a SavedModel.

    Raises:
        SettingsError: If it brings a program that is not trusted.
        StorageError: If it cannot be read, or is no file of Keras.
    """
    file = folder / NETWORK_FILE
    classes = read_layer_classes(folder)
    for name, what in (CODE | FOREIGN).items():
        if name in classes:
            raise SettingsError(
                f"{file.uri} has {what}, which is a program of whoever made it; it is not opened. "
                "Ask for the model without it"
            )
    if SAVED_MODEL_LAYER not in classes:
        return
    if spec.partition(":")[0] not in {HUB, SAVED}:
        raise SettingsError(f"{file.uri} holds a SavedModel, though model.json says {spec!r}; it is not opened")
    if not trusts_saved_model:
        raise SettingsError(
            f"{file.uri} holds a SavedModel, a program that may read and write files; "
            "if you trust whoever made it, add --trust-saved-model"
        )
