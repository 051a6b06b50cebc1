"""Which of two models is better, judged by the images that both of them predicted."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from lib.errors import DataError
from lib.evaluation.measures.intervals import Interval, Units, percentile_interval, resampled_sums


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        images: How many images both predicted.
        only_first: Images that only the first model has right.
        only_second: Images that only the second model has right.
        p_value: Of the exact McNemar test, in [0, 1]. It takes images for independent; those of one slide are not, so
            where there are groups, the interval is the more careful of the two.
        difference: Accuracy of the first less that of the second, in [-1, 1].
        interval: 95 % bootstrap interval of the difference; None where there is only one group, or one image.
    """

    images: int
    only_first: int
    only_second: int
    p_value: float
    difference: float
    interval: Interval | None


def compare(
    first: Mapping[str, bool],
    second: Mapping[str, bool],
    groups: Mapping[str, str | None] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two models, image by image.

    Args:
        first: Whether the first model is right, by image id.
        second: The same of the second model.
        groups: The group (slide, patient) of each image; resampled as a whole if every image has one.
        resamples: How many resamples the interval comes from.
        seed: The same seed gives the same interval, in whatever order the images come.

    Raises:
        DataError: If there is no image, or one that only one of the models predicted.
    """
    ids = sorted(first.keys() | second.keys())
    if not ids:
        raise DataError("models without predictions cannot be compared")
    if unpaired := sorted(first.keys() ^ second.keys()):
        raise DataError(
            f"{len(unpaired)} of {len(ids)} images were predicted by only one of two models, for example image "
            f"{unpaired[0]}; models can be compared only on the same images"
        )
    gain = np.array([int(first[image]) - int(second[image]) for image in ids])
    only_first, only_second = int((gain > 0).sum()), int((gain < 0).sum())
    units = Units.of(len(ids), None if groups is None else [groups.get(image) for image in ids])
    gains, images = resampled_sums(np.stack([gain, np.ones(len(ids))]), units, resamples, seed).T
    return Comparison(
        images=len(ids),
        only_first=only_first,
        only_second=only_second,
        p_value=exact_mcnemar(only_first, only_second),
        difference=(only_first - only_second) / len(ids),
        interval=percentile_interval(gains / images, units.count),
    )


def exact_mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided probability of so unequal a split of the disagreements if neither model is better.

        p = min(1, 2 * sum over k <= min(b, c) of binomial(b + c, k) / 2^(b + c))

    Args:
        first_only: Images only the first model has right, at least 0.
        second_only: Images only the second model has right, at least 0.

    Returns:
        A probability in [0, 1]; 1 without disagreement.

    Source:
        McNemar, Psychometrika 12, 1947; the exact binomial form.
    """
    disagreements = first_only + second_only
    return float(binomtest(min(first_only, second_only), disagreements).pvalue) if disagreements else 1.0
