"""Every measure by the values of any column (site, scanner, age): where a model is worse than elsewhere."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import fisher_exact

from lib.evaluation.measures.intervals import (
    Interval,
    Units,
    percentile_interval,
    resampled_sums,
    unless_certain,
)
from lib.evaluation.measures.measures import NO_STAKES, OVERALL, contributions, measures_of
from lib.evaluation.measures.stakes import Stakes
from lib.folders.evaluation import SLICE_SCHEMA
from lib.models.probabilities import FloatArray, IntArray
from lib.plots import wilson_interval

FEWEST_IMAGES = 5
"""Slices with fewer are not measured."""
MOST_VALUES = 12
"""A column of numbers that has more of them is cut into quarters."""
MOST_SLICES = 100
"""Of one column: those with the most images."""
PERMUTATIONS = 9999
Columns = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class Slice:
    """The images that have one value, or numbers within one quarter, of a column; `chosen` has shape (n,)."""

    column: str
    value: str
    chosen: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """What is measured.

    Attributes:
        actual: The true class of each image as a number, shape (n,).
        probabilities: Shape (n, classes).
        groups: The group of each image, None where it has none.
        stakes: What mistakes cost.
    """

    actual: IntArray
    probabilities: FloatArray
    groups: Sequence[str | None]
    stakes: Stakes = NO_STAKES

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each is right, shape (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.actual)


def slice_table(answers: Answers, columns: Columns, resamples: int = 2000, seed: int = 0) -> pa.Table:
    """Measure every slice, and test whether it differs from all images beside it whose value is known.

    The p value of the difference in accuracy is Fisher's exact one where groups are unknown. Where they are known, it
    is from permutations of whole groups; then there is none for a column in which a group has several values. What is
    called adjusted is corrected for the number of slices by Holm's method, which holds whatever depends on what.

    Args:
        answers: Of n images.
        columns: Values by column, each of n, None where unknown.
        resamples: How many resamples the intervals come from.
        seed: The same seed gives the same intervals and p values.

    Returns:
        Rows of `SLICE_SCHEMA`, the lowest accuracy first.

    Source:
        Fisher, The Design of Experiments, 1935; Phipson and Smyth, Permutation P-values should never be zero, 2010;
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    slices = [found for name, values in columns.items() for found in slices_of(name, values)]
    summands = contributions(answers.actual, answers.probabilities, answers.stakes).tocsc()
    measured = [_measured(answers, summands[:, found.chosen], found.chosen, resamples, seed) for found in slices]
    p_values = [_p_value(answers, found, columns[found.column], seed) for found in slices]
    rows = [
        {"column": found.column, "value": found.value, **numbers, "p_value": p_value, "adjusted_p_value": adjusted}
        for found, numbers, p_value, adjusted in zip(slices, measured, p_values, holm(p_values), strict=True)
    ]
    rows.sort(key=lambda row: (row["accuracy"], row["column"], row["value"]))
    return pa.Table.from_pylist(rows, schema=SLICE_SCHEMA)


def slices_of(column: str, values: Sequence[str | None]) -> Iterator[Slice]:
    """The slices of a column that have images enough; none where no two values are known."""
    names = quarters(values)
    known, counts = np.unique([name for name in names if name is not None], return_counts=True)
    if len(known) < 2:  # noqa: PLR2004 - nothing to compare with
        return
    order, all_names = np.argsort(-counts, kind="stable")[:MOST_SLICES], np.array(names, object)
    for value in sorted(str(known[place]) for place in order if counts[place] >= FEWEST_IMAGES):
        yield Slice(column, value, np.asarray(all_names == value, bool))


