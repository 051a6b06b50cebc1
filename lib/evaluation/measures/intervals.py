"""How far a measure may be from the truth: resampling of images, or of slides where they are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from lib.models.probabilities import FloatArray, IntArray
from lib.plots import wilson_interval

CONFIDENCE_LEVEL = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True)
class Units:
    """What is drawn again as a whole: images of one group (slide, patient) are alike, so they stay together.

    Attributes:
        kind: Groups where every image has one, images otherwise.
        of_image: The unit of each image, as a number from 0, shape (n,).
        count: How many units there are.
    """

    kind: Literal["group", "image"]
    of_image: IntArray
    count: int

    @classmethod
    def of(cls, images: int, groups: Sequence[str | None] | None) -> "Units":
        """The units of a number of images.

        Raises:
            ValueError: If there are not as many groups as images.
        """
        if groups is not None and len(groups) != images:
            raise ValueError(f"{len(groups)} groups for {images} images")
        known = [group for group in groups or () if group is not None]
        if len(known) < images or not known:
            return cls("image", np.arange(images), images)
        names, of_image = np.unique(np.array(known), return_inverse=True)
        return cls("group", of_image, len(names))

    def among(self, chosen: npt.NDArray[np.bool_]) -> int:
        """In how many units the images lie that are chosen, of shape (n,)."""
        return len(np.unique(self.of_image[chosen]))


def resampled_sums(contributions: Any, units: Units, resamples: int, seed: int) -> FloatArray:
    """Sums over the images of each resample: as many units as there are, drawn with replacement.

    Args:
        contributions: What each image adds to each sum, an array or sparse array of shape (sums, n).
        units: What is drawn again.
        resamples: How often, at least 1.
        seed: The same seed gives the same resamples.

    Returns:
        Shape (resamples, sums). One resample is in memory at a time, so that 2,000 of them take no more than one.
    """
    images = np.arange(len(units.of_image))
    of_unit = csr_array((np.ones(len(images)), (images, units.of_image)), (len(images), units.count))
    by_unit, rng = contributions @ of_unit, np.random.default_rng(seed)
    draws = (rng.integers(units.count, size=units.count) for _ in range(resamples))
    return np.stack([by_unit @ np.bincount(drawn, minlength=units.count).astype(np.float64) for drawn in draws])


def percentile_interval(values: FloatArray, units: int) -> Interval | None:
    """The 95 % percentile interval.

    Args:
        values: The measure on each resample, shape (resamples,); NaN where it is undefined, which is left out.
        units: How many units the measure rests on. One unit shows nothing of how units differ.

    Returns:
        Low and high; None where there are fewer than two units.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    defined = values[~np.isnan(values)]
    if units < 2 or not len(defined):  # noqa: PLR2004
        return None
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def unless_certain(interval: Interval | None, units: int) -> Interval | None:
    """All right or all wrong stays so in every resample, which is no certainty: then by Wilson, of so many units."""
    if interval not in ((0.0, 0.0), (1.0, 1.0)):
        return interval
    return wilson_interval(units * int(interval[0]), units) if units else None
