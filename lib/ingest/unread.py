"""What a source holds that is not read as an image of a class, told in a line, with the way to have it read."""

import logging
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import one_line
from lib.ingest.labels import LABELLED_SPLITS, SPLIT_FOLDERS, TIFF_SUFFIXES
from lib.storage.location import Location
from lib.storage.scan import BROKEN_LINK, UNREADABLE

logger = logging.getLogger(__name__)

NAMED = 3
"""How many folders a line names."""


def advice(excluded: pa.Table, source: Location) -> str:
    """Where the TIFFs of a source are that has none below `train/`, and how to have them read.

    Args:
        excluded: Its files that are no images of a class (`MANIFEST_SCHEMA`).
        source: The folder, for the message.

    Returns:
        To follow a sentence: empty if there is no TIFF.
    """
    paths = [path for path in _paths(excluded, "outside_splits", "no_label") if path.lower().endswith(TIFF_SUFFIXES)]
    if not paths:
        return ""
    tops = Counter(path.split("/")[0] for path in paths if "/" in path)
    if other_case := [name for name in tops if name not in SPLIT_FOLDERS and name.casefold() in SPLIT_FOLDERS]:
        return f"; {_named(tops, other_case)}: rename {other_case[0]}/ to {other_case[0].casefold()}/"
    if inside := [path.split("/")[0] for path in paths if path.split("/")[1:2] == ["train"]]:
        return f"; there is {inside[0]}/train/: use --source {source.uri}/{inside[0]}"
    if "train" in tops:
        return "; those directly in train/ need a folder named after their label, or a table (--labels)"
    if tops:
        return f"; {_named(tops, tops)}: move them into train/<label>/ and test/<label>/, or give a table (--labels)"
    return f"; {len(paths)} TIFFs are in no folder: name their labels in a table (--labels)"


def _named(counts: Counter[str], names: Iterable[str]) -> str:
    told = [f"{name}/ has {counts[name]}" for name in sorted(names)]
    return ", ".join(told[:NAMED]) + (f" and so on, {len(told)} folders" if len(told) > NAMED else "")


def tell_left_out(images: pa.Table, excluded: pa.Table, source: Location, *, by_table: bool) -> None:
    """Log what looks like an image or a class and is left out: a line for each kind.

    Args:
        images: The files that count as images (`LISTING_SCHEMA`).
        excluded: The others (`MANIFEST_SCHEMA`).
        source: The folder.
        by_table: Whether labels are from a table, so that folders mean nothing.
    """
    tell_unreadable(excluded)
    if by_table:
        return
    outside = [path for path in _paths(excluded, "outside_splits") if path.lower().endswith(TIFF_SUFFIXES)]
    tops = Counter(path.split("/")[0] for path in outside if "/" in path)
    if tops:
        logger.warning("left out, since they are not in train/ or test/: TIFFs of %s", _named(tops, tops))
    for folder, found in _folders_without_images(images, excluded, source).items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.most_common(NAMED)) or "it is empty"
        logger.warning("%s/ gives no image (%s), so it is no class", folder, reasons)


def tell_unreadable(excluded: pa.Table) -> None:
    """Log what cannot be read for its name or kind, though it may be an image."""
    for reason, meaning in UNREADABLE.items():
        paths = [
            path for path in _paths(excluded, reason) if reason == BROKEN_LINK or path.lower().endswith(TIFF_SUFFIXES)
        ]
        if paths:
            count = "left out" if len(paths) == 1 else f"the first of {len(paths)} left out"
            logger.warning("%s, %s: %s", one_line(min(paths)), count, meaning)


def _folders_without_images(images: pa.Table, excluded: pa.Table, source: Location) -> dict[str, Counter[str]]:
    """The folders `train/<x>` and `test/<x>` that no image is from, each with the reasons of its files."""
    expression = r"^(?P<folder>[^/]+/[^/]+)/"
    found = pc.extract_regex(images["path"], expression).combine_chunks()
    with_images = set(found.field("folder").unique().to_pylist()) if len(found) else set()
    without: dict[str, Counter[str]] = {
        f"{split}/{name}": Counter() for split in LABELLED_SPLITS for name in (source / split).local_folders()
    }
    for batch in excluded.select(["path", "reason"]).to_batches():
        for row in batch.to_pylist():
            parts = row["path"].split("/")
            if len(parts) > len(("split", "label")) and parts[0] in LABELLED_SPLITS:
                without.setdefault("/".join(parts[:2]), Counter())[row["reason"]] += 1
    hidden = {name for name in without if name.split("/")[1].startswith(".")}
    return {name: without[name] for name in sorted(without.keys() - with_images - hidden)}


def _paths(excluded: pa.Table, *reasons: str) -> list[str]:
    paths: list[str] = excluded["path"].filter(pc.is_in(excluded["reason"], pa.array(reasons))).to_pylist()
    return paths
