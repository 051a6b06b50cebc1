"""Temperature scaling: the best temperature by brute force, and what it may not change."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from lib.models.calibration import HIGHEST, LOWEST, PRIOR_SIGMA, fit_calibration, fit_temperature
from lib.models.probabilities import cross_entropy, softmax

Images = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def calibrated(images: int, classes: int, seed: int, spread: float = 2.0) -> Images:
    """Logits whose softmax tells how often each class is the true one."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (images, classes)).astype(np.float32)
    drawn = logits + random.gumbel(size=logits.shape)  # its largest entry is a draw from the softmax
    return logits, drawn.argmax(axis=1)


def by_hand(logits: npt.NDArray[np.float32], actual: npt.NDArray[np.int64], temperature: float) -> float:
    """What is to be minimised, in other words."""
    likelihoods = log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(len(actual)), actual]
    return float(-likelihoods.sum() + np.log(temperature) ** 2 / (2 * PRIOR_SIGMA**2))


@st.composite
def some_images(draw: st.DrawFn) -> Images:
    classes, images = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    scale = draw(st.sampled_from([0.01, 1.0, 5.0, 100.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.normal(0, scale, (images, classes)).astype(np.float32), random.integers(0, classes, images)


@settings(max_examples=50)
@given(images=some_images())
def test_no_temperature_of_a_fine_grid_is_better(images: Images) -> None:
    found = fit_temperature(*images)
    assert LOWEST <= found <= HIGHEST
    best = min(by_hand(*images, temperature) for temperature in np.geomspace(LOWEST, HIGHEST, 2000))
    assert by_hand(*images, found) <= best + 1e-9 * abs(best)


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5, 8.0])
def test_the_factor_of_logits_that_were_too_large_is_found(factor: float) -> None:
    logits, actual = calibrated(20_000, 5, seed=1)
    assert fit_temperature(logits * np.float32(factor), actual) == pytest.approx(factor, rel=0.03)


def test_without_images_logits_stay_as_they_are() -> None:
    logits, actual = np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    assert fit_temperature(logits, actual) == pytest.approx(1)
    assert fit_calibration(logits, actual) is None


def test_three_images_that_are_all_right_do_not_make_the_model_certain() -> None:
    logits = np.eye(3, dtype=np.float32) * 4
    few = fit_temperature(logits, np.arange(3))
    assert 0.6 < few < 1
    assert fit_temperature(np.tile(logits, (3000, 1)), np.arange(9000) % 3) < 0.4


@settings(max_examples=30)
@given(images=some_images(), seed=st.integers(0, 1000))
def test_neither_the_order_of_the_images_nor_a_shift_of_their_logits_matters(images: Images, seed: int) -> None:
    logits, actual = images
    random = np.random.default_rng(seed)
    order = random.permutation(len(actual))
    shifted = logits.astype(np.float64) + random.normal(size=(len(actual), 1))
    expected = fit_temperature(logits, actual)
    assert fit_temperature(logits[order], actual[order]) == pytest.approx(expected, rel=1e-4)
    assert fit_temperature(shifted, actual) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=30)
@given(images=some_images())
def test_a_calibration_changes_no_prediction_and_tells_the_loss_of_both(images: Images) -> None:
    logits, actual = images
    found = fit_calibration(logits, actual)
    assert found is not None
    np.testing.assert_array_equal((logits / found.temperature).argmax(axis=1), logits.argmax(axis=1))
    assert found.loss_before == cross_entropy(actual, softmax(logits))
    assert found.loss_after == cross_entropy(actual, softmax(logits / found.temperature))
    assert found.images == len(actual)


def test_a_model_that_is_too_sure_of_itself_is_better_afterwards() -> None:
    logits, actual = calibrated(2000, 4, seed=2)
    found = fit_calibration(logits * 4, actual)
    assert found is not None
    assert found.ece_before > 0.1
    assert found.ece_after < 0.05
    assert found.loss_after < found.loss_before


@pytest.mark.parametrize("logits", [np.zeros((2, 3)), np.zeros(3), np.full((3, 2), np.nan)])
def test_what_are_no_logits_of_these_images_is_refused(logits: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="expected finite logits"):
        fit_temperature(logits, np.zeros(3, np.int64))
