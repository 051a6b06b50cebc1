"""What of an earlier conversion still holds after its source has changed: for `convert --update`."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lib.ingest.listing import Listing
from lib.ingest.manifest import MANIFEST_SCHEMA
from lib.ingest.shards import read_shard, read_verdicts, shard_name, write_shard
from lib.storage.filesystem import Location

CONVERTED_SCHEMA = MANIFEST_SCHEMA.append(pa.field("shard", pa.string(), nullable=False))


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
    listed = {row["image_id"]: row for row in listing.images.to_pylist()}
    kept: list[pa.Table] = []
    for file in images.list_files():
        verdicts = read_verdicts(images / file.path)
        holds = [_is_unchanged(row, listed.pop(row["image_id"], None)) for row in verdicts.to_pylist()]
        if all(holds):
            kept.append(with_shard(verdicts, file.path))
        elif any(holds):
            kept.append(_without_changed(images, file.path, verdicts.filter(pa.array(holds))))
    done = pa.array([row for table in kept for row in table["image_id"].to_pylist()], pa.string())
    remaining = listing.images.filter(pc.invert(pc.is_in(listing.images["image_id"], done)))
    return Earlier(kept, replace(listing, images=remaining))


def with_shard(verdicts: pa.Table, shard: str) -> pa.Table:
    """Verdicts with the name of their shard beside them (`CONVERTED_SCHEMA`)."""
    names = pa.array([shard] * verdicts.num_rows, pa.string())
    return verdicts.append_column("shard", names).cast(CONVERTED_SCHEMA)


def _is_unchanged(then: dict[str, Any], now: dict[str, Any] | None) -> bool:
    if now is None:
        return False
    same = all(then[name] == now[name] for name in ("path", "size_bytes", "version", "label", "group"))
    return same and (then["split"] == "test") == (now["split"] == "test")


def _without_changed(images: Location, shard: str, verdicts: pa.Table) -> pa.Table:
    rows = read_shard(images / shard)
    rows = rows.filter(pc.is_in(rows["image_id"], verdicts["image_id"].combine_chunks()))
    name = shard_name(shard.split("-", maxsplit=1)[0], "kept", verdicts["image_id"].to_pylist())
    write_shard(rows.to_pylist(), verdicts.select(MANIFEST_SCHEMA.names), images / name)
    return with_shard(verdicts, name)


def shard_names(tables: Iterable[pa.Table]) -> set[str]:
    """The shards that tables with a `shard` column name."""
    return {name for table in tables for name in table["shard"].unique().to_pylist()}
