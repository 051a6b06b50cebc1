"""Bootstrap intervals: a naive loop as the second opinion, simulated coverage, groups."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation.measures.intervals import Units, percentile_interval, resampled_sums
from lib.evaluation.measures.measures import NO_STAKES, OVERALL, PER_CLASS, Measures, contributions, in_top, measures_of
from lib.evaluation.measures.metrics import classification_metrics
from lib.evaluation.measures.stakes import Stakes
from lib.models.probabilities import calibration_error

SLIDES = ["s2", "s1", "s1", "s2", "s3", "s1", "s3", "s3", "s2"]


def measure(*results: Any, **settings: Any) -> dict[str, Any]:
    """The content of `metrics.json`."""
    return classification_metrics(*results, **settings).as_json()


def predictions(images: int, classes: int, seed: int, sharpness: float = 2.0) -> tuple[Any, Any]:
    """Classes and probabilities that hang together: the truth is drawn from the probabilities."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 1 / sharpness), images)
    actual = np.array([rng.choice(classes, p=row) for row in probabilities])
    return actual, probabilities.astype(np.float32)


def resampled(
    actual: Any, probabilities: Any, units: Units, resamples: int, seed: int, stakes: Stakes = NO_STAKES
) -> Measures:
    """The measures of each resample."""
    sums = resampled_sums(contributions(actual, probabilities, stakes), units, resamples, seed)
    return measures_of(sums, probabilities.shape[1], stakes)


def drawn(units: Units, resamples: int, seed: int) -> list[Any]:
    """How often each image is in each resample: sums over images that each add 1 to a sum of their own."""
    return list(resampled_sums(np.eye(len(units.of_image)), units, resamples, seed))


@pytest.mark.parametrize("groups", [None, SLIDES])
@pytest.mark.parametrize("stakes", [NO_STAKES, Stakes(np.array([2.0, 0, 1, 3]), np.arange(16.0).reshape(4, 4))])
def test_every_resample_is_measured_as_a_naive_loop_over_copied_images_measures_it(
    groups: list[str] | None, stakes: Stakes
) -> None:
    actual, probabilities = predictions(9, 4, 5)
    units = Units.of(9, groups)
    fast = resampled(actual, probabilities, units, 40, 7, stakes)
    for number, weights in enumerate(drawn(units, 40, 7)):
        copies = np.repeat(np.arange(9), weights.astype(int))
        slow = measure(actual[copies], probabilities[copies], list("abcd"), resamples=1, stakes=stakes)
        slow["macro_f1"] = slow["macro"]["f1"]
        for name in OVERALL:
            expected = np.nan if slow[name] is None else slow[name]
            assert fast[name][number] == pytest.approx(expected, abs=1e-6, nan_ok=True), name
        for name in PER_CLASS:
            expected = [np.nan if row[name] is None else row[name] for row in slow["per_class"]]
            assert fast[name][number] == pytest.approx(expected, nan_ok=True), name


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_drawing_every_image_once_gives_the_measures_themselves(images: int, classes: int, seed: int) -> None:
    actual, probabilities = predictions(images, classes, seed)
    whole = Units("group", np.zeros(images, int), 1)  # one group: each resample is the whole
    once = resampled(actual, probabilities, whole, 1, 0)
    measured = measure(actual, probabilities, [str(name) for name in range(classes)], resamples=1)
    measured["macro_f1"] = measured["macro"]["f1"]
    for name in OVERALL:
        expected = np.nan if measured[name] is None else measured[name]
        assert once[name].tolist() == [pytest.approx(expected, abs=1e-6, nan_ok=True)], name


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=20))
def test_confidences_on_the_edges_of_bins_are_binned_as_in_the_calibration_error(
    images: list[tuple[int, bool]],
) -> None:
    confidence = np.array([thirtieths / 30 for thirtieths, _ in images])
    correct = np.array([right for _, right in images])
    rest = np.repeat((1 - confidence)[:, None] / 30, 30, axis=1)
    probabilities = np.concatenate([confidence[:, None], rest], axis=1)
    whole = Units("group", np.zeros(len(images), int), 1)
    once = resampled(np.where(correct, 0, 1), probabilities, whole, 1, 0)
    assert once["ece"].tolist() == [pytest.approx(calibration_error(confidence, correct))]


def test_images_of_a_group_are_drawn_together_and_as_many_groups_as_there_are() -> None:
    units = Units.of(9, SLIDES)
    assert (units.kind, units.count) == ("group", 3)
    seen = set()
    for weights in drawn(units, 50, 0):
        by_slide = {slide: {w for w, other in zip(weights, SLIDES, strict=True) if other == slide} for slide in SLIDES}
        assert all(len(times) == 1 for times in by_slide.values())
        times = tuple(by_slide[slide].copy().pop() for slide in ("s1", "s2", "s3"))
        assert sum(times) == 3
        seen.add(times)
    assert len(seen) > 5


