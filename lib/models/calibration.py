"""Temperature scaling: one number by which logits are divided, so that confidence tells how often a model is right."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lib.folders.model import Calibration
from lib.models.probabilities import FloatArray, IntArray, calibration_error, cross_entropy, softmax

if TYPE_CHECKING:
    import keras

LOWEST, HIGHEST = 0.05, 20.0
PRIOR_SIGMA = 0.5
"""Deviation of ln T that is expected before any image is seen: two of three networks have T between 0.61 and 1.65.

Without it, a few images that are all right would have the smallest T that is allowed, and all probabilities 0 or 1.
"""
GRID, ROUNDS = 61, 5
"""A grid over ln T, and how often it is laid anew around the best point: to a ten-millionth."""


def fit_calibration(logits: FloatArray, actual: IntArray) -> Calibration | None:
    """Fit a temperature (see `fit_temperature`) and measure what it does; None where there is no image."""
    if not len(logits):
        return None
    temperature = fit_temperature(logits, actual)
    before, after = _quality(logits, actual), _quality(logits / temperature, actual)
    return Calibration(
        temperature=temperature,
        images=len(logits),
        loss_before=before[0],
        loss_after=after[0],
        ece_before=before[1],
        ece_after=after[1],
    )


def _quality(logits: FloatArray, actual: IntArray) -> tuple[float, float]:
    """Cross-entropy and calibration error."""
    probabilities = softmax(logits)
    error = calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == actual)
    return cross_entropy(actual, probabilities), error


def fit_temperature(logits: FloatArray, actual: IntArray) -> float:
    """The temperature that makes logits fit the truth best, with a log-normal prior around 1.

        T = argmin over T of  sum over images of -log softmax(logits / T)[actual]  +  (ln T)^2 / (2 PRIOR_SIGMA^2)

    The prior weighs as much as a few images do, and vanishes beside hundreds.

    Args:
        logits: Shape (n, classes), finite.
        actual: The true class of each image as a number, shape (n,).

    Returns:
        From `LOWEST` to `HIGHEST`; 1 where there is no image.

    Raises:
        ValueError: If the shapes do not fit or a logit is not finite.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2; the prior is ours.
    """
    if logits.ndim != 2 or actual.shape != logits.shape[:1] or not np.isfinite(logits).all():  # noqa: PLR2004 - a matrix
        raise ValueError(f"expected finite logits (n, classes) and n classes, got {logits.shape} and {actual.shape}")
    gaps = _gaps(logits, actual)
    low, high = np.log(LOWEST), np.log(HIGHEST)
    for _ in range(ROUNDS):  # a grid, since with the prior the objective may have more than one valley
        grid = np.linspace(low, high, GRID)
        best = int(np.argmin([_objective(gaps, value) for value in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)]
    return float(np.exp(grid[best]))


def _objective(gaps: npt.NDArray[np.float64], log_temperature: float) -> float:
    scaled = gaps * np.exp(-log_temperature)
    highest = scaled.max(axis=1, initial=0)
    losses = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
    return float(losses.sum() + (log_temperature / PRIOR_SIGMA) ** 2 / 2)


def _gaps(logits: FloatArray, actual: IntArray) -> npt.NDArray[np.float64]:
    """How far each logit is above that of the true class; the loss of an image is the logsumexp of its row."""
    exact = logits.astype(np.float64)
    return np.asarray(exact - exact[np.arange(len(exact)), actual][:, None])


def scale_last_layer(network: "keras.Model", temperature: float) -> None:
    """Have a network return its logits divided by a temperature, by dividing kernel and bias of its last layer.

    Args:
        network: From images or features to logits; its last layer is a `Dense` without activation. Changed in place.
        temperature: T, positive.

    Raises:
        ValueError: If the last layer is another one.
    """
    import keras

    last = network.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.linear:
        raise ValueError(f"the last layer of {network.name} is {last.name}, which gives no logits; expected a Dense")
    last.set_weights([weight / np.float32(temperature) for weight in last.get_weights()])
