"""Which weights a base starts from, as a SHA-256: told in `model.json`, and part of what features depend on."""

import hashlib

from lib.folders.model import NETWORK_FILE
from lib.models.spec import HUB, SAVED, ModelSpec
from lib.models.weights import file_digest, given_weights
from lib.storage.location import Location


def weights_digest(spec: ModelSpec, image_size: int) -> str | None:
    """The SHA-256 of the file that a base takes its weights from, in hexadecimal.

    That is the weights file of a Keras network, `model.keras` of an earlier model, and all files of a SavedModel
    together with their names; None where a network is trained from scratch.

    Raises:
        TissueError: If there is no such file, it is not the one that the SPEC's `sha256` names, or ImageNet weights
            cannot be had.
        StorageError: If it cannot be read.
    """
    if not spec.has_frozen_base:
        return None
    if spec.name == HUB:
        return _folder_digest(Location(spec.weights))
    if spec.name == SAVED:
        with (Location(spec.weights) / NETWORK_FILE).as_local_file() as file:
            return file_digest(file)
    if spec.weights == "imagenet":
        from lib.models.applications import require_weights  # the only weights that take Keras to find

        return file_digest(require_weights(spec, image_size))
    with given_weights(spec) as file:
        return file_digest(file)


def _folder_digest(folder: Location) -> str:
    digest = hashlib.sha256()
    for file in folder.list_files():
        content = hashlib.sha256((folder / file.path).read_bytes())
        digest.update(f"{content.hexdigest()}  {file.path}\n".encode())
    return digest.hexdigest()
