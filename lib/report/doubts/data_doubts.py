"""What to doubt about the data: refused images, splits that are not independent."""

from collections.abc import Iterator

from lib.folders.checks import Checks
from lib.folders.dataset import Dataset
from lib.folders.manifest import PIXEL_DOUBTS, PixelDoubt
from lib.report.doubts.doubt import Doubt
from lib.report.formatting import count_of, has, percent, was
from lib.report.formatting import some as some_of
from lib.report.report import Report


def data_doubts(report: Report) -> list[Doubt]:
    """What speaks against each dataset, and what its checks found."""
    found: list[Doubt] = []
    for dataset in report.datasets:
        found += [*_refusals(dataset), *_pixels(dataset), *_overlap(dataset)]
    for checks in report.checks:
        found += _files(checks)
        found += _near_duplicates(checks)
    return found


def _refusals(dataset: Dataset) -> Iterator[Doubt]:
    counts = dataset.counts
    if not dataset.adds_up:
        yield Doubt("File counts do not add up", f"Files of {dataset.uri} are missing or counted twice.")
    if counts.quarantined:
        worst = max(dataset.counts_by_class, key=lambda row: row.quarantined)
        images = counts.accepted + counts.quarantined
        yield Doubt(
            "Quarantined images",
            f"{counts.quarantined:,} of {count_of(images, 'image')} could not be decoded reliably and "
            f"{was(counts.quarantined)} left out, most of them in {worst.class_name}, {worst.split} "
            f"({worst.quarantined:,}). They are listed below. If good images are among them, the models have never "
            "seen their kind.",
        )


def _pixels(dataset: Dataset) -> Iterator[Doubt]:
    """What the conversion may have spoiled, a doubt a kind, its classes named."""
    by_kind: dict[str, list[PixelDoubt]] = {}
    for doubt in dataset.record.pixels:
        by_kind.setdefault(doubt.kind, []).append(doubt)
    for kind, some in by_kind.items():
        groups = some_of([doubt.group for doubt in sorted(some, key=lambda doubt: -doubt.images)])
        yield Doubt(f"Images that {PIXEL_DOUBTS[kind]}", f"{groups}. What helps: {some[0].advice}.")


def _overlap(dataset: Dataset) -> Iterator[Doubt]:
    accepted, overlap = dataset.counts.accepted, dataset.overlap
    if overlap.grouped < accepted:
        yield Doubt(
            "Slide and patient unknown",
            f"No group (slide or patient) is known for {accepted - overlap.grouped:,} of "
            f"{count_of(accepted, 'image')}. If images of one slide are in both training and test, expect lower "
            "accuracy on new slides.",
        )
    if overlap.shared_groups:
        yield Doubt(
            "Groups in several splits",
            f"{count_of(overlap.shared_groups, 'group')} (slide, patient) {has(overlap.shared_groups)} images in "
            "several splits: expect lower accuracy on new slides.",
        )
    if overlap.shared_contents:
        yield Doubt(
            "The same image twice",
            f"{count_of(overlap.shared_contents, 'image')} {has(overlap.shared_contents)} an identical copy in another "
            "split: recognising a copy is memory, not skill.",
        )


def _files(checks: Checks) -> Iterator[Doubt]:
    files = checks.record.file_properties
    if files and files.beats_chance:
        telling = some_of([f"the {one.name} ({percent(one.accuracy, 0)})" for one in files.telling])
        yield Doubt(
            "Files give their class away",
            f"Without a look at any pixel, {percent(files.accuracy, 0)} of {count_of(files.images, 'training image')} "
            f"are told right{f', by {telling}' if telling else ''}; chance is {percent(files.chance, 0)}. A network "
            "may have learned where images are from instead of the tissue: prepare all classes in one way, and test "
            "on images from elsewhere."
            + ("" if files.telling_beside_size else " The size of a compressed file also depends on what it shows."),
        )


def _near_duplicates(checks: Checks) -> Iterator[Doubt]:
    found = checks.near_duplicates
    if found.count:
        yield Doubt(
            "Near copies in different splits",
            f"{count_of(found.images, 'test or validation image')} may be a copy of an image that models were trained "
            f"or chosen on ({count_of(found.count, 'pair')}, shown below). Recognising a copy is memory, not skill.",
        )
