"""Metrics: values by hand, and scikit-learn as the second opinion."""

import json
import math
import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from lib.evaluation.measures.metrics import classification_metrics, uncalibrated
from lib.evaluation.measures.stakes import Stakes
from lib.models.probabilities import calibration_error, cross_entropy, softmax
from lib.plots import wilson_interval

MEASURES = ("precision", "recall", "f1")


def measured(*results: Any, **settings: Any) -> dict[str, Any]:
    """The content of `metrics.json`."""
    return classification_metrics(*results, **settings).as_json()


def scores(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `per_class` without areas and intervals."""
    return {key: row[key] for key in ("class_name", *MEASURES, "support")}


def test_five_images_by_hand() -> None:
    actual = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    metrics = measured(actual, probabilities, ["a", "b", "c"])
    assert metrics["images"] == 5
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["loss"] == pytest.approx(-math.log(0.9 * 0.7 * 0.1 * 0.5 * 0.1) / 5)
    assert metrics["confusion_matrix"] == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    a, b, c = metrics["per_class"]
    assert scores(a) == {
        "class_name": "a",
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "support": 3,
    }
    assert scores(b) == {"class_name": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    # c was predicted once, wrongly, and has no test image.
    assert scores(c) == {"class_name": "c", "precision": 0.0, "recall": None, "f1": None, "support": 0}
    assert metrics["macro"] == pytest.approx({"precision": 0.75, "recall": 7 / 12, "f1": 0.65})
    assert metrics["weighted"] == pytest.approx({"precision": 0.8, "recall": 0.6, "f1": 0.68})
    assert metrics["balanced_accuracy"] == pytest.approx(7 / 12)
    squares = [0.01 + 0.005, 0.09 + 0.05, 0.81 + 0.65, 0.25 + 0.13, 0.81 + 0.65]
    assert metrics["brier"] == pytest.approx(sum(squares) / 5)
    # Confidences in order: 0.9 right, 0.7 right, 0.8 wrong, 0.5 right, 0.8 wrong; both 0.8 are in one bin.
    assert metrics["ece"] == pytest.approx((0.1 + 0.3 + 1.6 + 0.5) / 5)
    # Of 6 pairs of an image of a and one of b, the first is more probably a in 2 + 2 + half of one (0.1 against 0.1).
    assert (a["roc_auc"], b["roc_auc"]) == (pytest.approx(4.5 / 6), pytest.approx(3 / 6))
    assert metrics["roc_auc"] == pytest.approx((4.5 + 3) / 12)
    # Ranked by a: right, right, wrong, then one of each at 0.1.
    assert a["pr_auc"] == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert (c["roc_auc"], c["pr_auc"], c["recall_interval"]) == (None, None, None)


def test_a_class_neither_shown_nor_predicted_has_no_score() -> None:
    metrics = measured(np.array([1]), np.array([[0.1, 0.8, 0.1]]), ["a", "b", "c"])
    for row in (metrics["per_class"][0], metrics["per_class"][2]):
        assert [row[measure] for measure in MEASURES] == [None, None, None]
    assert metrics["macro"] == metrics["weighted"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_a_class_that_was_never_predicted_has_precision_0() -> None:
    metrics = measured(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]]), ["a", "b"])
    assert scores(metrics["per_class"][1]) == {
        "class_name": "b",
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 1,
    }


def test_a_probability_of_0_costs_much_but_not_infinitely_much() -> None:
    certain = np.array([[1, 0]], dtype=np.float32)
    assert cross_entropy(np.array([0]), certain) == 0
    assert cross_entropy(np.array([1]), certain) == pytest.approx(-math.log(2.0**-126))


@st.composite
def results(draw: st.DrawFn) -> tuple[Any, Any]:
    """Actual classes, of which some may not occur, and probabilities."""
    classes, images, seed = draw(st.integers(2, 7)), draw(st.integers(1, 40)), draw(st.integers(0, 2**32 - 1))
    occurring = draw(st.lists(st.integers(0, classes - 1), min_size=1, unique=True))
    rng = np.random.default_rng(seed)
    return rng.choice(occurring, images), rng.dirichlet(np.full(classes, 0.7), images).astype(np.float32)


@settings(max_examples=60)
@given(results())
def test_scikit_learn_agrees(result: tuple[Any, Any]) -> None:
    actual, probabilities = result
    classes = list(range(probabilities.shape[1]))
    names = [f"class {number}" for number in classes]
    predicted = probabilities.argmax(axis=1)
    metrics = measured(actual, probabilities, names, resamples=2)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert metrics["confusion_matrix"] == confusion_matrix(actual, predicted, labels=classes).tolist()
    clipped = np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny)
    expected_loss = log_loss(actual, clipped / clipped.sum(axis=1, keepdims=True), labels=classes)
    assert metrics["loss"] == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    present = sorted(set(actual))
    for average in ("macro", "weighted"):
        scores = precision_recall_fscore_support(actual, predicted, labels=present, average=average, zero_division=0)
        assert [metrics[average][measure] for measure in MEASURES] == pytest.approx(scores[:3])
    each = precision_recall_fscore_support(actual, predicted, labels=present, zero_division=0)
    for column, number in enumerate(present):
        row = metrics["per_class"][number]
        assert row["class_name"] == names[number]
        assert [row[measure] for measure in (*MEASURES, "support")] == pytest.approx([c[column] for c in each])


@settings(max_examples=60)
@given(results())
def test_scikit_learn_agrees_on_what_is_measured_of_probabilities(result: tuple[Any, Any]) -> None:
    actual, probabilities = result
    classes = list(range(probabilities.shape[1]))
    metrics = measured(actual, probabilities, [str(number) for number in classes], resamples=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that were predicted but never occur
        assert metrics["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(actual, probabilities.argmax(axis=1))
        )
    if len(classes) > 3:
        top_3 = top_k_accuracy_score(actual, probabilities, k=3, labels=classes)
        assert metrics["top_3_accuracy"] == pytest.approx(top_3)
    else:
        assert metrics["top_3_accuracy"] == 1
    rows = probabilities.astype(np.float64)
    if len(classes) > 2:
        brier = brier_score_loss(actual, rows / rows.sum(axis=1, keepdims=True), labels=classes)
        assert metrics["brier"] == pytest.approx(brier, rel=1e-4, abs=1e-6)
    else:
        assert metrics["brier"] == pytest.approx(2 * np.mean((rows[:, 1] - actual) ** 2), rel=1e-4, abs=1e-6)
    for number, row in enumerate(metrics["per_class"]):
        of_class = actual == number
        if of_class.all() or not of_class.any():
            assert (row["roc_auc"], row["pr_auc"]) == (None, None)
        else:
            assert row["roc_auc"] == pytest.approx(share_of_ordered_pairs(of_class, probabilities[:, number]))
            assert row["pr_auc"] == pytest.approx(average_precision_score(of_class, probabilities[:, number]))
            assert row["pr_auc"] == pytest.approx(mean_precision_over_thresholds(of_class, probabilities[:, number]))
    for area in ("roc_auc", "pr_auc"):
        defined = [row[area] for row in metrics["per_class"] if row[area] is not None]
        assert metrics[area] == (pytest.approx(np.mean(defined)) if defined else None)


def share_of_ordered_pairs(of_class: Any, score: Any) -> float:
    """The area under the ROC curve as the probability of an ordered pair (Mann and Whitney), ties counting half."""
    pairs = product(score[of_class], score[~of_class])
    return float(np.mean([(inside > outside) + 0.5 * (inside == outside) for inside, outside in pairs]))


def mean_precision_over_thresholds(of_class: Any, score: Any) -> float:
    """Average precision: precision at each threshold, weighted by what it adds to the recall."""
    area, found = 0.0, 0
    for threshold in sorted(set(score.tolist()), reverse=True):
        chosen = score >= threshold
        right = int((chosen & of_class).sum())
        area += (right - found) / of_class.sum() * right / chosen.sum()
        found = right
    return area


@pytest.mark.parametrize("classes", [3, 12])
def test_areas_are_those_of_scikit_learn_where_every_class_has_images(classes: int) -> None:
    rng = np.random.default_rng(classes)
    probabilities = softmax(rng.normal(0, 3, (300, classes)).astype(np.float32))
    # In float32, rows sum to 1 only nearly.
    assert 0 < np.abs(probabilities.astype(np.float64).sum(axis=1) - 1).max() < 1e-6
    actual = np.concatenate([np.arange(classes), rng.integers(0, classes, 300 - classes)])
    metrics = measured(actual, probabilities, [str(number) for number in range(classes)], resamples=2)
    labels = list(range(classes))
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(actual, probabilities, multi_class="ovr", labels=labels))
    assert metrics["pr_auc"] == pytest.approx(average_precision_score(actual, probabilities, average="macro"))


@settings(max_examples=60)
@given(results(), st.floats(-1e-6, 1e-6))
def test_rows_that_sum_to_1_only_nearly_are_measured_like_those_that_do(result: tuple[Any, Any], excess: float) -> None:
    actual, probabilities = result
    names = [str(number) for number in range(probabilities.shape[1])]
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    near = measured(actual, exact * (1 + excess), names, temperature=1.5, resamples=3)
    for name, value in measured(actual, exact, names, temperature=1.5, resamples=3).items():
        if isinstance(value, float) and name != "ece":  # a confidence on the edge of a bin may change sides
            assert near[name] == pytest.approx(value, abs=1e-5), name
    confidence = (exact * (1 + excess)).max(axis=1)
    assert near["ece"] == pytest.approx(calibration_error(confidence, exact.argmax(axis=1) == actual), abs=1e-12)
    assert near["calibration"]["before"]["loss"] == pytest.approx(
        cross_entropy(actual, uncalibrated(exact, 1.5)), abs=1e-5
    )


@settings(max_examples=60)
@given(results(), st.booleans(), st.sampled_from([None, 0.4, 1.0, 2.5]))
def test_numbers_are_json_without_nan_and_intervals_hold_what_they_should(
    result: tuple[Any, Any], grouped: bool, temperature: float | None
) -> None:
    actual, probabilities = result
    names = [str(number) for number in range(probabilities.shape[1])]
    groups = [f"slide {image % 3}" for image in range(len(actual))] if grouped else None
    metrics = measured(actual, probabilities, names, groups=groups, temperature=temperature, resamples=50, seed=4)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    units = min(3, len(actual)) if grouped else len(actual)
    kind = "group" if grouped else "image"
    assert metrics["bootstrap"] == {"resamples": 50, "unit": kind, "units": units, "seed": 4}
    always = ("accuracy", "balanced_accuracy", "top_3_accuracy", "loss", "brier", "ece", "macro_f1", "matthews")
    assert set(metrics["intervals"]) == {*always, "kappa", "quadratic_kappa", "cost", "least_cost"}
    assert all((metrics["intervals"][name] is None) == (units < 2) for name in always)
    intervals = [metrics["intervals"][name] for name in always if name != "matthews"]
    for number, row in enumerate(metrics["per_class"]):
        of_class = np.flatnonzero(actual == number)
        lie_in = len({image % 3 for image in of_class}) if grouped else len(of_class)
        for measure in MEASURES:
            interval = row[f"{measure}_interval"]
            assert interval is None or lie_in >= 2
            assert interval not in ([0, 0], [1, 1])
            intervals.append(interval)
        assert (row["recall_interval"] is None) == (lie_in < 2)
    assert all(0 <= low <= high for low, high in (interval for interval in intervals if interval))


def test_the_interval_of_the_accuracy_is_around_it_and_known_from_the_binomial() -> None:
    actual = np.zeros(400, int)
    probabilities = np.where(np.arange(400)[:, None] < 300, [[0.8, 0.2]], [[0.3, 0.7]])
    metrics = measured(actual, probabilities, ["a", "b"])
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert metrics["intervals"]["accuracy"] == pytest.approx([0.75 - half, 0.75 + half], abs=0.004)
    assert metrics["per_class"][0]["recall_interval"] == metrics["intervals"]["accuracy"]
    assert metrics["per_class"][0]["precision_interval"] == [wilson_interval(300, 300)[0], 1]
    assert metrics["per_class"][1]["precision_interval"] is None


def test_a_class_that_is_all_wrong_is_not_certain_to_stay_so() -> None:
    actual = np.array([0] * 5 + [1] * 5)
    metrics = measured(actual, np.tile([[0.1, 0.9]], (10, 1)), ["a", "b"])
    missed, found = metrics["per_class"]
    assert missed["recall_interval"] == [0, wilson_interval(0, 5)[1]]
    assert found["recall_interval"] == [wilson_interval(5, 5)[0], 1]
    assert (missed["precision_interval"], missed["f1_interval"]) == (None, None)


def test_a_split_of_a_single_class_has_no_area() -> None:
    metrics = measured(np.array([1, 1]), np.array([[0.2, 0.8], [0.6, 0.4]]), ["a", "b"])
    assert (metrics["roc_auc"], metrics["pr_auc"]) == (None, None)
    assert metrics["balanced_accuracy"] == metrics["accuracy"] == 0.5


@settings(max_examples=40)
@given(st.integers(2, 6), st.sampled_from([0.5, 0.8, 1.0, 1.4, 3.0]), st.integers(0, 2**32 - 1))
def test_before_scaling_is_the_softmax_of_the_logits_the_model_had(classes: int, temperature: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (20, classes))
    actual = np.arange(20) % classes
    calibrated = softmax(logits / temperature)
    np.testing.assert_allclose(uncalibrated(calibrated, temperature), softmax(logits), atol=2e-6)
    names = [str(number) for number in range(classes)]
    metrics = measured(actual, calibrated, names, temperature=temperature, resamples=2)
    before, after = metrics["calibration"]["before"], metrics["calibration"]["after"]
    assert before["loss"] == pytest.approx(log_loss(actual, softmax(logits), labels=range(classes)), rel=1e-4)
    assert after == {name: metrics[name] for name in ("loss", "brier", "ece")}
    assert metrics["calibration"]["temperature"] == temperature


def test_an_uncalibrated_model_has_no_calibration() -> None:
    assert measured(np.array([0]), np.array([[0.6, 0.4]]), ["a", "b"])["calibration"] is None


def test_a_probability_of_0_has_a_finite_logarithm_before_scaling() -> None:
    np.testing.assert_array_equal(uncalibrated(np.array([[1, 0]], np.float32), 2.0), [[1, 0]])


def test_what_does_not_fit_together_is_an_error() -> None:
    even = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=r"shape \(2, 2\).*\(2, 3\)"):
        measured(np.array([0, 1]), even, ["a", "b", "c"])
    with pytest.raises(ValueError, match="1 groups for 2 images"):
        measured(np.array([0, 1]), even, ["a", "b"], groups=["slide"])
    with pytest.raises(ValueError, match="is NaN"):
        measured(np.array([0, 1]), even * np.nan, ["a", "b"])


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image to measure"):
        measured(np.array([], dtype=int), np.zeros((0, 2)), ["a", "b"])


@settings(max_examples=60)
@given(results(), st.randoms(use_true_random=False))
def test_scikit_learn_agrees_on_correlation_and_kappa(result: tuple[Any, Any], random: Any) -> None:
    actual, probabilities = result
    classes, predicted = list(range(probabilities.shape[1])), probabilities.argmax(axis=1)
    order = random.sample(classes, len(classes))  # the lowest first
    ranks = np.array([order.index(number) for number in classes], float)
    metrics = measured(actual, probabilities, list(map(str, classes)), resamples=2, stakes=Stakes(ranks))
    one_class = len({*actual.tolist(), *predicted.tolist()}) == 1
    expected = 0 if one_class else matthews_corrcoef(actual, predicted)
    assert metrics["matthews"] == pytest.approx(expected, abs=1e-12)
    for name, weights in (("kappa", None), ("quadratic_kappa", "quadratic")):
        expected = None if one_class else cohen_kappa_score(actual, predicted, labels=order, weights=weights)
        assert metrics[name] == pytest.approx(expected, abs=1e-9), name


def test_costs_of_three_images_by_hand() -> None:
    costs = np.array([[0, 1.0], [10, 0]])  # to miss b is ten times as dear as to find it where it is not
    actual, probabilities = np.array([0, 1, 1]), np.array([[0.95, 0.05], [0.8, 0.2], [0.3, 0.7]])
    metrics = measured(actual, probabilities, ["a", "b"], stakes=Stakes(costs=costs))
    assert metrics["cost"] == pytest.approx(10 / 3)
    assert metrics["least_cost"] == 0  # 0.2 of b is enough: 0.2 * 10 > 0.8 * 1
    assert metrics["intervals"]["cost"] == [0, 10]
    assert metrics["quadratic_kappa"] is None
    without = measured(actual, probabilities, ["a", "b"])
    assert (without["cost"], without["intervals"]["cost"]) == (None, None)
