"""Label and split from a path, and which images validate."""

import re
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import DataError
from lib.folders.manifest import EXCLUSIONS
from lib.ingest.labels import Placement, check_classes, label_typos, place_labelled, place_unlabelled
from lib.ingest.splits import choose_validation as choose_groups
from lib.ingest.splits import refuse_torn_groups

SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "label", "group")])


def choose_validation(ids: Sequence[str], fraction: float, seed: int) -> frozenset[str]:
    """The choice among images of one class that belong to no group."""
    return chosen_of([(image_id, "liver", None) for image_id in ids], fraction, seed)


def chosen_of(members: Sequence[tuple[str, str, str | None]], fraction: float, seed: int) -> frozenset[str]:
    """The choice among images, each with its identity, label and group."""
    images = pa.Table.from_pylist([dict(zip(("image_id", "label", "group"), m, strict=True)) for m in members], SCHEMA)
    return frozenset(images["image_id"].filter(choose_groups(images, fraction, seed)).to_pylist())


IDS = st.lists(st.integers(0, 2**64 - 1).map("{:016x}".format), min_size=2, max_size=120, unique=True)
FRACTIONS = st.floats(0.001, 0.999)


@pytest.mark.parametrize(
    ("path", "label", "split"),
    [
        ("train/liver/a.tif", "liver", "train"),
        ("test/liver/a.TIFF", "liver", "test"),
        ("train/Gewebe ü/a b.Tif", "Gewebe ü", "train"),
        ("train/liver/patient 7/slide.tif", "liver", "train"),
        ("train/test/a.tif", "test", "train"),
        ("val/liver/a.tif", "liver", "validation"),
        ("validation/liver/a.tif", "liver", "validation"),
        ("train/re\u0301nal/a.tif", "r\u00e9nal", "train"),
    ],
)
def test_an_image_has_the_label_and_split_of_its_folders(path: str, label: str, split: str) -> None:
    assert place_labelled(path) == Placement(label, split)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("train/liver/.DS_Store", "hidden_file"),
        ("train/liver/._a.tif", "hidden_file"),
        ("train/liver/a.jpg", "not_tiff_name"),
        ("train/liver/tif", "not_tiff_name"),
        ("train/liver/a.tif.txt", "not_tiff_name"),
        ("README", "not_tiff_name"),
        ("Train/liver/a.tif", "outside_splits"),
        ("a.tif", "outside_splits"),
        ("x/train/liver/a.tif", "outside_splits"),
        ("train/a.tif", "no_label"),
        ("test/a.tif", "no_label"),
        ("train//a.tif", "no_label"),
        ("train/ /a.tif", "no_label"),
    ],
)
def test_a_file_that_is_no_image_has_a_reason(path: str, reason: str) -> None:
    assert place_labelled(path) == Placement(exclusion=reason)
    assert reason in EXCLUSIONS


@pytest.mark.parametrize(
    ("path", "reason"),
    [("a.tif", None), ("x/y/z.TIFF", None), ("x/.a.tif", "hidden_file"), ("x/a.png", "not_tiff_name")],
)
def test_without_labels_any_tree_of_tiffs_is_images(path: str, reason: str | None) -> None:
    assert place_unlabelled(path) == Placement(exclusion=reason)


@settings(max_examples=80)
@given(IDS, FRACTIONS, st.integers(0, 2**32 - 1))
def test_the_fraction_validates_but_at_least_one_and_never_all(ids: list[str], fraction: float, seed: int) -> None:
    chosen = choose_validation(ids, fraction, seed)
    assert chosen < set(ids)
    assert 1 <= len(chosen) <= len(ids) - 1
    assert abs(len(chosen) - fraction * len(ids)) <= 0.5 or len(chosen) in {1, len(ids) - 1}


@pytest.mark.parametrize(
    ("images", "fraction", "count"),
    [(100, 0.02, 2), (100, 0.2, 20), (10, 0.02, 1), (2, 0.9, 1), (2, 0.02, 1), (30, 0.999, 29), (100, 0.0, 0)],
)
def test_how_many_validate(images: int, fraction: float, count: int) -> None:
    assert len(choose_validation([f"{n:016x}" for n in range(images)], fraction, 0)) == count


