"""One answer for a slide: the mean of logits or the majority, by hand; and how good such answers are."""

import numpy as np
import pyarrow as pa
import pytest

from lib.evaluation.measures.group_answers import answer_groups, group_metrics
from lib.evaluation.measures.metrics import classification_metrics
from lib.folders.predictions import GROUP_SCHEMA, PREDICTION_SCHEMA
from lib.models.probabilities import softmax

CLASSES = ["liver", "lung"]


def predictions(*images: tuple[str | None, str | None, float]) -> pa.Table:
    """Images by group, label and probability of the second class."""
    rows = [
        {
            "image_id": str(number),
            "path": f"{number}.tif",
            "label": label,
            "predicted": CLASSES[second > 0.5],
            "confidence": max(second, 1 - second),
            "probabilities": [1 - second, second],
            "group": group,
        }
        for number, (group, label, second) in enumerate(images)
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA)


def test_the_mean_of_logits_answers_and_a_majority_may_answer_otherwise() -> None:
    images = predictions(("s1", "lung", 0.99), ("s1", "lung", 0.4), ("s1", "lung", 0.4), (None, "liver", 0.1))
    (mean,) = answer_groups(images, CLASSES).to_pylist()
    (votes,) = answer_groups(images, CLASSES, "majority").to_pylist()
    odds = (0.99 / 0.01 * (0.4 / 0.6) ** 2) ** (1 / 3)
    assert mean["probabilities"] == pytest.approx([1 / (1 + odds), odds / (1 + odds)], abs=1e-6)
    assert (mean["predicted"], mean["correct"], mean["images"]) == ("lung", True, 3)
    assert mean["agreement"] == pytest.approx(1 / 3)
    assert votes["probabilities"] == pytest.approx([2 / 3, 1 / 3], abs=1e-5)
    assert (votes["predicted"], votes["correct"], votes["agreement"]) == ("liver", False, pytest.approx(2 / 3))


def test_of_as_many_votes_the_more_probable_class_wins() -> None:
    for sure, answer in ((0.9, "lung"), (0.55, "liver")):
        images = predictions(("s1", None, sure), ("s1", None, 0.3))
        assert answer_groups(images, CLASSES, "majority")["predicted"].to_pylist() == [answer]


def test_probabilities_of_softmax_come_to_the_softmax_of_mean_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (7, 2))
    images = predictions(*(("s1", "lung", float(second)) for second in softmax(logits)[:, 1]))
    (answer,) = answer_groups(images, CLASSES).to_pylist()
    assert answer["probabilities"] == pytest.approx(softmax(logits.mean(axis=0)[None])[0], abs=1e-5)


def test_a_group_of_several_classes_is_answered_but_not_measured() -> None:
    images = predictions(("b", "lung", 0.9), ("a", "lung", 0.8), ("a", "liver", 0.7), ("c", "liver", 0.6))
    answers = answer_groups(images, CLASSES)
    assert answers.schema == GROUP_SCHEMA
    assert answers.select(["group", "label", "correct"]).to_pylist() == [
        {"group": "a", "label": None, "correct": None},
        {"group": "b", "label": "lung", "correct": True},
        {"group": "c", "label": "liver", "correct": False},
    ]
    found = group_metrics(answers, CLASSES)
    assert (found.groups, found.of_several_classes) == (3, 1)
    expected = classification_metrics(np.array([1, 0]), np.array([[0.1, 0.9], [0.4, 0.6]], np.float32), CLASSES)
    assert found.metrics.accuracy == 0.5
    assert found.metrics.confusion_matrix == expected.confusion_matrix
    assert found.metrics.loss == pytest.approx(expected.loss, abs=1e-6)


def test_without_a_label_or_a_group_there_is_nothing_to_measure() -> None:
    assert group_metrics(answer_groups(predictions(("a", None, 0.9)), CLASSES), CLASSES) is None
    assert answer_groups(predictions((None, "lung", 0.9)), CLASSES).num_rows == 0
