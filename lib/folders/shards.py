"""The Parquet shards of a dataset. A shard carries the verdicts of its unit in its footer, refused images included.

So shard and account are one object, written in one step: a shard that exists is a unit that is done.

Training that streams reads a row group at a time, each with the footer: so row groups are small, and verdicts packed.
"""

import base64
import hashlib
import json
import zlib
from functools import partial
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lib.errors import StorageError
from lib.folders.columns import SITE_FIELDS
from lib.folders.manifest import MANIFEST_SCHEMA
from lib.folders.record import Record
from lib.storage.location import Location
from lib.storage.tables import Row, completed, footer, read_parquet_parts, read_table_file, rows_as_json

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
        *SITE_FIELDS,
    ]
)
SHARD_NAME_TYPE = pa.dictionary(pa.int32(), pa.string())
"""The name once and not in each row: beside a million rows it would be the longest column but for their paths."""
VERDICTS_KEY = b"verdicts.zlib"
"""A JSON list of the verdicts, packed by zlib, in base64."""
PLAIN_VERDICTS_KEY = b"verdicts"
"""The same list as it is, in shards of earlier versions."""
IMAGES_PER_ROW_GROUP = 64
"""The footer then is about 5 % of what is read with it: 33 kB beside 64 JPEGs of 224 px, which are 900 kB."""


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
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SHARD_SCHEMA, write_page_checksum=True) as writer:
        writer.write_table(pa.Table.from_pylist(images, schema=SHARD_SCHEMA), row_group_size=IMAGES_PER_ROW_GROUP)
        # Not in the schema, which the footer holds twice.
        writer.add_key_value_metadata({VERDICTS_KEY: base64.b64encode(zlib.compress(rows_as_json(verdicts)))})
    location.write_bytes(sink.getvalue().to_pybytes())


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
    return read_table_file(location, columns, SHARD_SCHEMA)


def read_shard_rows(location: Location, rows: pa.ChunkedArray, columns: list[str]) -> pa.Table:
    """Some images of a shard; where they are few, fetched without the row groups that have none of them.

    Args:
        rows: Their numbers, ascending, at least one.
        columns: What to read of them.

    Raises:
        StorageError: If it cannot be read as Parquet, or is not as it was written.
    """
    if len(rows) > IMAGES_PER_ROW_GROUP:
        return read_shard(location, columns).take(rows)
    return read_parquet_parts(location, partial(_rows_of, rows=rows.to_numpy(), columns=columns))


def _rows_of(file: IO[bytes], rows: npt.NDArray[np.int64], columns: list[str]) -> pa.Table:
    shard = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
    sizes = [shard.metadata.row_group(number).num_rows for number in range(shard.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    first, last = np.searchsorted(starts, rows[[0, -1]], side="right") - 1
    found = shard.read_row_groups(list(range(first, last + 1)), columns)
    return completed(found, columns, SHARD_SCHEMA).take(rows - starts[first])


def read_shard_names(location: Location, columns: list[str]) -> pa.Table:
    """Some columns of a shard, fetched without the others.

    Raises:
        StorageError: If it cannot be read as Parquet.
    """
    return read_parquet_parts(location, partial(pq.read_table, columns=columns))


def read_verdicts(location: Location) -> pa.Table:
    """The verdicts in the footer of a shard (`MANIFEST_SCHEMA`), read without its images.

    Raises:
        StorageError: If it is not a shard of ours.
    """
    known = footer(location)
    if VERDICTS_KEY in known:
        verdicts = zlib.decompress(base64.b64decode(known[VERDICTS_KEY]))
    elif PLAIN_VERDICTS_KEY in known:
        verdicts = known[PLAIN_VERDICTS_KEY]
    else:
        raise StorageError(f"{location.uri} has no verdicts in its footer; it is not a shard of a dataset folder")
    return pa.Table.from_pylist(json.loads(verdicts), schema=MANIFEST_SCHEMA)
