"""Multinomial logistic regression with an L2 penalty: the linear head on a frozen base, solved to its one optimum.

No step size, no epochs, no order of images: the loss is convex, so whoever minimises it finds the same head. How strong
the penalty has to be is found by cross-validation along a path from strong to weak.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from lib.dataset.folds import NEVER_LEFT_OUT

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

PENALTIES = tuple(10.0 ** (-exponent / 2) for exponent in range(2, 15))
"""From strong, 0.1, to weak, 1e-7; see `Objective` for the unit."""
UNTRIED_PENALTY = 1e-4
"""Where no image can be left out to choose by: in the middle of the path."""
RISES = 2
"""So many penalties in a row with a higher cross-validated loss end the path: it has one valley."""
LEAST_DEVIATION = 1e-3
"""Features that hardly vary are centred, but not blown up; in units of the feature."""
MOST_AXES = 2048
"""With more features and more images than this, finding the principal axes would take longer than it saves."""
MOST_ITERATIONS = 500
TOLERANCE = 1e-6
"""Greatest gradient at the optimum, in nats by unit of a scaled weight."""


@dataclass(frozen=True)
class Standardisation:
    """Brings features to one scale, in which each block of them has the same variance in all, and the mean is 1.

    So where features come from several layers, a layer with many of them has no more say than one with few.

    Attributes:
        mean: Shape (d,).
        deviation: What to divide by, shape (d,), positive.
    """

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, features: npt.NDArray[np.floating], blocks: Sequence[int] = ()) -> "Standardisation":
        """That of some features (n, d), n at least 1; see `from_moments`."""
        exact = features.astype(np.float64, copy=False)
        return cls.from_moments(exact.mean(axis=0), exact.var(axis=0), blocks)

    @classmethod
    def from_moments(cls, mean: Array, variance: Array, blocks: Sequence[int] = ()) -> "Standardisation":
        """That of features with such moments.

        Args:
            mean: Shape (d,).
            variance: Shape (d,); rounding may have left some below 0.
            blocks: How many features each block has, d in all; empty for a single block.
        """
        deviation = np.maximum(np.sqrt(np.maximum(variance, 0)), LEAST_DEVIATION)
        sizes = np.array(blocks or [len(mean)])
        return cls(mean, deviation * np.repeat(np.sqrt(sizes * len(sizes) / len(mean)), sizes))

    def __call__(self, features: npt.NDArray[np.floating]) -> Array:
        """Standardised features (n, d)."""
        return np.asarray((features.astype(np.float64) - self.mean) / self.deviation)


@dataclass(frozen=True)
class LinearHead:
    """Logits are `standardisation(features) @ kernel + bias`.

    Attributes:
        kernel: Shape (d, classes).
        bias: Shape (classes,).
    """

    standardisation: Standardisation
    kernel: Array
    bias: Array

    def logits(self, features: npt.NDArray[np.floating]) -> Array:
        """Shape (n, classes), of features (n, d)."""
        return np.asarray(self.standardisation(features) @ self.kernel + self.bias)

    def restated(self, standardisation: Standardisation) -> "LinearHead":
        """The head with the same logits on features that are standardised in another way."""
        own = self.standardisation
        shift = (standardisation.mean - own.mean) / own.deviation
        ratio = standardisation.deviation / own.deviation
        return LinearHead(standardisation, self.kernel * ratio[:, None], self.bias + shift @ self.kernel)


@dataclass(frozen=True)
class Examples:
    """What a head is fitted to.

    Attributes:
        features: Shape (n, d).
        labels: Numbers of the classes, shape (n,).
        weights: How much each counts, shape (n,), positive.
    """

    features: npt.NDArray[np.floating]
    labels: IntArray
    weights: Array

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Examples":
        """Some of them."""
        return Examples(self.features[chosen], self.labels[chosen], self.weights[chosen])


@dataclass(frozen=True)
class Fit:
    """How well a head fits some examples.

    Attributes:
        loss: Weighted mean cross-entropy in nats.
        accuracy: Share that is predicted right, in [0, 1].
    """

    loss: float
    accuracy: float

    @classmethod
    def of(cls, logits: Array, examples: Examples) -> "Fit":
        """That of logits (n, classes), n at least 1."""
        losses = -log_softmax(logits, axis=1)[np.arange(len(logits)), examples.labels]
        hits = logits.argmax(axis=1) == examples.labels
        return cls(float(np.average(losses, weights=examples.weights)), float(hits.mean()))


@dataclass(frozen=True)
class PathStep:
    """One penalty of a path.

    Attributes:
        penalty: See `Objective`.
        training: On the examples that the head was fitted to.
        validation: On other examples; None without any.
        left_out: On each example by a head that was fitted without its fold; None without folds.
        seconds: How long it took.
    """

    penalty: float
    training: Fit
    validation: Fit | None
    left_out: Fit | None
    seconds: float

    @property
    def judged(self) -> float | None:
        """The loss by which penalties are compared; None where there is nothing to judge by."""
        judged = self.left_out or self.validation
        return judged.loss if judged else None


@dataclass(frozen=True)
class SolvedHead:
    """The head of the best penalty, and how it was chosen.

    Attributes:
        head: Fitted to all examples.
        path: The penalties that were tried, from strong to weak.
        chosen: The place of the best in the path.
        left_out_logits: What heads of that penalty, fitted without the fold of an example, say of it, shape
            (n, classes); NaN for an example that was never left out. None without folds.
    """

    head: LinearHead
    path: list[PathStep]
    chosen: int
    left_out_logits: Array | None


class Objective:
    """What is minimised, as a function of the weights v, flat, of `columns` (see `minimise`).

        J(v, b) = sum_i w_i CE(columns_i V + b, y_i) / sum_i w_i  +  1/2 sum_j penalty_j |V_j|^2

    With columns that are standardised features divided by the square root of their number d, and one penalty for all,
    it does not depend on the scale nor on the number of features. The bias is not punished.
    """

    def __init__(self, columns: Array, examples: Examples, class_count: int, penalty: Array) -> None:
        """Take columns (n, r) that stand for the features of the examples, and a penalty for each (r,)."""
        self._columns, self._penalty = columns, penalty[:, None]
        self._labels, self._weights = examples.labels, examples.weights / examples.weights.sum()
        self._class_count = class_count

    def __call__(self, flat: Array) -> tuple[float, Array]:
        """The value and its gradient, flat."""
        kernel, bias = unflatten(flat, self._class_count)
        loss, gradient = data_term(self._columns, self._labels, self._weights, kernel, bias)
        gradient[:-1] += self._penalty * kernel
        return loss + float((self._penalty * kernel**2).sum() / 2), gradient.ravel()


def data_term(columns: Array, labels: IntArray, weights: Array, kernel: Array, bias: Array) -> tuple[float, Array]:
    """The weighted sum of the cross-entropies of some examples, and its gradient by kernel and bias.

    Returns:
        The sum, and an array (r + 1, classes) whose last row belongs to the bias.
    """
    logits = columns @ kernel + bias
    own = np.arange(len(labels)), labels
    loss = -float(weights @ log_softmax(logits, axis=1)[own])
    excess = softmax(logits, axis=1)
    excess[own] -= 1
    excess *= weights[:, None]
    return loss, np.concatenate([columns.T @ excess, excess.sum(axis=0, keepdims=True)])


def unflatten(flat: Array, class_count: int) -> tuple[Array, Array]:
    """Kernel (r, classes) and bias (classes,) from one flat array."""
    both = flat.reshape(-1, class_count)
    return both[:-1], both[-1]


def minimise(
    objective: Callable[[Array], tuple[float, Array]], start: Array, iterations: int = MOST_ITERATIONS
) -> Array:
    """The weights at the minimum, flat, by L-BFGS in float64 from a start."""
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "gtol": TOLERANCE, "ftol": 1e-13, "maxcor": 20}
    return np.asarray(minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x, np.float64)


@dataclass(frozen=True)
class _Axes:
    """Other coordinates of standardised features, in which the objective is nearly round.

    Attributes:
        columns: Shape (n, r).
        squares: Mean square of each column, shape (r,).
        back: From weights of the columns to weights of the standardised features, shape (d, r); None for the same
            divided by the square root of d.
    """

    columns: Array
    squares: Array
    back: Array | None

    @classmethod
    def of(cls, standardised: Array) -> "_Axes":
        """The principal axes of features (n, d), from the smaller of the two Gram matrices; none if both are large.

        They are turned, not changed: weights have the same length in both, so the penalty means the same.
        """
        count, width = standardised.shape
        scaled = standardised / np.sqrt(width)
        if min(count, width) > MOST_AXES:
            return cls(scaled, (scaled**2).mean(axis=0), None)
        is_wide = width > count
        squares, vectors = np.linalg.eigh(scaled @ scaled.T if is_wide else scaled.T @ scaled)
        kept = squares > squares.max(initial=0) * 1e-12
        squares, vectors = squares[kept], vectors[:, kept]
        axes = scaled.T @ (vectors / np.sqrt(squares)) if is_wide else vectors
        columns = vectors * np.sqrt(squares) if is_wide else scaled @ vectors
        return cls(columns, squares / count, axes / np.sqrt(width))

    def kernel(self, weights: Array, width: int) -> Array:
        """Weights of the standardised features, (d, classes), from those of the columns."""
        return weights / np.sqrt(width) if self.back is None else self.back @ weights


class _Path:
    """Heads along the penalties, each begun where the one before ended."""

    def __init__(self, axes: _Axes, examples: Examples, class_count: int) -> None:
        self._axes, self._examples, self._class_count = axes, examples, class_count
        self._curvature = (class_count - 1) / class_count**2
        self._weights: Array = np.zeros((axes.columns.shape[1], class_count))
        self._bias: Array = np.zeros(class_count)

    def step(self, penalty: float, fitted: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
        """Weights and bias of the head fitted to some of the examples."""
        # Scaled by its expected curvature each column is as steep as any other: some 30 iterations instead of hundreds.
        scale = np.sqrt(self._curvature * self._axes.squares + penalty)
        columns, examples = self._axes.columns[fitted] / scale, self._examples.where(fitted)
        objective = Objective(columns, examples, self._class_count, penalty / scale**2)
        start = np.concatenate([self._weights * scale[:, None], self._bias[None]])
        weights, self._bias = unflatten(minimise(objective, start.ravel()), self._class_count)
        self._weights = weights / scale[:, None]
        return self._weights, self._bias


def solve(
    examples: Examples,
    class_count: int,
    folds: npt.NDArray[np.integer] | None = None,
    validation: Examples | None = None,
    blocks: Sequence[int] = (),
    on_step: Callable[[], None] = lambda: None,
) -> SolvedHead:
    """Solve heads from strong to weak penalty, and keep the one that does best on examples it was not fitted to.

    Features are standardised once, by all examples: that takes no label.

    Args:
        examples: What the head is fitted to.
        class_count: Number of classes.
        folds: The fold in which each example is left out, shape (n,), or `NEVER_LEFT_OUT`. With any, it is them that
            penalties are compared by.
        validation: Other examples.
        blocks: See `Standardisation.from_moments`.
        on_step: Called after each penalty.

    Returns:
        The head; where there is nothing to choose by, that of `UNTRIED_PENALTY`.
    """
    standardisation = Standardisation.of(examples.features, blocks)
    axes = _Axes.of(standardisation(examples.features))
    whole = _Path(axes, examples, class_count)
    cross = (
        None
        if folds is None or (folds == NEVER_LEFT_OUT).all()
        else _CrossValidation(axes, examples, class_count, folds)
    )
    steps: list[PathStep] = []
    heads: list[tuple[LinearHead, Array | None]] = []
    for penalty in PENALTIES if cross or validation else (UNTRIED_PENALTY,):
        started = time.monotonic()
        weights, bias = whole.step(penalty, np.ones(len(examples.labels), bool))
        head = LinearHead(standardisation, axes.kernel(weights, examples.features.shape[1]), bias)
        logits = cross.logits(penalty) if cross else None
        heads.append((head, logits))
        steps.append(
            PathStep(
                penalty,
                Fit.of(axes.columns @ weights + bias, examples),
                Fit.of(head.logits(validation.features), validation) if validation else None,
                cross.fit(logits) if cross and logits is not None else None,
                time.monotonic() - started,
            )
        )
        on_step()
        losses = [step.judged for step in steps if step.judged is not None]
        if len(losses) > RISES and all(np.diff(losses[-RISES - 1 :]) > 0):
            break
    chosen = int(np.argmin(losses)) if losses else 0
    return SolvedHead(heads[chosen][0], steps, chosen, heads[chosen][1])


class _CrossValidation:
    """For each fold a path of heads that are fitted without it."""

    def __init__(self, axes: _Axes, examples: Examples, class_count: int, folds: npt.NDArray[np.integer]) -> None:
        self._axes, self._examples, self._class_count = axes, examples, class_count
        self._is_judged = folds != NEVER_LEFT_OUT
        self._paths = [
            (_Path(axes, examples, class_count), folds == fold) for fold in np.unique(folds[self._is_judged])
        ]

    def logits(self, penalty: float) -> Array:
        """What each fold's head says of its images, shape (n, classes); NaN for images that are never left out."""
        logits = np.full((len(self._is_judged), self._class_count), np.nan)
        for path, left_out in self._paths:
            weights, bias = path.step(penalty, ~left_out)
            logits[left_out] = self._axes.columns[left_out] @ weights + bias
        return logits

    def fit(self, logits: Array) -> Fit:
        """How well such logits fit."""
        return Fit.of(logits[self._is_judged], self._examples.where(self._is_judged))
