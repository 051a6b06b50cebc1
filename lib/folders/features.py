"""The feature folder: what a frozen base makes of each image, kept as Parquet."""

import pyarrow as pa

from lib.folders.parts import part_name
from lib.storage.location import Location
from lib.storage.tables import footer, read_table, write_table

FEATURES = "features"
"""The folder of all of them, where no other is named."""
FEATURE_SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("checksum", pa.string()),
        pa.field("features", pa.list_(pa.float32())),  # as many for every image; null if refused
        pa.field("reason", pa.string()),  # null unless refused
        pa.field("detail", pa.string()),
    ]
)
WIDTH_KEY = b"width"
"""In the footer of each part: how many features an image has, known even where all of them were refused."""


def write_features(features: pa.Table, folder: Location, first: int) -> None:
    """Write the features (`FEATURE_SCHEMA`) of a unit that begins at a position."""
    write_table(features, folder / part_name(first))


def read_features(folder: Location, first: int) -> pa.Table:
    """The features of a unit.

    Raises:
        StorageError: If they cannot be read.
    """
    return read_table(folder / part_name(first))


def read_width(folder: Location, first: int) -> int:
    """How many features an image has, read from a part without its rows."""
    return int(footer(folder / part_name(first))[WIDTH_KEY])
