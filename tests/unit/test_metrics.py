"""Metrics: values by hand, and scikit-learn as the second opinion."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from lib.evaluation.metrics import classification_metrics
from lib.models.probabilities import cross_entropy

MEASURES = ("precision", "recall", "f1")


def test_five_images_by_hand() -> None:
    actual = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    metrics = classification_metrics(actual, probabilities, ["a", "b", "c"])
    assert metrics["images"] == 5
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["loss"] == pytest.approx(-math.log(0.9 * 0.7 * 0.1 * 0.5 * 0.1) / 5)
    assert metrics["confusion_matrix"] == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    a, b, c = metrics["per_class"]
    assert a == {
        "class_name": "a",
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
        "support": 3,
    }
    assert b == {"class_name": "b", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    # c was predicted once, wrongly, and has no test image.
    assert c == {"class_name": "c", "precision": 0.0, "recall": None, "f1": None, "support": 0}
    assert metrics["macro"] == pytest.approx({"precision": 0.75, "recall": 7 / 12, "f1": 0.65})
    assert metrics["weighted"] == pytest.approx({"precision": 0.8, "recall": 0.6, "f1": 0.68})


def test_a_class_neither_shown_nor_predicted_has_no_score() -> None:
    metrics = classification_metrics(np.array([1]), np.array([[0.1, 0.8, 0.1]]), ["a", "b", "c"])
    for row in (metrics["per_class"][0], metrics["per_class"][2]):
        assert [row[measure] for measure in MEASURES] == [None, None, None]
    assert metrics["macro"] == metrics["weighted"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_a_class_that_was_never_predicted_has_precision_0() -> None:
    metrics = classification_metrics(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]]), ["a", "b"])
    assert metrics["per_class"][1] == {"class_name": "b", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


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


@settings(deadline=None, max_examples=60)
@given(results())
def test_scikit_learn_agrees(result: tuple[Any, Any]) -> None:
    actual, probabilities = result
    classes = list(range(probabilities.shape[1]))
    names = [f"class {number}" for number in classes]
    predicted = probabilities.argmax(axis=1)
    metrics = classification_metrics(actual, probabilities, names)
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


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image to measure"):
        classification_metrics(np.array([], dtype=int), np.zeros((0, 2)), ["a", "b"])
