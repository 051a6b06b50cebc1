"""A SavedModel, as TF Hub offers them, as a frozen base: `hub:path=URI[,output=KEY][,sha256=HEX]`.

`hub.KerasLayer` does not work with Keras 3, and `keras.layers.TFSMLayer` keeps only the path of a SavedModel, so that a
model that holds one cannot be opened where that path is not. The layer here has the SavedModel's files among its
assets: `model.keras` is complete in itself.

A SavedModel is a program that may read and write files: use only those you trust, alone or in a `model.keras`. So the
layer is not registered with Keras: its class is named when a file is opened that is trusted (`SAVED_MODEL_LAYERS`).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from lib.errors import SettingsError, one_line
from lib.models.archive import unpack_saved_model
from lib.models.closed import ClosedLayer, ClosedNetwork
from lib.models.inputs import image_input
from lib.models.spec import HUB, ModelSpec
from lib.models.weights import copy_folder, given_weights

DEFAULT_SIGNATURE = "serving_default"
IMAGE_RANK = 4


def build_hub_base(spec: ModelSpec, image_size: int) -> keras.Model:
    """A SavedModel fed as TF Hub's image models are: with RGB values from 0 to 1.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to features, float32 (n, d).

    Raises:
        SettingsError: If the SavedModel does not take such images, or has several outputs and none was chosen.
        TissueError: If it is not the one that the SPEC's `sha256` names.
        StorageError: If it cannot be read.
    """
    try:
        saved_model = SavedModel.fetch(spec)
        output, width = saved_model.output_for(image_size, spec.output)
    except ValueError as error:
        raise SettingsError(f"model {spec.text!r}: {error}") from error
    images = image_input(image_size)
    pixels = keras.layers.Rescaling(1 / 255, dtype="float32", name="rescaling")(images)
    layer = SavedModelLayer(output, width, name=HUB)
    layer.network = saved_model
    return keras.Model(images, layer(pixels), name="base")


class SavedModel(ClosedNetwork):
    """A copy of a SavedModel, and the function that it serves."""

    def __init__(self, fill: Callable[[Path], None]) -> None:
        """Load what `fill` puts into an empty folder.

        Raises:
            ValueError: If it is no SavedModel, or it is not clear by which signature to call it.
        """
        super().__init__(fill)
        try:
            self._loaded = tf.saved_model.load(self.folder)  # kept, since its functions do not keep its variables
        except (OSError, tf.errors.OpError) as error:
            raise ValueError(f"it cannot be loaded: {one_line(error)[:300]}") from error
        self._function = _serving_signature(self._loaded.signatures)

    @classmethod
    def fetch(cls, spec: ModelSpec) -> "SavedModel":
        """A copy of the SavedModel that a SPEC names: a folder or an archive.

        Raises:
            TissueError: If it is not the one that the SPEC's `sha256` names.
            StorageError: If it cannot be read.
        """
        return cls(partial(_unpack if spec.is_archive else copy_folder, spec))

    def __call__(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """The outputs by name, for float32 (n, height, width, 3)."""
        (name,) = self._inputs
        outputs: dict[str, tf.Tensor] = self._function(**{name: pixels})
        return outputs

    @property
    def _inputs(self) -> dict[str, tf.TensorSpec]:
        inputs: dict[str, tf.TensorSpec] = self._function.structured_input_signature[1]
        return inputs

    def output_for(self, image_size: int, wanted: str | None) -> tuple[str, int]:
        """The name of the output that has the features, and how many features an image has.

        Raises:
            ValueError: If it does not take images of this size, or it is not clear which output is meant.
        """
        self._check_input(image_size)
        try:
            outputs = self(tf.zeros((1, image_size, image_size, 3)))
        except tf.errors.OpError as error:
            raise ValueError(f"it does not run on images of {image_size} px: {error.message[:300]}") from error
        if wanted is None and len(outputs) > 1:
            raise ValueError(f"it has the outputs {', '.join(sorted(outputs))}; choose one with output=KEY")
        if wanted is not None and wanted not in outputs:
            raise ValueError(f"it has no output {wanted!r}; it has {', '.join(sorted(outputs))}")
        name = wanted or next(iter(outputs))
        if len(outputs[name].shape) != 2 or not outputs[name].dtype.is_floating:  # noqa: PLR2004 - (n, d)
            raise ValueError(
                f"its output {name!r} is {_described(outputs[name])} for one image; expected features, float (1, d)"
            )
        return name, int(outputs[name].shape[1])

    def _check_input(self, image_size: int) -> None:
        if len(self._inputs) != 1:
            raise ValueError(f"it takes {len(self._inputs)} inputs ({', '.join(self._inputs)}); expected one of images")
        (spec,) = self._inputs.values()
        expected = tf.TensorShape((None, image_size, image_size, 3))
        if spec.dtype != tf.float32 or not spec.shape.is_compatible_with(expected) or _batch_size(spec) is not None:
            fits_otherwise = spec.shape.rank == IMAGE_RANK and spec.shape[1] == spec.shape[2] and spec.shape[1]
            advice = f"; try --image-size {spec.shape[1]}" if fits_otherwise and spec.shape[1] != image_size else ""
            raise ValueError(
                f"it takes {_described(spec)}; with --image-size {image_size} it must take float32 "
                f"(None, {image_size}, {image_size}, 3){advice}"
            )


def _unpack(spec: ModelSpec, folder: Path) -> None:
    with given_weights(spec) as archive:
        unpack_saved_model(archive, folder)


def _serving_signature(signatures: Any) -> Any:
    names = sorted(signatures)
    if DEFAULT_SIGNATURE in names:
        return signatures[DEFAULT_SIGNATURE]
    if len(names) == 1:
        return signatures[names[0]]
    found = f"only {', '.join(names)}" if names else "none at all"
    raise ValueError(
        f"it has no signature {DEFAULT_SIGNATURE!r} to call it by, {found}; export it with "
        "`tf.saved_model.save(module, folder, signatures=...)` or Keras's `model.export(folder)`"
    )


def _batch_size(spec: tf.TensorSpec) -> int | None:
    return spec.shape[0] if spec.shape.rank else None


def _described(tensor: tf.Tensor | tf.TensorSpec) -> str:
    return f"{tensor.dtype.name} {tuple(tensor.shape) if tensor.shape.rank is not None else 'of any shape'}"


class SavedModelLayer(ClosedLayer[SavedModel]):
    """Calls a SavedModel."""

    kind = SavedModel

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        """Features, float32 (n, width), of images, float32 (n, height, width, 3) from 0 to 1."""
        return tf.cast(self.held(pixels)[self.output_name], tf.float32)


SAVED_MODEL_LAYERS = dict.fromkeys(("SavedModelLayer", "tissue>SavedModelLayer"), SavedModelLayer)
"""The `custom_objects` of `keras.saving.load_model` for a file with a SavedModel: by its name, and its former one."""
