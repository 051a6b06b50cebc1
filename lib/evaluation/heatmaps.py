"""Heatmaps of the worst errors of a model: `grad_cam/*.parquet`, with the image beside each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.source import image_array
from lib.ingest.image import encode_jpeg
from lib.storage.location import Location
from lib.storage.tables import read_table

if TYPE_CHECKING:
    from lib.models.grad_cam import GradCam

GRAD_CAM_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # JPEG of what the network saw
        pa.field("heatmap", pa.binary(), nullable=False),  # PNG, 8-bit gray, of what spoke for `predicted`
    ]
)
GRAD_CAM = "grad_cam"
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


def read_grad_cam(output: Location) -> pa.Table:
    """The heatmaps below a folder (`GRAD_CAM_SCHEMA`), the most confident errors first; perhaps none."""
    if not (output / GRAD_CAM).list_files():
        return GRAD_CAM_SCHEMA.empty_table()
    return read_table(output / GRAD_CAM).sort_by([("confidence", "descending"), ("image_id", "ascending")])
