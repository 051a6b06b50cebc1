"""Two models on the same images: McNemar by exact integers, and the interval of the difference."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import DataError
from lib.evaluation.measures.comparison import compare, exact_mcnemar


def test_mcnemar_equals_the_binomial_computed_by_hand() -> None:
    assert exact_mcnemar(0, 0) == 1.0
    assert exact_mcnemar(5, 2) == pytest.approx(2 * (1 + 7 + 21) / 2**7)
    assert exact_mcnemar(3, 0) == pytest.approx(0.25)
    assert exact_mcnemar(4, 4) == 1.0
    assert exact_mcnemar(3000, 2000) < 1e-40


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_share_of_splits_that_are_as_unequal(first_only: int, second_only: int) -> None:
    disagreements = first_only + second_only
    tail = sum(math.comb(disagreements, fewer) for fewer in range(min(first_only, second_only) + 1))
    expected = min(1.0, float(Fraction(2 * tail, 2**disagreements)))
    assert exact_mcnemar(first_only, second_only) == pytest.approx(expected, rel=1e-9)


def test_four_images_by_hand() -> None:
    first = {"a": True, "b": True, "c": True, "d": False}
    second = {"a": True, "b": False, "c": False, "d": True}
    found = compare(first, second)
    assert (found.images, found.only_first, found.only_second) == (4, 2, 1)
    assert found.difference == 0.25
    assert found.p_value == 1.0
    assert found.interval is not None
    assert found.interval[0] < 0.25 < found.interval[1]


def test_an_image_that_only_one_model_predicted_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"1 of 2 images were predicted by only one of two models.* image b"):
        compare({"a": True}, {"a": True, "b": True})
    with pytest.raises(DataError, match="image b"):
        compare({"a": True, "b": False}, {"a": True})
    with pytest.raises(DataError, match="without predictions"):
        compare({}, {})


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing_and_that_of_the_models_only_the_sign(
    pairs: list[tuple[bool, bool]], rng: object
) -> None:
    first = {f"{number:02d}": pair[0] for number, pair in enumerate(pairs)}
    second = {f"{number:02d}": pair[1] for number, pair in enumerate(pairs)}
    forwards = compare(first, second, resamples=100)
    names = list(first)
    rng.shuffle(names)  # type: ignore[attr-defined]
    assert compare({name: first[name] for name in names}, second, resamples=100) == forwards
    backwards = compare(second, first, resamples=100)
    assert (backwards.only_first, backwards.only_second) == (forwards.only_second, forwards.only_first)
    assert backwards.difference == -forwards.difference
    assert backwards.p_value == forwards.p_value
    assert forwards.interval is not None
    assert backwards.interval == pytest.approx((-forwards.interval[1], -forwards.interval[0]))
    assert forwards.difference == pytest.approx(np.mean(list(first.values())) - np.mean(list(second.values())))


def test_the_interval_is_that_of_the_normal_approximation_where_there_are_many_images() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(4000) < 0.8, rng.random(4000) < 0.75
    found = compare(_by_id(first), _by_id(second), seed=3)
    gain = first.astype(float) - second
    half = 1.96 * gain.std() / math.sqrt(4000)
    assert found.interval == pytest.approx((found.difference - half, found.difference + half), abs=half / 10)


def test_images_of_a_group_that_agree_make_the_interval_wider() -> None:
    first = _by_id(np.repeat(np.arange(30) % 3 > 0, 20))
    second = _by_id(np.repeat(np.arange(30) % 2 > 0, 20))
    groups = {name: f"slide {int(name) // 20}" for name in first}
    by_image, by_group = compare(first, second).interval, compare(first, second, groups).interval
    assert by_image is not None
    assert by_group is not None
    assert by_group[1] - by_group[0] > 3 * (by_image[1] - by_image[0])
    one_without = groups | {"7": None}
    assert compare(first, second, one_without).interval == by_image


def test_one_group_says_nothing_of_how_groups_differ() -> None:
    assert compare({"a": True, "b": True}, {"a": True, "b": False}, {"a": "s", "b": "s"}).interval is None


def _by_id(right: np.ndarray) -> dict[str, bool]:
    return {str(number): bool(one) for number, one in enumerate(right)}
