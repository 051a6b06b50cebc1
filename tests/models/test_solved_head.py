"""A head that is solved: what is saved, by what it is judged, and that it is the same however it is come by."""

import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from lib.dataset.memory import ExampleCache, zeros_in_a_file
from lib.errors import DataError
from lib.folders.history import HistoryRow
from lib.models.registry import STANDARDISE, Network
from lib.training.fit import loader, solve
from tests.fakes.images import FakeSource
from tests.fakes.training import Trained, TrainingHere

SIZE, CLASS_COUNT = 16, 3
SAVED = "saved:path=unused"
SOLVED = {"spec": SAVED, "head": "solved", "batch_size": 4}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> TrainingHere:
    training = TrainingHere(monkeypatch)
    training.build = standardising
    return training


def source(count: int = 60) -> FakeSource:
    return FakeSource({"train": count, "validation": 12}, refused=frozenset({5}), confused=4)


def standardising(size: int) -> Network:
    """A head that standardises the features of a frozen base."""
    images = keras.Input((size, size, 3), dtype="uint8")
    tensor = keras.layers.Conv2D(8, 3, strides=2)(keras.layers.Rescaling(1 / 255)(images))
    base = keras.Model(images, keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(tensor)), name="base")
    base.trainable = False
    layers = [keras.layers.Normalization(name=STANDARDISE), keras.layers.Dense(CLASS_COUNT, name="logits")]
    outer, features = keras.Input((size, size, 3), dtype="uint8"), keras.Input((8,))
    ends = []
    for tensor in (base(outer), features):
        for layer in layers:
            tensor = layer(tensor)  # noqa: PLW2901
        ends.append(tensor)
    return Network(keras.Model(outer, ends[0]), base, keras.Model(features, ends[1]))


def logits_of(trained: Trained, split: str, images: FakeSource) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for unit in images.units(split) for row in images.decoder(unit).to_pylist() if row["image"]]
    pixels = np.stack([np.frombuffer(row["image"], np.uint8).reshape(SIZE, SIZE, 3) for row in rows])
    labels = np.array([images.class_names.index(row["label"]) for row in rows])
    return np.asarray(trained.model(pixels, training=False)), labels


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]))


def test_the_history_tells_the_path_over_penalties(here: TrainingHere, tmp_path: Path) -> None:
    trained = here.run(tmp_path, source(), **SOLVED)
    history = trained.history
    assert set(history["phase"]) == {"head"}
    assert history["learning_rate"].isna().all()
    assert history["penalty"].is_monotonic_decreasing
    assert history["loss"].is_monotonic_decreasing  # a weaker penalty fits what it is fitted to better
    best = trained.results["metrics"]["best_epoch"]
    assert history["left_out_loss"].idxmin() + 1 == best
    assert trained.results["metrics"]["val_loss"] == pytest.approx(history["val_loss"][best - 1])
    assert trained.steps < 20  # none of an optimizer


def test_the_saved_model_has_the_losses_that_the_history_states(here: TrainingHere, tmp_path: Path) -> None:
    trained = here.run(tmp_path, source(), **SOLVED)
    row = trained.history.iloc[trained.results["metrics"]["best_epoch"] - 1]
    temperature = trained.results["calibration"]["temperature"]
    for split, column in (("train", "loss"), ("validation", "val_loss")):
        logits, labels = logits_of(trained, split, source())
        assert cross_entropy(logits * temperature, labels) == pytest.approx(row[column], rel=1e-4)


def test_it_is_calibrated_by_training_images_that_its_heads_had_not_seen(here: TrainingHere, tmp_path: Path) -> None:
    trained = here.run(tmp_path, source(), **SOLVED)
    calibration, row = (
        trained.results["calibration"],
        trained.history.iloc[trained.results["metrics"]["best_epoch"] - 1],
    )
    assert calibration["images"] == 59  # of 60, one was refused
    assert calibration["loss_before"] == pytest.approx(row["left_out_loss"], rel=1e-5)
    assert calibration["loss_after"] <= calibration["loss_before"]
    assert trained.results["reference"]["validation_images"] == 59


def test_without_validation_images_it_is_calibrated_all_the_same(here: TrainingHere, tmp_path: Path) -> None:
    trained = here.run(tmp_path, FakeSource({"train": 30}, confused=4), **SOLVED)
    assert trained.results["calibration"]["images"] == 30
    assert trained.history["val_loss"].isna().all()


