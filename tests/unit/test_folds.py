from collections import defaultdict

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lib.dataset.folds import FOLDS, NEVER_LEFT_OUT, cross_validation_folds

IMAGES = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 12)), min_size=1, max_size=60)


def table(images: list[tuple[str, int | None]]) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([f"image {number}" for number in range(len(images))], pa.string()),
            "label": pa.array([label for label, _ in images], pa.string()),
            "group": pa.array([None if group is None else f"slide {group}" for _, group in images], pa.string()),
        }
    )


@given(IMAGES, st.integers(0, 3))
def test_a_group_is_left_out_as_a_whole(images: list[tuple[str, int | None]], seed: int) -> None:
    folds_of = defaultdict(set)
    for (_, group), fold in zip(images, cross_validation_folds(table(images), seed), strict=True):
        if group is not None:
            folds_of[group].add(int(fold))
    assert all(len(folds) == 1 for folds in folds_of.values())


@given(IMAGES, st.integers(0, 3))
def test_each_class_can_be_learned_whichever_fold_is_left_out(images: list[tuple[str, int | None]], seed: int) -> None:
    folds = cross_validation_folds(table(images), seed)
    for label in {label for label, _ in images}:
        of_class = {int(fold) for (other, _), fold in zip(images, folds, strict=True) if other == label}
        assert NEVER_LEFT_OUT in of_class or len(of_class) > 1
    assert set(folds.tolist()) <= {NEVER_LEFT_OUT, *range(FOLDS)}


def test_images_of_a_class_are_spread_evenly() -> None:
    folds = cross_validation_folds(table([("a", None)] * 25 + [("b", None)] * 10), seed=0)
    assert [list(folds[:25]).count(fold) for fold in range(FOLDS)] == [5] * FOLDS
    assert [list(folds[25:]).count(fold) for fold in range(FOLDS)] == [2] * FOLDS


def test_another_seed_makes_other_folds() -> None:
    images = table([("a", None)] * 40)
    assert list(cross_validation_folds(images, 0)) != list(cross_validation_folds(images, 1))
    assert list(cross_validation_folds(images, 0)) == list(cross_validation_folds(images, 0))