def quarters(values: Sequence[str | None]) -> list[str | None]:
    """Values as they are, or, where they are many numbers, the range of the quarter that each is in: `54 to 61`."""
    numbers = np.array([_number(value) for value in values])
    known = ~np.isnan(numbers)
    if sum(value is not None for value in values) > known.sum() or len(np.unique(numbers[known])) <= MOST_VALUES:
        return list(values)
    edges = np.unique(np.quantile(numbers[known], [0.25, 0.5, 0.75]))
    quarter = np.searchsorted(edges, numbers, side="left")
    ranges = {part: numbers[known & (quarter == part)] for part in np.unique(quarter[known])}
    names = {part: f"{inside.min():g} to {inside.max():g}" for part, inside in ranges.items()}
    return [names[part] if is_known else None for part, is_known in zip(quarter, known, strict=True)]


def _number(value: str | None) -> float:
    try:
        number = float(value or "nan")
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values as they are after looking at all of them: at most one in 20 sets of them has any below 0.05 by luck.

    Args:
        p_values: None where there is none; such are not counted.
    """
    order = sorted((p_value, place) for place, p_value in enumerate(p_values) if p_value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for done, (p_value, place) in enumerate(order):
        highest = max(highest, min(1.0, p_value * (len(order) - done)))
        adjusted[place] = highest
    return adjusted


def _measured(
    answers: Answers, summands: object, chosen: npt.NDArray[np.bool_], resamples: int, seed: int
) -> dict[str, object]:
    """The numbers of one slice."""
    images, classes = int(chosen.sum()), answers.probabilities.shape[1]
    units = Units.of(images, [answers.groups[place] for place in np.flatnonzero(chosen).tolist()])
    values = measures_of(np.asarray(summands.sum(axis=1)).ravel(), classes, answers.stakes)  # type: ignore[attr-defined]
    resampled = measures_of(resampled_sums(summands, units, resamples, seed), classes, answers.stakes)
    found: dict[str, object] = {"images": images, "groups": units.count if units.kind == "group" else None}
    for name in OVERALL:
        value = float(values[name])
        interval = percentile_interval(resampled[name], units.count)
        if name == "accuracy":
            interval = _accuracy_interval(round(value * images), images, units, interval)
        low, high = interval or (None, None)
        found |= {name: None if math.isnan(value) else value, f"{name}_low": low, f"{name}_high": high}
    return found


def _accuracy_interval(right: int, images: int, units: Units, resampled: Interval | None) -> Interval | None:
    if units.kind == "image":
        return wilson_interval(right, images)
    return unless_certain(resampled, units.count)


def _p_value(answers: Answers, found: Slice, values: Sequence[str | None], seed: int) -> float | None:
    known = np.array([value is not None for value in values])
    rest, correct = known & ~found.chosen, answers.correct
    if not rest.any():
        return None
    units = Units.of(len(values), answers.groups)
    if units.kind == "image":
        table = [[int(correct[some].sum()), int((~correct[some]).sum())] for some in (found.chosen, rest)]
        return float(fisher_exact(table)[1])
    return _permuted(units.of_image[known], found.chosen[known], correct[known], seed)


def _permuted(
    of_group: IntArray, chosen: npt.NDArray[np.bool_], correct: npt.NDArray[np.bool_], seed: int
) -> float | None:
    """How often a slice of as many groups differs as much, where which groups are in it is drawn by lot."""
    _, of_group = np.unique(of_group, return_inverse=True)
    images = np.bincount(of_group)
    inside = np.bincount(of_group, chosen) / images
    if not np.isin(inside, (0, 1)).all():
        return None
    right = np.bincount(of_group, correct)

    def difference(drawn: FloatArray) -> FloatArray:
        """Of the accuracy inside and outside, for slices of shape (draws, groups)."""
        within = drawn @ np.stack([right, images], axis=1)
        beside = np.array([right.sum(), images.sum()]) - within
        return np.asarray(np.abs(within[:, 0] / within[:, 1] - beside[:, 0] / beside[:, 1]))

    seen, rng = difference(inside[None])[0], np.random.default_rng(seed)
    as_much = sum(
        int((difference(rng.permuted(np.tile(inside, (some, 1)), axis=1)) >= seen - 1e-12).sum())
        for some in np.diff([*range(0, PERMUTATIONS, 1000), PERMUTATIONS])
    )
    return (1 + as_much) / (1 + PERMUTATIONS)
