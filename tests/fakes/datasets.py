"""What has to be true of a dataset folder however its conversion went."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from lib.folders.shards import read_verdicts
from lib.storage.location import Location


def assert_complete(dataset: Path, source: Path) -> None:
    """Every file of the source is accounted for once, every accepted image is there once, and nothing else is there."""
    record = json.loads((dataset / "dataset.json").read_text())
    manifest = pq.read_table(dataset / "manifest.parquet").to_pylist()
    assert sorted(row["path"] for row in manifest) == files_below(source)
    verdicts = Counter(row["verdict"] for row in manifest)
    assert record["counts"] == {"listed": len(manifest), "accepted": 0, "quarantined": 0, "excluded": 0} | verdicts
    assert sum(verdicts.values()) == len(files_below(source))
    accepted = sorted(row["path"] for row in manifest if row["verdict"] == "accepted")
    assert sorted(pq.read_table(dataset / "images", columns=["path"])["path"].to_pylist()) == accepted
    shards = [f"images/{shard['file']}" for shard in record["shards"]]
    without_images = {name for name in completed_verdicts(dataset) if name not in shards}
    listed = ["quarantined.csv"] if verdicts["quarantined"] else []
    assert files_below(dataset) == sorted(["dataset.json", "manifest.parquet", *listed, *shards, *without_images])


def files_below(folder: Path) -> list[str]:
    """The relative paths of all files, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def completed_verdicts(dataset: Path) -> dict[str, list[str]]:
    """The source paths that each finished shard has a verdict on."""
    names = [name for name in files_below(dataset) if "images/" in name]
    return {name: read_verdicts(Location(str(dataset / name)))["path"].to_pylist() for name in names}
