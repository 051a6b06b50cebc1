"""What to doubt about the data: refused images, splits that are not independent."""

from collections.abc import Iterator

from lib.folders.checks import Checks
from lib.folders.dataset import Dataset
from lib.report.doubts.doubt import Doubt
from lib.report.formatting import count_of
from lib.report.report import Report


def data_doubts(report: Report) -> list[Doubt]:
    """What speaks against each dataset, and what its checks found."""
    found: list[Doubt] = []
    for dataset in report.datasets:
        found += [*_refusals(dataset), *_overlap(dataset)]
    for checks in report.checks:
        found += _near_duplicates(checks)
    return found


def _refusals(dataset: Dataset) -> Iterator[Doubt]:
    counts = dataset.counts
    if not dataset.adds_up:
        yield Doubt("The account does not add up", f"Files of {dataset.uri} were lost or counted twice.")
    if counts["quarantined"]:
        worst = max(dataset.counts_by_class, key=lambda row: row.quarantined)
        images = counts["accepted"] + counts["quarantined"]
        yield Doubt(
            "Refused images",
            f"{counts['quarantined']:,} of {count_of(images, 'image')} could not be read "
            "without guessing and took no part. Hardest hit: "
            f"{worst.class_name}, {worst.split} ({worst.quarantined:,}). "
            "They are listed below. If some of them are good images, the models have never met their kind.",
        )


def _overlap(dataset: Dataset) -> Iterator[Doubt]:
    accepted, overlap = dataset.counts["accepted"], dataset.overlap
    if overlap.grouped < accepted:
        yield Doubt(
            "Slide and patient unknown",
            f"{accepted - overlap.grouped:,} of {count_of(accepted, 'image')} state no group (slide or "
            "patient). If one slide gave images to train and to test, new slides are recognised less often.",
        )
    if overlap.shared_groups:
        yield Doubt(
            "Groups in several splits",
            f"{count_of(overlap.shared_groups, 'group')} (slide, patient) gave images to several splits: "
            "new slides are recognised less often.",
        )
    if overlap.shared_contents:
        yield Doubt(
            "The same image twice",
            f"{count_of(overlap.shared_contents, 'image')} have a byte for byte equal copy in another split: "
            "recognising those is memory, not skill.",
        )


def _near_duplicates(checks: Checks) -> Iterator[Doubt]:
    found = checks.near_duplicates
    if found.count:
        yield Doubt(
            "Images of different splits look alike",
            f"{count_of(found.images, 'image')} of test or validation may be a copy of an image that was trained or "
            f"chosen on ({count_of(found.count, 'pair')}, shown below). If so, recognising it is memory, not skill.",
        )
