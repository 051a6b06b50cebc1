"""What choosing the best of several adds to its own measure, and that the correction takes it away again."""

import numpy as np
import pytest

from lib.evaluation.measures.intervals import Units
from lib.evaluation.measures.optimism import corrected_choice


def images(count: int) -> Units:
    return Units.of(count, None)


def guesses(count: int, models: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses and hits of models that know nothing of two classes, each unsure in its own way."""
    random = np.random.default_rng(seed)
    of_truth = random.uniform(0.05, 0.95, (count, models))
    return -np.log(of_truth), of_truth > 0.5


def test_the_best_of_many_useless_models_is_above_chance_until_it_is_corrected() -> None:
    found = []
    for seed in range(20):
        losses, hits = guesses(60, 100, seed)
        best = losses.mean(axis=0).argmin()
        corrected = corrected_choice(losses, hits, images(60), resamples=100)
        found.append((hits[:, best].mean(), corrected.accuracy, losses[:, best].mean(), corrected.loss))
    accuracy, corrected_accuracy, loss, corrected_loss = np.mean(found, axis=0)
    chance = -np.log(np.random.default_rng(0).uniform(0.05, 0.95, 100_000)).mean()
    assert accuracy > 0.58
    assert corrected_accuracy == pytest.approx(0.5, abs=0.02)
    assert loss < chance - 0.1
    assert corrected_loss == pytest.approx(chance, abs=0.03)


def test_two_images_that_two_models_share_out_are_both_lost() -> None:
    # Drawn twice, an image chooses the model that knows it, which does not know the other.
    losses = np.array([[0.0, 1.0], [1.0, 0.0]])
    corrected = corrected_choice(losses, losses == 0, images(2))
    assert (corrected.loss, corrected.accuracy) == (1.0, 0.0)
    assert corrected.won.sum() == pytest.approx(1)


def test_a_model_that_is_best_without_doubt_keeps_its_measure() -> None:
    losses, hits = guesses(300, 3, seed=1)
    losses[:, 1] /= 10
    corrected = corrected_choice(losses, hits, images(300), resamples=500)
    assert corrected.won.tolist() == pytest.approx([0, 1, 0])
    assert corrected.loss == pytest.approx(losses[:, 1].mean(), rel=0.01)
    assert corrected.accuracy == pytest.approx(hits[:, 1].mean(), abs=0.01)


def test_images_of_a_slide_are_drawn_together() -> None:
    slides = Units.of(8, ["one"] * 4 + ["other"] * 4)
    losses = np.repeat([[0.0, 1.0], [1.0, 0.0]], 4, axis=0)
    assert corrected_choice(losses, losses == 0, slides).loss == 1.0
    assert corrected_choice(losses, losses == 0, images(8)).loss < 1.0


def test_one_slide_shows_nothing_of_luck() -> None:
    losses, hits = guesses(10, 2, seed=0)
    corrected = corrected_choice(losses, hits, Units.of(10, ["slide"] * 10))
    assert (corrected.loss, corrected.accuracy) == (None, None)


def test_the_same_seed_gives_the_same_numbers() -> None:
    losses, hits = guesses(40, 5, seed=2)
    one, again, other = (corrected_choice(losses, hits, images(40), 50, seed) for seed in (0, 0, 1))
    assert (one.loss, one.won.tolist()) == (again.loss, again.won.tolist())
    assert one.loss != other.loss
