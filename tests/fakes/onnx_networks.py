"""Small ONNX networks as users of PyTorch export them, and what they compute."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 5
KERNEL = np.random.default_rng(3).normal(0, 1, (WIDTH, 3, 2, 2)).astype(np.float32)
ELEMENTS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}


def write_onnx(
    file: Path,
    shape: tuple[int | str, ...] = ("n", 3, "height", "width"),
    outputs: tuple[str, ...] = ("features",),
    dtype: type = np.float32,
    external: str = "",
) -> Path:
    """A convolution of 2 by 2 without overlap, ReLU, and the mean over all places.

    Args:
        file: Where to.
        shape: Of the images, NCHW or NHWC.
        outputs: Of `features`, `map` and `count`.
        dtype: Of images and features.
        external: File beside it for the weights.
    """
    element = ELEMENTS[np.dtype(dtype)]
    first = shape[1] == 3
    nodes = [] if first else [helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node("Conv", ["images" if first else "nchw", "kernel"], ["linear"], strides=[2, 2]),
        helper.make_node("Relu", ["linear"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Shape", ["features"], ["count"]),
    ]
    kinds = {
        "features": helper.make_tensor_value_info("features", element, ["n", WIDTH]),
        "map": helper.make_tensor_value_info("map", element, ["n", WIDTH, "rows", "columns"]),
        "count": helper.make_tensor_value_info("count", TensorProto.INT64, [2]),
    }
    graph = helper.make_graph(
        nodes,
        "extractor",
        [helper.make_tensor_value_info("images", element, list(shape))],
        [kinds[name] for name in outputs],
        [numpy_helper.from_array(KERNEL.astype(dtype), "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    save = {"save_as_external_data": True, "location": external, "size_threshold": 0} if external else {}
    onnx.save(model, file, **save)
    return file


def expected_features(pixels: np.ndarray) -> np.ndarray:
    """What the network makes of pixels (n, height, width, 3) that were standardised already, in float64."""
    n, height, width, _ = pixels.shape
    blocks = pixels[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, 3)
    linear = np.einsum("nrycxk,okyx->nrco", blocks.astype(np.float64), KERNEL.astype(np.float64))
    return np.maximum(linear, 0).mean((1, 2))