def test_a_head_solved_on_some_images_and_refined_on_all_is_as_good(here: TrainingHere, tmp_path: Path) -> None:
    refined = here.run(tmp_path / "refined", source(240), fold_images=90, **SOLVED)
    row = refined.history.iloc[refined.results["metrics"]["best_epoch"] - 1]
    for split, column in (("train", "loss"), ("validation", "val_loss")):
        logits, labels = logits_of(refined, split, source(240))
        temperature = refined.results["calibration"]["temperature"]
        assert cross_entropy(logits * temperature, labels) == pytest.approx(row[column], rel=1e-4)
    at_once = solved_with(here, tmp_path / "at once", row["penalty"])
    assert objective(refined, row["penalty"]) == pytest.approx(objective(at_once, row["penalty"]), rel=5e-3)


def test_features_that_do_not_fit_into_memory_are_kept_in_a_file_and_give_the_same_head(
    here: TrainingHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = here.run(tmp_path / "memory", source(240), fold_images=90, **SOLVED)
    rooms: list[tuple[int, ...]] = []

    def recorded(shape: tuple[int, ...]) -> np.ndarray:
        rooms.append(shape)
        return zeros_in_a_file(shape)

    monkeypatch.setattr(loader, "zeros_in_a_file", recorded)
    in_file = here.run(tmp_path / "file", source(240), fold_images=90, cache_gib=1e-6, **SOLVED)
    assert len(rooms) == 2
    for a, b in zip(in_file.model.get_weights(), in_memory.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    here.run(tmp_path / "adam", source(240), cache="none", **(SOLVED | {"head": "adam", "epochs": 1}))
    assert len(rooms) == 4


def test_a_head_is_refined_without_a_copy_of_all_features(
    here: TrainingHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks, held, most = solve.usable_chunks, list[weakref.ref[np.ndarray]](), [0]

    def watched(caches: Iterable[ExampleCache]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for features, labels in chunks(caches):
            held.append(weakref.ref(features))
            most.append(sum(reference() is not None for reference in held))
            yield features, labels

    monkeypatch.setattr(solve, "CHUNK", 16)
    monkeypatch.setattr(solve, "usable_chunks", watched)
    here.run(tmp_path, source(240), fold_images=90, **SOLVED)
    assert len(held) >= 2 * 240 / 16  # at least the sums and one step went through all images
    assert max(most) <= 2


def solved_with(here: TrainingHere, folder: Path, penalty: float) -> Trained:
    """The head of one penalty, solved on all images at once."""
    here.use_penalties((penalty,))
    return here.run(folder, source(240), **SOLVED)


def objective(trained: Trained, penalty: float) -> float:
    logits, labels = logits_of(trained, "train", source(240))
    temperature = trained.results["calibration"]["temperature"]
    kernel = trained.model.layers[-1].kernel.numpy() * temperature
    return cross_entropy(logits * temperature, labels) + penalty * kernel.shape[0] * float((kernel**2).sum()) / 2


def test_fine_tuning_begins_with_the_head_that_the_validation_images_judge_best(
    here: TrainingHere, tmp_path: Path
) -> None:
    fit = SOLVED | {"fine_tune_epochs": 1, "fine_tune_rate": 1e-9}
    trained = here.run(tmp_path, source(), **fit)
    heads = trained.history[trained.history["phase"] == "head"]
    assert heads["left_out_loss"].isna().all()
    tuned = trained.history[trained.history["phase"] == "fine_tune"].iloc[0]
    assert tuned["val_loss"] == pytest.approx(heads["val_loss"].min(), rel=1e-4)


@pytest.mark.slow
def test_a_training_stopped_while_fine_tuning_does_not_solve_its_head_again(here: TrainingHere, tmp_path: Path) -> None:
    fit = SOLVED | {"fine_tune_epochs": 2}
    undisturbed = here.run(tmp_path / "one", source(), **fit)
    here.run(tmp_path / "two", source(), stop_before=undisturbed.steps - 5, **fit)
    resumed = here.run(tmp_path / "two", source(), **fit)
    columns = ["phase", "loss", "val_loss", "penalty"]
    pd.testing.assert_frame_equal(resumed.history[columns], undisturbed.history[columns])
    for a, b in zip(resumed.model.get_weights(), undisturbed.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_class_without_a_usable_image_is_named(here: TrainingHere, tmp_path: Path) -> None:
    missing = FakeSource({"train": 12}, refused=frozenset({1, 4, 7, 10}))
    with pytest.raises(DataError, match="'lung' has no usable training image"):
        here.run(tmp_path, missing, **SOLVED)


def test_rows_are_judged_by_what_was_left_out_before_anything_else() -> None:
    row = HistoryRow(1, "head", 0.1, 1.0, 0.2, 1.0, None, 1.0, 1.0, 0.0, 1e-3, 0.3, 0.9)
    assert row.watched_loss == 0.3