def test_images_are_drawn_where_one_has_no_group() -> None:
    for groups in (None, ["a", None, "a"], [None, None, None]):
        units = Units.of(3, groups)
        assert (units.kind, units.count) == ("image", 3)
        assert all(weights.sum() == 3 for weights in drawn(units, 20, 0))
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        Units.of(3, ["a", "b"])


def test_the_same_seed_gives_the_same_resamples_and_another_seed_others() -> None:
    actual, probabilities = predictions(50, 3, 0)
    units = Units.of(50, None)

    def losses(seed: int) -> list[float]:
        return list(resampled(actual, probabilities, units, 20, seed)["loss"])

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_the_interval_leaves_out_2_5_percent_on_either_side() -> None:
    assert percentile_interval(np.arange(1001.0), 10) == pytest.approx((25, 975))
    with_gaps = np.concatenate([np.arange(1001.0), np.full(500, np.nan)])
    assert percentile_interval(with_gaps, 10) == pytest.approx((25, 975))


def test_one_unit_or_no_value_gives_no_interval() -> None:
    assert percentile_interval(np.arange(10.0), 1) is None
    assert percentile_interval(np.full(10, np.nan), 5) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Truth is drawn from the probabilities, so the loss expected is their mean entropy over the population.
    rng = np.random.default_rng(11)
    population, right = predictions(200_000, 3, 1), 0
    covered = dict.fromkeys(("accuracy", "loss", "brier", "macro_f1", "balanced_accuracy"), 0)
    truth = measure(*population, ["a", "b", "c"], resamples=1)
    truth["macro_f1"] = truth["macro"]["f1"]
    for _ in range(150):
        chosen = rng.integers(200_000, size=150)
        sample = resampled(population[0][chosen], population[1][chosen], Units.of(150, None), 200, right)
        for name in covered:
            low, high = percentile_interval(sample[name], 150) or (0, 0)
            covered[name] += low <= truth[name] <= high
    assert all(0.87 < count / 150 < 0.995 for count in covered.values()), covered


def test_grouped_intervals_cover_where_those_of_images_are_too_narrow() -> None:
    # Whole slides are right or wrong: 25 slides of 12 images are 25 facts, not 300.
    rng = np.random.default_rng(2)
    slides = np.repeat(np.arange(25), 12)
    covered = {"group": 0, "image": 0}
    for trial in range(100):
        actual = np.where(rng.random(25) < 0.7, 0, 1)[slides]
        probabilities = np.tile(np.array([[0.9, 0.1]], np.float32), (300, 1))
        for kind, groups in (("group", [f"slide {slide}" for slide in slides]), ("image", None)):
            sample = resampled(actual, probabilities, Units.of(300, groups), 200, trial)
            low, high = percentile_interval(sample["accuracy"], 25) or (0, 0)
            covered[kind] += low <= 0.7 <= high
    assert covered["group"] > 85
    assert covered["image"] < 60


def test_groups_whose_images_agree_have_wider_intervals_of_every_measure() -> None:
    actual, probabilities = predictions(40, 3, 4)
    actual, probabilities = np.repeat(actual, 15), np.repeat(probabilities, 15, axis=0)
    by_image = resampled(actual, probabilities, Units.of(600, None), 400, 0)
    slides = [f"slide {image // 15}" for image in range(600)]
    by_group = resampled(actual, probabilities, Units.of(600, slides), 400, 0)

    def width(sample: Measures, name: str) -> float:
        low, high = percentile_interval(sample[name], 40) or (0, 0)
        return high - low

    for name in OVERALL:
        assert width(by_group, name) >= width(by_image, name), name
    assert width(by_group, "accuracy") > 2.5 * width(by_image, "accuracy")


def test_of_equally_probable_classes_the_first_ones_are_the_top() -> None:
    even = np.full((4, 4), 0.25, np.float32)
    assert in_top(np.arange(4), even).tolist() == [True, True, True, False]
    assert in_top(np.arange(4), even, 1).tolist() == [True, False, False, False]


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_the_single_most_probable_class_is_the_predicted_one(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    tied = rng.integers(0, 3, (20, classes)).astype(np.float32)  # many ties
    actual = rng.integers(0, classes, 20)
    np.testing.assert_array_equal(in_top(actual, tied, 1), tied.argmax(axis=1) == actual)
