"""What it costs to choose the best of several models by the very images on which it is then measured.

The best of many is partly the luckiest, so its cross-validated measure is too good. Choosing it again on resampled
images, and measuring it on those that are not in the resample, shows by how much.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lib.evaluation.measures.intervals import Units
from lib.models.probabilities import FloatArray

RESAMPLES = 2000


@dataclass(frozen=True)
class CorrectedChoice:
    """The choice of the model with the least loss, without what luck has added.

    Attributes:
        loss: Mean loss of the chosen one on images that did not choose; None where there is only one unit.
        accuracy: Its accuracy on them, in [0, 1].
        won: The share of resamples in which each model was the best, shape (m,).
    """

    loss: float | None
    accuracy: float | None
    won: FloatArray


def corrected_choice(
    losses: FloatArray, hits: npt.NDArray[np.bool_], units: Units, resamples: int = RESAMPLES, seed: int = 0
) -> CorrectedChoice:
    """Bootstrap bias-corrected cross-validation.

    In each resample of the units, the model with the least loss on what was drawn is measured on what was not; the mean
    over resamples is returned. No model is trained again.

    Args:
        losses: What each of m models lost on each of n images that it was fitted without, shape (n, m).
        hits: Whether it was right, shape (n, m).
        units: What is drawn as a whole: groups where every image has one.
        resamples: How often.
        seed: The same seed gives the same resamples.

    Source:
        Tsamardinos, Greasidou and Borboudakis, Bootstrapping the out-of-sample predictions for efficient and accurate
        cross-validation, Machine Learning 107, 2018, algorithm 5 (BBC-CV).
    """
    images, loss, right = (_by_unit(values, units) for values in (np.ones((len(losses), 1)), losses, hits))
    random, won, measured = np.random.default_rng(seed), np.zeros(losses.shape[1]), []
    for _ in range(resamples):
        drawn = np.bincount(random.integers(units.count, size=units.count), minlength=units.count)
        best = int((drawn @ loss).argmin())  # of equal ones the first
        won[best] += 1 / resamples
        outside = drawn == 0
        if outside.any():
            measured.append([loss[outside, best].sum(), right[outside, best].sum()] / images[outside].sum())
    mean_loss, accuracy = np.mean(measured, axis=0).tolist() if measured else (None, None)
    return CorrectedChoice(mean_loss, accuracy, won)


def _by_unit(values: npt.NDArray[np.generic], units: Units) -> FloatArray:
    """The sums over the images of each unit, of values of shape (n, ...)."""
    sums = np.zeros((units.count, *values.shape[1:]))
    np.add.at(sums, units.of_image, values)
    return sums
