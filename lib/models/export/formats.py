"""A network as a function of TensorFlow from images to logits and probabilities, and its file in each format."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lib.models.export.runtimes import SIGNATURE, FloatArray, UInt8Array
from lib.models.onnx_encoder import OnnxLayer

OPSET = 17
"""Of ONNX: read by ONNX Runtime from 1.12 of July 2022 on."""


def network_logits(network: keras.Model, images: UInt8Array) -> FloatArray:
    """The logits of a network, float32 (n, classes), for uint8 images (n, size, size, 3)."""
    logits: FloatArray = network(images, training=False).numpy()
    return logits


def mixed_policy(network: keras.Model) -> str | None:
    """The name of the mixed precision that layers of a network compute in, or None."""
    names = {layer.dtype_policy.name for layer in _layers(network)}
    return next((name for name in sorted(names) if name.startswith("mixed_")), None)


def compute_in_float32(network: keras.Model) -> None:
    """Let every layer of a network compute in float32, as its weights are kept; changed in place.

    LiteRT has no operations on bfloat16, ONNX Runtime few.
    """
    for layer in _layers(network):
        if layer.dtype_policy.name.startswith("mixed_"):
            layer.dtype_policy = "float32"


def runs_onnx(network: keras.Model) -> bool:
    """Whether a network calls an ONNX network, which is no operation of TensorFlow and in no format of ours."""
    return any(isinstance(layer, OnnxLayer) for layer in _layers(network))


def _layers(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """Every layer, and those of the models among them."""
    for layer in network.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def serving_function(network: keras.Model) -> Any:
    """What is exported: a concrete function from `images` to `logits` and `probabilities`.

    Args:
        network: From uint8 RGB (n, size, size, 3) to logits. It must outlive the function, which holds its variables
            by weak references.
    """
    images_spec = tf.TensorSpec((None, *network.input_shape[1:]), tf.uint8, name="images")

    @tf.function(input_signature=[images_spec])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = network(images, training=False)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    return serve.get_concrete_function()


def write_exported(serve: Any, file: Path, file_format: str, quantize: str) -> None:
    """Write a model in the format that was asked for; see the functions below."""
    if file_format == "savedmodel":
        write_savedmodel(serve, file)
    elif file_format == "onnx":
        write_onnx(serve, file)
    else:
        write_tflite(serve, file, quantize)


def write_savedmodel(serve: Any, folder: Path) -> None:
    """Write a folder for TensorFlow Serving, `tf.saved_model.load` and TF Hub's loaders."""
    tf.saved_model.save(_holder(serve), folder, signatures={SIGNATURE: serve})


def write_onnx(serve: Any, file: Path) -> None:
    """Write a file for ONNX Runtime and all else that reads ONNX.

    tf2onnx takes whatever a function has captured for an input of the model, and EfficientNet's normalisation is a
    captured tensor: so the function is frozen first, which makes constants of all that it captured.

    Source:
        tf2onnx 1.17, `convert.from_function`: `input_names` are all of `concrete_func.inputs` but resources.
    """
    import onnx
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(serve, lower_control_flow=False, aggressive_inlining=True)
    (images_spec,) = serve.structured_input_signature[1].values() or serve.structured_input_signature[0]

    @tf.function(input_signature=[images_spec])  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def constant(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(sorted(serve.structured_outputs), frozen(images), strict=True))

    handlers: dict[str, Any] = {"Erfc": (_erfc_as_erf, [])}
    model, _ = tf2onnx.convert.from_function(constant, [images_spec], opset=OPSET, custom_op_handlers=handlers)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


def _erfc_as_erf(graph: Any, node: Any, *_: Any) -> None:
    """ONNX has no complementary error function, of which TensorFlow makes GELU: erfc(x) = 1 - erf(x)."""
    node.type = "Erf"
    negative = graph.insert_new_node_on_output("Neg", node.output[0])
    one = graph.make_const(f"{node.name}_one", np.array(1, np.float32))
    graph.insert_new_node_on_output("Add", negative.output[0], inputs=[negative.output[0], one.output[0]])


def write_tflite(serve: Any, file: Path, quantize: str) -> None:
    """Write a file for LiteRT (TensorFlow Lite), of its own operations alone.

    Args:
        serve: What is exported.
        quantize: `none`, `dynamic` (8-bit weights) or `float16` (16-bit weights).
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve], _holder(serve))
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    file.write_bytes(converter.convert())


def _holder(serve: Any) -> tf.Module:
    """An object that owns the variables of a function, those of a SavedModel inside a network too."""
    holder = tf.Module()
    holder.weights = list(serve.variables)
    return holder
