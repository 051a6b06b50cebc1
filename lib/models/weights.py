"""Which weights a base starts from, as a SHA-256: told in `model.json`, and compared with the `sha256` of a SPEC.

Keras is imported only for ImageNet weights, whose files Keras alone knows.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.errors import TissueError
from lib.folders.model import NETWORK_FILE
from lib.models.spec import HUB, SAVED, ModelSpec
from lib.storage.location import Location


def weights_digest(spec: ModelSpec, image_size: int) -> str | None:
    """The SHA-256 of the file that a base takes its weights from, in hexadecimal.

    That is the weights file of a Keras network, `model.keras` of an earlier model, and all files of a SavedModel
    together with their names; None where a network is trained from scratch.

    Raises:
        TissueError: If there is no such file, or it is not the one that the SPEC's `sha256` names.
        StorageError: If it cannot be read.
    """
    if not spec.has_frozen_base:
        return None
    if spec.name == HUB:
        return _folder_digest(Location(spec.weights))
    if spec.name == SAVED:
        with (Location(spec.weights) / NETWORK_FILE).as_local_file() as file:
            return _file_digest(file)
    with weights_file(spec, image_size) as file:
        return _file_digest(file)


@contextmanager
def weights_file(spec: ModelSpec, image_size: int) -> Iterator[Path]:
    """The weights file of a Keras network on this machine, fetched if need be, and proven to be the one meant.

    Raises:
        TissueError: If it is not the file that the SPEC's `sha256` names, or ImageNet weights cannot be had.
        StorageError: If it cannot be read.
    """
    if spec.weights == "imagenet":
        from lib.models.applications import require_weights

        yield require_weights(spec, image_size)
        return
    with Location(spec.weights).as_local_file() as file:
        if spec.sha256 is not None and (found := _file_digest(file)) != spec.sha256:
            raise TissueError(f"the weights {spec.weights} are another file: sha256 is {found}, expected {spec.sha256}")
        yield file


def _file_digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _folder_digest(folder: Location) -> str:
    digest = hashlib.sha256()
    for file in folder.list_files():
        content = hashlib.sha256((folder / file.path).read_bytes())
        digest.update(f"{content.hexdigest()}  {file.path}\n".encode())
    return digest.hexdigest()
