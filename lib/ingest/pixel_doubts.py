"""What to doubt of converted images by the pixels that came out, told with the setting that helps."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.images import TiffPolicy
from lib.folders.manifest import PIXEL_DOUBTS, PIXEL_FIELDS, PixelDoubt, Scale
from lib.storage.location import Location

logger = logging.getLogger(__name__)

ONE_COLOUR = 0.98
"""Share of the values that are 0 or 255 in an image that shows nearly nothing."""
CLIPPED = 0.25
"""Share of the values at 255 in an image whose range ends too low. Whole 8-bit images are often as white as that."""
FEWEST_LEVELS = 16
TOLD = 0.05
"""Share of the images of a class and sample type from which on it is told."""
COLUMNS = ["label", "split", *(field.name for field in PIXEL_FIELDS)]
KINDS = ("one_colour", "clipped", "few_levels", "empty_alpha", "unused_pages")
"""Of doubts about a class and sample type."""
TOLD_IN_ANY_CASE = ("empty_alpha", "unused_pages")
OTHER_SCALE = 1.5
CLASSES_TOLD = 3


def find_pixel_doubts(manifest: pa.Table, policy: TiffPolicy) -> list[PixelDoubt]:
    """What to doubt, by kind, class and sample type.

    Args:
        manifest: Rows of `MANIFEST_SCHEMA`.
        policy: How the images were read.
    """
    looked_at = manifest.select(COLUMNS)  # without paths, of which a copy of a million would be the largest of all
    accepted = looked_at.filter(pc.equal(manifest["verdict"], "accepted"))
    return [*_of_groups(accepted, policy), *_untrained_types(accepted), *_mixed_scales(accepted)]


def _of_groups(images: pa.Table, policy: TiffPolicy) -> Iterator[PixelDoubt]:
    """What may have been spoiled of each class and sample type."""
    flags = _flags(images, policy)
    table = pa.table({"label": images["label"], "sample_type": images["sample_type"]} | flags)
    sums = [(name, "sum") for name in flags]
    groups = table.group_by(["label", "sample_type"]).aggregate([*sums, ([], "count_all")])
    for group in groups.sort_by([("label", "ascending"), ("sample_type", "ascending")]).to_pylist():
        for name in KINDS:
            count, of = group[f"{name}_sum"] or 0, group["count_all"]
            if count >= (1 if name in TOLD_IN_ANY_CASE else max(TOLD * of, 1)):
                yield PixelDoubt(
                    kind=name,
                    label=group["label"],
                    sample_type=group["sample_type"],
                    images=count,
                    of=of,
                    advice=_advice(name, group["sample_type"], paged=bool(group["blank_page_sum"])),
                )


def _flags(images: pa.Table, policy: TiffPolicy) -> dict[str, pa.ChunkedArray]:
    black, white, levels = images["black"], images["white"], images["levels"]
    one_colour = pc.or_(pc.greater_equal(pc.max_element_wise(black, white), ONE_COLOUR), pc.less_equal(levels, 2))
    ranged = pc.invert(pc.match_substring_regex(images["sample_type"], "^uint[1-8]$"))
    shown = pc.invert(one_colour)
    paged = pc.greater(images["pages"], 1)
    every = pa.chunked_array([np.full(images.num_rows, policy.tiff_page == "max-projection")])
    flags = {
        "one_colour": one_colour,
        "clipped": pc.and_(shown, pc.and_(ranged, pc.greater_equal(white, CLIPPED))),
        "few_levels": pc.and_(shown, pc.less(levels, FEWEST_LEVELS)),
        "empty_alpha": pc.equal(images["note"], "empty_alpha"),
        "unused_pages": pc.and_(paged, pc.invert(every)),
        "blank_page": pc.and_(one_colour, paged),
    }
    return {name: pc.fill_null(flag, False).cast(pa.int64()) for name, flag in flags.items()}


def _advice(kind: str, sample_type: str, *, paged: bool) -> str:
    eight_bits = sample_type in {f"uint{bits}" for bits in range(1, 9)}
    if kind == "one_colour" and paged:
        return "choose another page with --tiff-page"
    if kind in {"one_colour", "clipped", "few_levels"} and not eight_bits:
        return "try --tiff-range percentile, or state LOW:HIGH"
    return {
        "one_colour": "look at them; --tiff-alpha ignore reads colours that transparency hides",
        "few_levels": "the files themselves hold so few; no setting adds any",
        "empty_alpha": "--tiff-alpha ignore says so for all files",
        "unused_pages": "--tiff-page NUMBER or max-projection reads others",
    }.get(kind, "")


def _untrained_types(images: pa.Table) -> Iterable[PixelDoubt]:
    """Sample types of other splits that no training image has."""
    counted = images.group_by(["split", "sample_type"]).aggregate([([], "count_all")]).to_pylist()
    trained = {row["sample_type"] for row in counted if row["split"] == "train"}
    of_split: dict[str, int] = defaultdict(int)
    for row in counted:
        of_split[row["split"]] += row["count_all"]
    for row in sorted(counted, key=lambda row: (row["split"] or "", row["sample_type"] or "")):
        if trained and row["sample_type"] not in trained and row["sample_type"]:
            yield PixelDoubt(
                kind="untrained_type", label=None, sample_type=row["sample_type"], images=row["count_all"],
                of=of_split[row["split"]], advice=f"they are in {row['split']}; compare them with the training images",
            )  # fmt: skip


def _mixed_scales(images: pa.Table) -> Iterable[PixelDoubt]:
    scale = scale_of(images)
    if scale is not None and scale.greatest > OTHER_SCALE * scale.least:
        yield PixelDoubt(
            kind="mixed_scales", label=None, sample_type=None, images=scale.images, of=images.num_rows,
            advice=f"their pixels are {scale.least:.3g} to {scale.greatest:.3g} micrometres wide; bring them to one "
            "scale first, or expect a model that tells scales apart",
        )  # fmt: skip


def scale_of(images: pa.Table) -> Scale | None:
    """How wide pixels are in the files that say so; None where none does."""
    stated = images["micrometres"].drop_null().to_numpy()
    if not len(stated):
        return None
    least, median, greatest = (round(float(number), 6) for number in np.quantile(stated, (0, 0.5, 1)))
    return Scale(images=len(stated), least=least, median=median, greatest=greatest)


def tell_pixel_doubts(doubts: Iterable[PixelDoubt], folder: Location) -> None:
    """Say each kind of doubt in one line, its worst classes first."""
    by_kind: Mapping[str, list[PixelDoubt]] = defaultdict(list)
    for doubt in doubts:
        by_kind[doubt.kind].append(doubt)
    for kind, some in by_kind.items():
        some.sort(key=lambda doubt: -doubt.images)
        shown = ", ".join(doubt.group for doubt in some[:CLASSES_TOLD])
        more = f" and {len(some) - CLASSES_TOLD} more classes" if len(some) > CLASSES_TOLD else ""
        logger.warning("%s: images %s: %s%s; %s", folder.uri, PIXEL_DOUBTS[kind], shown, more, some[0].advice)
