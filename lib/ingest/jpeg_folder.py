"""JPEG files in folders, one a class, as `--layout folder` writes them beside the shards."""

from collections import Counter
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import SettingsError, TissueError
from lib.folders.manifest import SPLITS
from lib.storage.location import Location
from lib.storage.tables import Row

LONGEST_NAME = 255
"""Bytes in the name of a file or folder, on nearly every disk."""


def refuse_labels_that_are_no_folders(class_names: list[str]) -> None:
    """Stop before `--layout folder` meets a label that cannot name a folder.

    Raises:
        SettingsError: Naming the first such label.
    """
    for name in class_names:
        if name in {".", ".."} or "/" in name or "\0" in name or len(name.encode()) > LONGEST_NAME:
            raise SettingsError(
                f"label {name!r} cannot be the name of a folder; change it in --labels, or leave out --layout folder"
            )


def jpeg_path(row: Row) -> str:
    """Where `--layout folder` puts an image.

    Its own name only says which it is within `train/<label>/` or `test/<label>/`; from anywhere else, and with another
    ending than `.tif`, it also has the `image_id`.
    """
    stem = PurePosixPath(row["path"]).stem
    home = f"{'test' if row['split'] == 'test' else 'train'}/{row['label']}"
    ending = ".jpg" if row["path"] == f"{home}/{stem}.tif" else f"-{row['image_id']}.jpg"
    short = stem.encode()[: LONGEST_NAME - len(ending)].decode(errors="ignore")
    return f"{row['split']}/{row['label']}/{short}{ending}"


def check_jpegs(output: Location, converted: pa.Table) -> None:
    """Make sure that each accepted image has a JPEG of its own, and delete those that an earlier listing left.

    Args:
        output: The dataset folder.
        converted: The verdicts on all images (`CONVERTED_SCHEMA`).

    Raises:
        TissueError: If a JPEG is missing, or is that of two images.
    """
    accepted = converted.filter(pc.equal(converted["verdict"], "accepted"))
    columns = accepted.select(["image_id", "path", "split", "label"])
    wanted = Counter(jpeg_path(row) for batch in columns.to_batches() for row in batch.to_pylist())
    there = {f"{split}/{file.path}" for split in SPLITS for file in (output / split).list_files()}
    for stray in sorted(there - wanted.keys()):
        if stray.endswith(".jpg"):
            (output / stray).delete()
    shared = [name for name, count in wanted.items() if count > 1]
    missing = sorted(wanted.keys() - there)
    if shared or missing:
        what = f"two images would be {shared[0]}" if shared else f"{len(missing)} JPEGs are missing, as {missing[0]}"
        raise TissueError(f"--layout folder: {what}; delete {output.uri} and run the command again")
