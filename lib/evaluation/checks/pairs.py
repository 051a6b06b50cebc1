"""Pictures of images that look alike, for the report: of those that were not predicted, and so have none yet."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.shard_source import ShardSource
from lib.dataset.thumbnails import shard_thumbnails
from lib.folders.checks import DESCRIPTORS, MOST_SHOWN
from lib.folders.predictions import PAIRS_FILE, THUMBNAILS, read_thumbnails, write_part
from lib.storage.location import Location
from lib.storage.tables import read_tables


def write_pair_thumbnails(
    pairs: pa.Table, split: str, dataset: ShardSource, checks: Location, output: Location
) -> None:
    """Write `thumbnails/pairs.parquet` of the pairs that the report shows. Ray has been started.

    Args:
        pairs: Rows of `NEAR_DUPLICATE_SCHEMA`, those that are shown first.
        split: Whose images have thumbnails, since they were predicted.
        dataset: Has the images; only the shards that hold one of them are read.
        checks: The folder that has the descriptors of all images, and perhaps thumbnails of other pairs.
        output: The folder to write into.

    Raises:
        StorageError: If a shard cannot be read, or the file not written.
    """
    shown = pairs.slice(0, MOST_SHOWN).to_pylist()
    wanted = {row[f"{side}image_id"] for row in shown for side in ("", "other_") if row[f"{side}split"] != split}
    wanted -= read_thumbnails(checks, wanted).keys()
    if wanted:
        thumbnails = shard_thumbnails(dataset, _shards_of(checks, wanted), wanted)
        write_part(thumbnails, output, THUMBNAILS, PAIRS_FILE)


def _shards_of(checks: Location, image_ids: Collection[str]) -> list[str]:
    """The shards that hold some of the images: the descriptors of a shard are in a file of its name."""
    wanted = pa.array(sorted(image_ids))
    described = read_tables(checks / DESCRIPTORS, ["image_id"])
    return [shard for shard, rows in described.items() if pc.any(pc.is_in(rows["image_id"], wanted)).as_py()]