@settings(max_examples=40)
@given(IDS, FRACTIONS, st.randoms(use_true_random=False))
def test_the_order_of_the_listing_does_not_matter(ids: list[str], fraction: float, random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose_validation(shuffled, fraction, 5) == choose_validation(ids, fraction, 5)


@settings(max_examples=80)
@given(IDS, st.integers(1, 60), FRACTIONS)
def test_added_images_displace_no_more_than_take_their_place(ids: list[str], before: int, fraction: float) -> None:
    earlier, added = ids[:before], set(ids[before:])
    if len(earlier) < 2:
        return
    chosen = choose_validation(earlier, fraction, 1)
    afterwards = choose_validation(ids, fraction, 1)
    assert len(chosen - afterwards) <= len(afterwards & added)
    if len(afterwards) == len(chosen):
        assert len((afterwards - chosen) - added) == 0


def test_the_seed_changes_the_choice() -> None:
    ids = [f"{n:016x}" for n in range(200)]
    choices = [choose_validation(ids, 0.1, seed) for seed in range(5)]
    assert len(set(choices)) == 5
    assert len(frozenset.union(*choices)) > 60


def labelled(**counts: tuple[int, int]) -> Counter[tuple[str, str]]:
    """So many training and test images by label and split."""
    pairs = {
        (label, split): n for label, both in counts.items() for split, n in zip(("train", "test"), both, strict=True)
    }
    return +Counter(pairs)


def test_the_classes_of_the_training_images_come_in_order() -> None:
    assert check_classes(labelled(skin=(2, 1), Lung=(3, 0), liver=(2, 2)), 0.02) == ["Lung", "liver", "skin"]


@pytest.mark.parametrize(
    ("counts", "fraction", "message"),
    [
        ({"liver": (3, 1)}, 0.02, "train/ holds one class, 'liver'; a classifier needs at least two"),
        ({"liver": (3, 1), "lung": (3, 0), "skin": (0, 2)}, 0.02, "class 'skin' is in test/ but not in train/"),
        ({"liver": (3, 1), "lung": (1, 5)}, 0.02, "class 'lung' has 1 training image; at least 2 are needed"),
        (
            {"liver": (3, 0), "lung": (3, 1), "Liver": (0, 2)},
            0.02,
            "class 'Liver' is in test/ but not in train/: no model could ever predict it; 'liver' is: give both one",
        ),
    ],
)
def test_classes_that_cannot_be_trained_on_are_named(
    counts: dict[str, tuple[int, int]], fraction: float, message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        check_classes(labelled(**counts), fraction)


def test_one_image_of_a_class_is_enough_without_validation() -> None:
    assert check_classes(labelled(liver=(1, 0), lung=(1, 5)), 0) == ["liver", "lung"]


SLIDES = {
    "slide1": ("liver", 5),
    "slide2": ("liver", 3),
    "slide3": ("liver", 4),
    "slide4": ("lung", 2),
    "slide5": ("lung", 6),
}
GROUPED = [(f"{slide}-{number}", label, slide) for slide, (label, count) in SLIDES.items() for number in range(count)]


@given(fraction=st.floats(0.01, 0.9), seed=st.integers(0, 2**32 - 1))
def test_a_group_is_never_torn_and_every_class_keeps_training_images(fraction: float, seed: int) -> None:
    validation = chosen_of(GROUPED, fraction, seed)
    for slide in SLIDES:
        assert len({image in validation for image, _, group in GROUPED if group == slide}) == 1
    for wanted in ("liver", "lung"):
        assert {image in validation for image, label, _ in GROUPED if label == wanted} == {True, False}


def test_a_class_that_is_one_group_has_no_validation() -> None:
    members = [(f"{number}", "liver", "slide") for number in range(9)]
    assert chosen_of(members, 0.5, 0) == frozenset()


def test_a_group_in_train_and_test_is_refused_by_name() -> None:
    placed = [("a", "train"), ("a", "train"), (None, "train"), (None, "test"), ("b", "test")]
    refuse_torn_groups(images_of(placed))
    with pytest.raises(DataError, match=r"group 'a' is in test and train \(1 such groups\)"):
        refuse_torn_groups(images_of([*placed, ("a", "test")]))


def images_of(placed: Sequence[tuple[str | None, str]]) -> pa.Table:
    groups, splits = zip(*placed, strict=True)
    return pa.table({"group": groups, "split": splits})


def test_labels_that_look_alike_are_named() -> None:
    assert label_typos(["Liver", "liver", "lung", "skin"]) == ["labels 'Liver', 'liver' look like the same class"]
    assert len(label_typos(["lung", "lung ", "fat\u00e9", "fate\u0301"])) == 2
    assert label_typos(["liver", "lung"]) == []
