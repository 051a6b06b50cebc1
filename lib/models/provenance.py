"""Which weights a base starts from, as a SHA-256: told in `model.json`, and part of what features depend on."""

from lib.folders.model import NETWORK_FILE
from lib.models.spec import KERAS_HUB, SAVED, ModelSpec
from lib.models.weights import file_digest, folder_digest, given_weights, require_digest
from lib.storage.location import Location


def weights_digest(spec: ModelSpec, image_size: int) -> str | None:
    """The SHA-256 of the file that a base takes its weights from, in hexadecimal.

    That is the weights file of a Keras network, `model.keras` of an earlier model, an ONNX file, the archive of a
    SavedModel, or all files of a folder together with their names; None where a network is trained from scratch.

    Raises:
        TissueError: If there is no such file, it is not the one that the SPEC's `sha256` names, or ImageNet weights
            cannot be had.
        StorageError: If it cannot be read.
    """
    if not spec.has_frozen_base:
        return None
    if spec.is_folder:
        digest = folder_digest(Location(spec.weights))
        require_digest(spec, digest)
        return digest
    if spec.name == KERAS_HUB:
        from lib.models.keras_hub_encoder import preset_folder  # which imports Keras

        with preset_folder(spec) as folder:
            return folder_digest(Location(str(folder)))
    if spec.name == SAVED:
        with (Location(spec.weights) / NETWORK_FILE).as_local_file() as file:
            return file_digest(file)
    if spec.weights == "imagenet":
        from lib.models.applications import require_weights  # the only weights that take Keras to find

        return file_digest(require_weights(spec, image_size))
    with given_weights(spec) as file:
        return file_digest(file)
