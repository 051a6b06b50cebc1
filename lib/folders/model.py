"""The model folder: `model.keras`, what it means (`model.json`), and how it came about."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lib.folders.output import read_complete
from lib.storage.location import Location
from lib.storage.tables import read_table, write_table

if TYPE_CHECKING:
    import keras

MODEL_FILE = "model.json"
NETWORK_FILE = "model.keras"
HISTORY_FILE = "history.parquet"
CURVES_FILE = "curves.png"
CURVES_SVG_FILE = "curves.svg"
SEEN_FILE = "seen_images.parquet"
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


def load_network(folder: Location) -> "keras.Model":
    """The trained network: uint8 RGB (n, image_size, image_size, 3) to logits (n, classes)."""
    import keras

    import lib.models.hub  # noqa: F401 - makes the layer that holds a SavedModel known to Keras

    with (folder / NETWORK_FILE).as_local_file() as file:
        return keras.saving.load_model(file, compile=False)


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
