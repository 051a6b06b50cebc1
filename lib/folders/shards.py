"""The Parquet shards of a dataset. A shard carries the verdicts of its unit in its footer, refused images included.

So shard and account are one object, written in one step: a shard that exists is a unit that is done.
"""

import hashlib
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lib.errors import StorageError
from lib.folders.manifest import MANIFEST_SCHEMA
from lib.folders.record import Record
from lib.storage.location import Location
from lib.storage.tables import Row, footer, read_table_file, rows_as_json, write_table

SHARD_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
    ]
)
SHARD_NAME_TYPE = pa.dictionary(pa.int32(), pa.string())
"""The name once and not in each row: beside a million rows it would be the longest column but for their paths."""
VERDICTS_KEY = b"verdicts"


class ImageEncoding(Record):
    """How the images of shards are encoded."""

    format: str
    quality: int
    """Of a JPEG, 1 to 100."""


class ShardFile(Record):
    """One shard, as `dataset.json` lists it."""

    file: str
    split: str
    images: int


def shards_of(dataset: Location) -> Location:
    """The folder of shards of a dataset folder."""
    return dataset / "images"


def write_shard(images: list[Row], verdicts: pa.Table, location: Location) -> None:
    """Write the accepted images of a unit, and the verdicts on all of its files."""
    metadata = {VERDICTS_KEY: rows_as_json(verdicts)}
    write_table(pa.Table.from_pylist(images, schema=SHARD_SCHEMA.with_metadata(metadata)), location)


def shard_name(split: str | None, place: str, content: object) -> str:
    """A file name that changes with what the shard is made from."""
    digest = hashlib.blake2b(repr(content).encode(), digest_size=4).hexdigest()
    return f"{split or 'images'}-{place}-{digest}.parquet"


def shard_column(shard: str, rows: int) -> pa.DictionaryArray:
    """The name of a shard beside each of its rows (`SHARD_NAME_TYPE`)."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([shard], pa.string()))


def read_shard(location: Location, columns: list[str] | None = None) -> pa.Table:
    """The images of a shard (`SHARD_SCHEMA`), or some columns of it.

    Raises:
        StorageError: If it cannot be read as Parquet.
    """
    return read_table_file(location, columns)


def read_shard_names(location: Location, columns: list[str]) -> pa.Table:
    """Some columns of a shard, fetched without the others.

    Raises:
        StorageError: If it cannot be read.
    """
    return location.read_parts(partial(pq.read_table, columns=columns))


def read_verdicts(location: Location) -> pa.Table:
    """The verdicts in the footer of a shard (`MANIFEST_SCHEMA`), read without its images.

    Raises:
        StorageError: If it is not a shard of ours.
    """
    verdicts = footer(location).get(VERDICTS_KEY)
    if verdicts is None:
        raise StorageError(f"{location.uri} has no verdicts in its footer; it is not a shard of a dataset folder")
    return pa.Table.from_pylist(json.loads(verdicts), schema=MANIFEST_SCHEMA)
