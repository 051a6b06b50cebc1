"""What a `model.keras` says of itself, read without Keras, which would build what it describes."""

import json
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from lib.errors import StorageError
from lib.folders.model import NETWORK_FILE
from lib.storage.location import Location

DESCRIPTION = "config.json"


def read_layer_classes(folder: Location) -> set[str]:
    """The names of all classes in the description of a model's network, those of layers among them.

    Raises:
        StorageError: If the file cannot be read, or is none that Keras wrote.
    """
    file = folder / NETWORK_FILE
    classes = file.read_parts(_classes_in)
    if classes is None:
        raise StorageError(f"{file.uri} is no model that Keras saved, or a damaged one")
    return classes


def _classes_in(file: IO[bytes]) -> set[str] | None:
    try:
        with zipfile.ZipFile(file) as archive:
            return set(_classes(json.loads(archive.read(DESCRIPTION))))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError):
        return None


def _classes(config: Any) -> Iterator[str]:
    """Of a JSON value, also the classes that a name like `package>Class` ends in."""
    if isinstance(config, dict):
        for key in ("class_name", "registered_name"):
            if isinstance(name := config.get(key), str):
                yield name.rpartition(">")[2]
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)
