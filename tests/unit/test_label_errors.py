"""Planted wrong labels are found, and few others."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from lib.evaluation.checks.label_errors import label_error_candidates
from lib.folders.evaluation import LABEL_ERROR_SCHEMA
from lib.folders.predictions import PREDICTION_SCHEMA

CLASS_NAMES = ["liver", "lung", "skin", "spleen"]


def predictions(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> pa.Table:
    """Rows as `evaluate` writes them."""
    rows = []
    for number, (label, row) in enumerate(zip(labels, probabilities, strict=True)):
        best = int(row.argmax())
        rows.append({
            "image_id": f"id{number}", "path": f"{number}.tif", "label": CLASS_NAMES[label],
            "predicted": CLASS_NAMES[best], "correct": best == label, "confidence": row[best], "probabilities": row,
        })  # fmt: skip
    names = ["image_id", "path", "label", "predicted", "correct", "confidence", "probabilities"]
    return pa.Table.from_pylist(rows, schema=pa.schema([PREDICTION_SCHEMA.field(name) for name in names]))


def modelled(truth: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float64]:
    """Probabilities of a model that is right about 95 times in 100."""
    logits = np.random.default_rng(seed).normal(size=(len(truth), len(CLASS_NAMES)))
    logits[np.arange(len(truth)), truth] += 4
    exponentials = np.exp(logits)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("classes", [(0, 1, 2, 3), (0, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_most_planted_errors_are_found_with_few_others(classes: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.choice(classes, 400)
    labels, planted = truth.copy(), random.choice(400, 20, replace=False)
    labels[planted] = [random.choice([other for other in classes if other != truth[place]]) for place in planted]
    found = label_error_candidates(predictions(labels, modelled(truth, seed)), CLASS_NAMES)
    assert found.schema == LABEL_ERROR_SCHEMA
    ids = set(found["image_id"].to_pylist())
    right = ids & {f"id{place}" for place in planted}
    assert len(right) >= 14
    assert len(ids - right) <= 6


def test_the_label_with_the_lowest_probability_comes_first() -> None:
    truth = np.arange(200) % 4
    labels = truth.copy()
    labels[:8] = (labels[:8] + 1) % 4
    table = predictions(labels, modelled(truth, 1))
    found = label_error_candidates(table, CLASS_NAMES)
    assert found["score"].to_pylist() == sorted(found["score"].to_pylist())
    by_id = {row["image_id"]: row for row in table.to_pylist()}
    assert found.num_rows >= 4
    for row in found.to_pylist():
        source = by_id[row["image_id"]]
        assert row["score"] == pytest.approx(source["probabilities"][CLASS_NAMES.index(row["label"])])
        assert {name: row[name] for name in row if name != "score"} == {
            name: source[name] for name in ("image_id", "path", "label", "predicted", "confidence")
        }


def test_labels_that_a_sure_model_shares_are_not_doubted() -> None:
    truth = np.arange(200) % 4
    probabilities = np.full((200, 4), 0.01)
    probabilities[np.arange(200), truth] = 0.97
    assert not label_error_candidates(predictions(truth, probabilities), CLASS_NAMES).num_rows


@pytest.mark.parametrize("images", [0, 1, 5])
def test_with_fewer_than_two_classes_there_is_no_candidate(images: int) -> None:
    probabilities = np.tile([0.1, 0.7, 0.1, 0.1], (images, 1))
    found = label_error_candidates(predictions(np.zeros(images, np.int64), probabilities), CLASS_NAMES)
    assert found.equals(LABEL_ERROR_SCHEMA.empty_table())


def test_a_class_of_one_image_does_no_harm() -> None:
    truth = np.array([0] * 50 + [1] * 50 + [2])
    found = label_error_candidates(predictions(truth, modelled(truth, 4)), CLASS_NAMES)
    assert found.num_rows <= 5


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0, 3.0, 4.0])
def test_labels_are_doubted_only_by_models_whose_doubt_means_something(strength: float) -> None:
    """Twenty sets of 240 images of 4 classes, one label in twenty wrong, and a calibrated model of this strength."""
    random, doubted, wrong = np.random.default_rng(7), 0, 0
    for _ in range(20):
        truth = random.integers(0, 4, 240)
        logits = random.normal(size=(240, 4))
        logits[np.arange(240), truth] += strength
        exponentials = np.exp(logits * max(strength, 0.5))
        planted = random.random(240) < 0.05
        labels = np.where(planted, (truth + random.integers(1, 4, 240)) % 4, truth)
        rows = predictions(labels, exponentials / exponentials.sum(axis=1, keepdims=True))
        found = label_error_candidates(rows, CLASS_NAMES)
        ids = {int(name.removeprefix("id")) for name in found["image_id"].to_pylist()}
        doubted += len(ids)
        wrong += sum(planted[number] for number in ids)
    assert doubted == 0 if strength < 2 else wrong / doubted > 0.25
