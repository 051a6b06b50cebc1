"""Exported models opened as their users will: by TensorFlow, by ONNX Runtime, by LiteRT."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.errors import SettingsError
from lib.models.probabilities import softmax

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating[Any]]

SIGNATURE = "serving_default"
"""What TensorFlow Serving asks for, and LiteRT."""
PACKAGES: Mapping[str, Mapping[str, str]] = {
    "savedmodel": {},
    "onnx": {"tf2onnx": "tf2onnx", "onnx": "onnx", "onnxruntime": "onnxruntime"},
    "tflite": {"ai_edge_litert": "ai-edge-litert"},
}
"""By format: module and package that it needs beside TensorFlow, to write it or to check it."""


@dataclass(frozen=True)
class Outputs:
    """What an exported model says of n images.

    Attributes:
        logits: Shape (n, classes).
        probabilities: Shape (n, classes).
    """

    logits: FloatArray
    probabilities: FloatArray

    @classmethod
    def of_logits(cls, logits: FloatArray) -> "Outputs":
        """Of a model that gives logits alone."""
        return cls(logits, softmax(logits))


Runner = Callable[[UInt8Array], Outputs]
"""From RGB images, uint8 (n, size, size, 3), to what the model says of them."""


def require_packages(file_format: str) -> None:
    """Refuse a format that cannot be written or checked here.

    Raises:
        SettingsError: If a package is not installed.
    """
    missing = [package for module, package in PACKAGES[file_format].items() if not importlib.util.find_spec(module)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise SettingsError(
            f"--format {file_format}: {', '.join(missing)} {verb} not installed; pip install {' '.join(missing)}"
        )


def runtime_versions(file_format: str) -> dict[str, str]:
    """The installed version of each package that wrote or checked an exported model."""
    return {package: version(package) for package in (*PACKAGES[file_format].values(), "tensorflow")}


def open_savedmodel(folder: Path) -> Runner:
    """A SavedModel in TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)

    def run(images: UInt8Array) -> Outputs:
        found = loaded.signatures[SIGNATURE](images=tf.constant(images))
        return Outputs(found["logits"].numpy(), found["probabilities"].numpy())

    return run


def open_onnx(file: Path) -> Runner:
    """An ONNX model in ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: Outputs(*session.run(["logits", "probabilities"], {"images": images}))


def open_tflite(file: Path) -> Runner:
    """A TensorFlow Lite model in LiteRT, which resizes the input to each batch."""
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(model_path=str(file)).get_signature_runner(SIGNATURE)

    def run(images: UInt8Array) -> Outputs:
        found = signature(images=images)
        return Outputs(found["logits"], found["probabilities"])

    return run


RUNTIMES: Mapping[str, Callable[[Path], Runner]] = {
    "savedmodel": open_savedmodel,
    "onnx": open_onnx,
    "tflite": open_tflite,
}
