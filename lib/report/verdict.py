"""What the numbers say in plain words. Every sentence is computed from the data."""

from math import exp, lgamma, log

from lib.report.records import Evaluation, Report

CHANCE_P = 0.05
"""Probability from which on a difference between two models may be chance."""


def percent(share: float, decimals: int = 1) -> str:
    """A share as `95.0 %`."""
    return f"{100 * share:.{decimals}f} %"


def count_of(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `1,200 images`, `2 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def ranked(report: Report) -> list[Evaluation]:
    """The evaluations, the highest accuracy first."""
    return sorted(report.evaluations, key=lambda evaluation: -evaluation.accuracy)


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    number = len(report.evaluations)
    if not report.comparable:
        return f"{number} evaluations on different images: each stands for itself, they cannot be ranked."
    best, *others = ranked(report)
    if not others:
        return f"{best.name} is {score(best)}."
    tied = [best.name, *(other.name for other in others if other.right == best.right)]
    if len(tied) > 1:
        return f"{', '.join(tied[:-1])} and {tied[-1]} tie for best of {number} models: each is {score(best)}."
    return f"Best of {number} models: {best.name} is {score(best)}."


def score(evaluation: Evaluation) -> str:
    """`right on 57 of 60 test images (95.0 %; 95 % interval 86 to 98 %, Wilson)`."""
    low, high = evaluation.interval
    return (
        f"right on {evaluation.right:,} of {count_of(evaluation.images, f'{evaluation.split} image')} "
        f"({percent(evaluation.accuracy)}; 95 % interval {100 * low:.0f} to {percent(high, 0)}, Wilson)"
    )


def comparison(report: Report) -> str:
    """How the best compares with the second, image by image; empty where there is nothing to compare."""
    if len(report.evaluations) == 1 or not report.comparable:
        return ""
    best, second = ranked(report)[:2]
    place = f"{second.name} with {second.right:,} right ({percent(second.accuracy)})"
    ours, theirs = disagreements(best, second)
    p = exact_mcnemar(ours, theirs)
    judged = "can be chance" if p >= CHANCE_P else "is more than chance explains"
    return (
        f"Next is {place}. Only {best.name} is "
        f"right on {count_of(ours, 'image')}, only {second.name} on {theirs:,}: that {judged} "
        f"(exact McNemar test, p {'< 0.001' if p < 0.001 else f'= {p:.2g}'})."  # noqa: PLR2004
    )


def disagreements(first: Evaluation, second: Evaluation) -> tuple[int, int]:
    """Images that only the first, and only the second, predicted right."""
    ours, theirs = first.predictions.correct, second.predictions.correct
    pairs = [(ours[image], theirs[image]) for image in ours.keys() & theirs.keys()]
    return pairs.count((True, False)), pairs.count((False, True))


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
    n, fewer = first_only + second_only, min(first_only, second_only)
    logarithms = (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for k in range(fewer + 1))
    return min(1.0, 2 * sum(exp(logarithm - n * log(2)) for logarithm in logarithms))
