"""What of an earlier conversion still holds after its source has changed: for `convert --update`."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.folders.manifest import MANIFEST_SCHEMA
from lib.folders.shards import SHARD_NAME_TYPE, read_shard, read_verdicts, shard_column, shard_name, write_shard
from lib.ingest.listing import Listing
from lib.storage.location import Location

CONVERTED_SCHEMA = MANIFEST_SCHEMA.append(pa.field("shard", SHARD_NAME_TYPE, nullable=False))
"""In memory only."""


@dataclass(frozen=True)
class Earlier:
    """The part of an earlier conversion that is kept.

    Attributes:
        verdicts: On the unchanged files (`CONVERTED_SCHEMA`); they keep the split they had.
        remaining: The listing without the unchanged files.
    """

    verdicts: list[pa.Table]
    remaining: Listing


def keep_unchanged(listing: Listing, images: Location) -> Earlier:
    """Find the shards, and the rows of shards, whose files are listed as they were.

    A shard that has lost a file is written anew without it; no image is fetched or decoded for that.

    Args:
        listing: The source as it is now.
        images: The folder of shards.
    """
    shards = [with_shard(read_verdicts(images / file.path), file.path) for file in images.list_files()]
    then = pa.concat_tables([CONVERTED_SCHEMA.empty_table(), *shards])
    holds = _unchanged(then, listing.images)
    kept: list[pa.Table] = []
    first = 0
    for verdicts in shards:
        held = holds.slice(first, verdicts.num_rows)
        first += verdicts.num_rows
        if held.true_count == verdicts.num_rows:
            kept.append(verdicts)
        elif held.true_count:
            kept.append(_without_changed(images, verdicts["shard"][0].as_py(), verdicts.filter(held)))
    done = then["image_id"].filter(holds)
    remaining = listing.images.filter(pc.invert(pc.is_in(listing.images["image_id"], done)))
    return Earlier(kept, replace(listing, images=remaining))


def with_shard(verdicts: pa.Table, shard: str) -> pa.Table:
    """Verdicts with the name of their shard beside them (`CONVERTED_SCHEMA`)."""
    return verdicts.append_column("shard", shard_column(shard, verdicts.num_rows)).cast(CONVERTED_SCHEMA)


def _unchanged(then: pa.Table, now: pa.Table) -> pa.BooleanArray:
    """Which of the earlier verdicts are on a file that is listed as it was; of several on one file, the first."""
    listed = pc.index_in(then["image_id"], now["image_id"]).combine_chunks()
    numbers = pc.fill_null(listed, -1).to_numpy(zero_copy_only=False)
    first = np.zeros(len(numbers), bool)
    first[np.unique(numbers, return_index=True)[1]] = True
    same = pc.and_(pa.array(first), pc.is_valid(listed))
    for name in ("path", "size_bytes", "version", "label", "group", "site", "columns"):
        same = pc.and_(same, _equal(then[name], now[name].take(listed)))
    return pc.and_(same, _equal(pc.equal(then["split"], "test"), pc.equal(now["split"].take(listed), "test")))


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.BooleanArray:
    """Whether values are equal, two nulls being so."""
    both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    equal: pa.ChunkedArray = pc.or_(pc.fill_null(pc.equal(left, right), False), both_null)
    return equal.combine_chunks()


def _without_changed(images: Location, shard: str, verdicts: pa.Table) -> pa.Table:
    rows = read_shard(images / shard)
    rows = rows.filter(pc.is_in(rows["image_id"], verdicts["image_id"].combine_chunks()))
    name = shard_name(shard.split("-", maxsplit=1)[0], "kept", verdicts["image_id"].to_pylist())
    unchanged = verdicts.select(MANIFEST_SCHEMA.names)
    write_shard(rows.to_pylist(), unchanged, images / name)
    return with_shard(unchanged, name)


def shard_names(tables: Iterable[pa.Table]) -> set[str]:
    """The shards that tables with a `shard` column name."""
    return {name for table in tables for name in table["shard"].unique().to_pylist()}
