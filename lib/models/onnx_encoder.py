"""An ONNX network as a frozen base: `onnx:path=URI[,output=NAME,size=PX,mean=R/G/B,std=R/G/B,sha256=HEX]`.

This is what users of PyTorch export. It runs in ONNX Runtime, which TensorFlow calls: the layer here has the files
among its assets, so that `model.keras` is complete in itself, but only programs that have this module and ONNX Runtime
can use it. Keras finds the layer's class if this module is imported before `keras.saving.load_model` is called, as
`lib.models.saved.load_network` does.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from lib.errors import SettingsError, TissueError, one_line
from lib.models.channels import CHANNELS, MEAN, STD, channel_values
from lib.models.closed import ClosedLayer, ClosedNetwork
from lib.models.inputs import image_input, standardised
from lib.models.spec import ONNX, ONNX_ENDING, ModelSpec
from lib.models.weights import copy_folder, given_weights

FloatArray = npt.NDArray[np.float32]
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""What may run a network, the first that is there."""
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
IMAGE_RANK, FEATURE_RANK = 4, 2


def build_onnx_base(spec: ModelSpec, image_size: int) -> keras.Model:
    """An ONNX network from images, NCHW or NHWC, to features, with its preprocessing before it.

    Images are resized to the SPEC's `size` if it has one (bicubic, antialiased), brought to 0 to 1, and standardised by
    the SPEC's `mean` and `std`.

    Returns:
        A model from uint8 RGB (n, image_size, image_size, 3) to features, float32 (n, d).

    Raises:
        SettingsError: If the network does not take such images, or has several outputs and none was chosen.
        TissueError: If it is not the one that the SPEC's `sha256` names, or ONNX Runtime is not installed.
        StorageError: If it cannot be read.
    """
    size = int(spec.options.get("size", image_size))
    try:
        network = OnnxNetwork.fetch(spec)
        output, width = network.output_for(size, spec.output)
    except ValueError as error:
        raise SettingsError(f"model {spec.text!r}: {error}") from error
    images = image_input(image_size)
    mean, std = (channel_values(spec.options, key) for key in (MEAN, STD))
    layer = OnnxLayer(output, width, name=ONNX)
    layer.network = network
    return keras.Model(images, layer(standardised(images, size, mean, std)), name="base")


class OnnxNetwork(ClosedNetwork):
    """A copy of the files of an ONNX network, and its session."""

    def __init__(self, fill: Callable[[Path], None]) -> None:
        """Load what `fill` puts into an empty folder.

        Raises:
            ValueError: If it cannot be loaded, or does not take one batch of images.
            TissueError: If ONNX Runtime is not installed.
        """
        super().__init__(fill)
        self._session = _session(_onnx_file(self.folder))
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise ValueError(f"it takes {len(inputs)} inputs ({names}); expected one of images")
        self._input = inputs[0]
        self._channels_first = _channels_first(self._input)

    @classmethod
    def fetch(cls, spec: ModelSpec) -> "OnnxNetwork":
        """A copy of the network that a SPEC names: a file, or a folder with the file and its weights.

        Raises:
            TissueError: If it is not the one that the SPEC's `sha256` names.
            StorageError: If it cannot be read.
        """
        return cls(partial(copy_folder if spec.is_folder else _copy_file, spec))

    def __call__(self, pixels: FloatArray, output: str) -> npt.NDArray[Any]:
        """An output, for float32 (n, height, width, 3); a network of a fixed batch of one runs once for each image."""
        images = np.ascontiguousarray(np.moveaxis(pixels, 3, 1) if self._channels_first else pixels)
        images = images.astype(INPUT_TYPES[self._input.type], copy=False)
        parts = images[:, None] if self._input.shape[0] == 1 else images[None]
        return np.concatenate([self._session.run([output], {self._input.name: part})[0] for part in parts])

    def output_for(self, image_size: int, wanted: str | None) -> tuple[str, int]:
        """The name of the output that has the features, and how many features an image has.

        Raises:
            ValueError: If it does not take images of this size, or it is not clear which output is meant.
        """
        self._check_input(image_size)
        names = [output.name for output in self._session.get_outputs()]
        if wanted is None and len(names) > 1:
            raise ValueError(f"it has the outputs {', '.join(sorted(names))}; choose one with output=NAME")
        if wanted is not None and wanted not in names:
            raise ValueError(f"it has no output {wanted!r}; it has {', '.join(sorted(names))}")
        name = wanted or names[0]
        try:
            features = self(np.zeros((2, image_size, image_size, CHANNELS), np.float32), name)
        except Exception as error:  # ONNX Runtime raises its own kinds, which have no common parent but this
            raise ValueError(f"it does not run on images of {image_size} px: {one_line(error)[:300]}") from error
        if features.ndim != FEATURE_RANK or len(features) != 2 or features.dtype.kind != "f":  # noqa: PLR2004 - two images
            raise ValueError(
                f"its output {name!r} is {features.dtype} {features.shape} for two images; "
                "expected features, float (2, d)"
            )
        return name, features.shape[1]

    def _check_input(self, image_size: int) -> None:
        batch, *sides = self._input.shape
        height, width = sides[1:] if self._channels_first else sides[:2]
        if isinstance(batch, int) and batch != 1:
            raise ValueError(f"it takes {batch} images at a time; export it with a batch of any size")
        if any(isinstance(side, int) and side != image_size for side in (height, width)):
            advice = f"; give size={height} to have images resized, or --image-size {height}" if height == width else ""
            raise ValueError(f"it takes images of {height} x {width} px, not {image_size} px{advice}")


def _copy_file(spec: ModelSpec, folder: Path) -> None:
    with given_weights(spec) as file:
        shutil.copyfile(file, folder / f"model{ONNX_ENDING}")


def _onnx_file(folder: Path) -> Path:
    files = sorted(folder.glob(f"*{ONNX_ENDING}"))
    if len(files) != 1:
        raise ValueError(f"the folder has {len(files)} files *{ONNX_ENDING}; expected one, with its weights beside it")
    return files[0]


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise TissueError("onnx: needs ONNX Runtime, which is not installed here: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised too
    providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own kinds, which have no common parent but this
        advice = ""
        if "external data" in str(error).lower():
            advice = "; its weights are in files of their own: give the folder that holds them all"
        raise ValueError(f"it cannot be loaded{advice}: {one_line(error)[:300]}") from error


def _channels_first(images: Any) -> bool:
    shape = images.shape
    if images.type not in INPUT_TYPES or len(shape) != IMAGE_RANK or CHANNELS not in (shape[1], shape[3]):
        raise ValueError(
            f"it takes {images.type} {tuple(shape)}; expected float images, (n, 3, height, width) or "
            "(n, height, width, 3)"
        )
    return bool(shape[1] == CHANNELS)


@keras.saving.register_keras_serializable(package="tissue")
class OnnxLayer(ClosedLayer[OnnxNetwork]):
    """Calls an ONNX network."""

    kind = OnnxNetwork

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        """Features, float32 (n, width), of images, float32 (n, height, width, 3)."""
        return tf.ensure_shape(tf.numpy_function(self._run, [pixels], tf.float32), (None, self.width))

    def _run(self, pixels: FloatArray) -> FloatArray:
        if not len(pixels):
            return np.zeros((0, self.width), np.float32)
        return self.held(pixels, self.output_name).astype(np.float32, copy=False)
