"""Heatmaps of the worst errors of a model: `grad_cam/*.parquet`, with the image beside each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.source import image_array
from lib.folders.predictions import GRAD_CAM_SCHEMA
from lib.ingest.image import encode_jpeg

if TYPE_CHECKING:
    from lib.models.grad_cam import GradCam

ERRORS_OF_UNIT = 3
JPEG_QUALITY = 95


def most_confident_errors(predictions: pa.Table, most: int = ERRORS_OF_UNIT) -> npt.NDArray[np.int64]:
    """The rows of wrong predictions, the most confident first; where no label is known, nothing is wrong."""
    wrong = np.flatnonzero(pc.fill_null(pc.invert(predictions["correct"]), False).to_numpy())
    order = np.argsort(-predictions["confidence"].to_numpy()[wrong], kind="stable")
    return wrong[order[:most]]


def grad_cam_table(errors: pa.Table, images: pa.Table, class_names: Sequence[str], grad_cam: "GradCam") -> pa.Table:
    """Rows of `GRAD_CAM_SCHEMA`.

    Args:
        errors: Predictions of images with a label, at least one.
        images: The same images (`DECODED_SCHEMA`).
        class_names: The classes in order.
        grad_cam: Of the network that predicted them.
    """
    pixels = image_array(images, grad_cam.image_size)
    classes = pc.index_in(errors["predicted"], pa.array(class_names, pa.string())).to_numpy()
    gray = np.rint(grad_cam(pixels, classes) * 255).astype(np.uint8)
    values = {name: errors[name] for name in ("image_id", "label", "predicted", "confidence")}
    values["image"] = [encode_jpeg(image, JPEG_QUALITY) for image in pixels]
    values["heatmap"] = [bytes(cv2.imencode(".png", heatmap)[1]) for heatmap in gray]
    return pa.table(values, schema=GRAD_CAM_SCHEMA)
