"""The model folder: `model.keras`, what it means (`model.json`), and how it came about."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lib.folders.output import read_complete
from lib.storage.location import Location
from lib.storage.tables import read_table, write_table

MODEL_FILE = "model.json"
NETWORK_FILE = "model.keras"
HISTORY_FILE = "history.parquet"
CURVES_FILE = "curves.png"
CURVES_SVG_FILE = "curves.svg"
SEEN_FILE = "seen_images.parquet"
FloatArray = npt.NDArray[np.float32]
SeenImage = tuple[str, str]
"""`image_id`, which is unique within a data set only, and checksum."""
SEEN_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("checksum", pa.string(), nullable=False)]
)


def read_model_record(folder: Location) -> dict[str, Any]:
    """The content of `model.json`.

    Raises:
        SettingsError: If the folder is not complete.
    """
    return read_complete(folder, MODEL_FILE, made_by="train")


def write_seen_images(seen: Iterable[SeenImage], folder: Location) -> None:
    """Keep which images a model was trained or validated on, so that no test score is computed on one of them.

    Args:
        seen: Every such image; those of an earlier model that this one is built on too.
        folder: The model folder.
    """
    rows = [{"image_id": image_id, "checksum": checksum} for image_id, checksum in sorted(seen)]
    write_table(pa.Table.from_pylist(rows, schema=SEEN_SCHEMA), folder / SEEN_FILE)


def read_seen_images(folder: Location) -> set[SeenImage]:
    """The images that a model, or one it was built on, was trained or validated on."""
    seen = read_table(folder / SEEN_FILE)
    return set(zip(seen["image_id"].to_pylist(), seen["checksum"].to_pylist(), strict=True))


REFERENCE_FILE = "reference.parquet"


REFERENCE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),  # unit length; as many for every image
    ]
)


def write_reference(
    images: pa.Table, class_names: Sequence[str], probabilities: FloatArray, embeddings: FloatArray, folder: Location
) -> None:
    """Write the reference images of a model.

    Args:
        images: Their `image_id`, `path` and `label`.
        class_names: The classes in order.
        probabilities: float32 (n, classes).
        embeddings: float32 (n, d), each row of unit length.
        folder: The model folder.
    """
    ends = np.arange(len(embeddings) + 1, dtype=np.int32) * embeddings.shape[1]
    columns = {name: images[name] for name in ("image_id", "path", "label")} | {
        "predicted": pa.array(class_names, pa.string()).take(pa.array(probabilities.argmax(axis=1))),
        "confidence": pa.array(probabilities.max(axis=1)),
        "embedding": pa.ListArray.from_arrays(pa.array(ends), pa.array(embeddings.ravel())),
    }
    write_table(pa.table(columns, schema=REFERENCE_SCHEMA), folder / REFERENCE_FILE)


HISTORY_SCHEMA = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),  # from 1, over all phases
        pa.field("phase", pa.string(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("accuracy", pa.float64(), nullable=False),
        pa.field("val_loss", pa.float64()),
        pa.field("val_accuracy", pa.float64()),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # validation included
        pa.field("images_per_s", pa.float64(), nullable=False),  # over all workers, validation not included
        pa.field("wait_share", pa.float64(), nullable=False),  # of the time of training, on rank 0
    ]
)
