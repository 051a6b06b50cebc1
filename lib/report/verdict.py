"""What the numbers say in plain words. Every sentence is computed from the data."""

from dataclasses import dataclass

from lib.report.doubts.doubt import Doubt
from lib.report.formatting import count_of, percent, points
from lib.report.report import Contest, Evaluation, Report, ranked

CHANCE_P = 0.05
"""Probability from which on a difference between two models may be chance."""
LEAST_P = 0.001


@dataclass(frozen=True)
class Answer:
    """The answer to one of the questions that a verdict has to answer."""

    question: str
    text: str


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    number = len(report.evaluations)
    if not report.comparable:
        return f"{number} evaluations on different images: they cannot be ranked, so read each by itself."
    best, *others = ranked(report.evaluations)
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
        f"({percent(evaluation.accuracy)}; 95 % interval {100 * low:.0f} to {percent(high, 0)}, "
        f"{evaluation.interval_method})"
    )


def comparison(report: Report) -> str:
    """How the best compares with the second, image by image; empty where there is nothing to compare."""
    if not report.contests:
        return ""
    contest = report.contests[0]
    best, second, result = contest.best, contest.other, contest.result
    judged = "can be chance" if can_be_chance(contest) else "is more than chance"
    return (
        f"The next best is {second.name} with {second.right:,} right ({percent(second.accuracy)}). "
        f"{best.name} alone is right on {count_of(result.only_first, 'image')}, {second.name} alone on "
        f"{result.only_second:,}: this difference {judged} ({evidence(contest)})."
    )


def evidence(contest: Contest) -> str:
    """`exact McNemar test, p = 0.25; difference +5.0 points, 95 % interval +0.0 to +10.0, bootstrap of images`."""
    p = contest.result.p_value
    tested = f"exact McNemar test, p {'< 0.001' if p < LEAST_P else f'= {p:.2g}'}"
    if contest.result.interval is None:
        return tested
    low, high = contest.result.interval
    return (
        f"{tested}; difference {points(contest.result.difference)} points, "
        f"95 % interval {points(low)} to {points(high)}, bootstrap of {drawn_from(contest)}"
    )


def drawn_from(contest: Contest) -> str:
    """What the interval of the difference was resampled from: `groups` if every image has one, or `images`."""
    groups = contest.best.dataset.groups
    known = all(groups.get(image) is not None for image in contest.best.predictions.image_ids)
    return "groups" if known else "images"


def can_be_chance(contest: Contest) -> bool:
    """Whether the test or the interval leaves it open which of the two is better."""
    interval = contest.result.interval
    return contest.result.p_value >= CHANCE_P or (interval is not None and interval[0] <= 0 <= interval[1])


def answers(report: Report, doubts: list[Doubt]) -> list[Answer]:
    """How good the best model is, on what data, how sure that is, and what to doubt; in a sentence or two each."""
    doubtful = Answer("What to doubt?", _what_to_doubt(doubts))
    if not report.comparable:
        return [doubtful]
    best = ranked(report.evaluations)[0]
    return [
        Answer("How good?", _how_good(best)),
        Answer("On what data?", _on_what(best)),
        Answer("How sure?", _how_sure(best)),
        *([Answer("And elsewhere?", elsewhere(best))] if best.record.sites else []),
        doubtful,
    ]


def elsewhere(evaluation: Evaluation) -> str:
    """What to expect of a model on a site that it has not seen, as far as its sites tell."""
    sites = evaluation.record.sites
    if sites is None or sites.expected_accuracy is None:
        return "Too few images of each site to tell what to expect on a new one."
    ordinary = sum(one.ordinary_accuracy for one in sites.left_out) / len(sites.left_out)
    reach, caution = "", f" {count_of(len(sites.left_out), 'site')} cannot show how sites differ."
    if sites.expected_interval is not None:
        low, high = sites.expected_interval
        reach, caution = f" ({100 * low:.0f} to {percent(high, 0)})", ""
    return (
        f"On a new site expect about {percent(sites.expected_accuracy, 0)}{reach}, against {percent(ordinary, 0)} on "
        f"those that were tested.{caution}"
    )


def _how_good(best: Evaluation) -> str:
    recalls = {row.class_name: row.recall for row in best.metrics.per_class if row.recall is not None}
    text = f"{best.name} is right on {percent(best.accuracy)} of the images"
    if recalls:
        weakest = min(recalls, key=lambda name: recalls[name])
        text += f"; of its weakest class, {weakest}, it recognises {percent(recalls[weakest], 0)}"
    if best.baseline is None:
        return f"{text}. What colour alone achieves was not measured."
    return f"{text}. Colour alone is right on {percent(best.baseline.accuracy)}."


def _on_what(best: Evaluation) -> str:
    support = [row.support for row in best.metrics.per_class if row.support]
    spread = f"{min(support)}" if min(support) == max(support) else f"{min(support)} to {max(support):,}"
    images = count_of(best.images, f"{best.split} image")
    groups = f"from {count_of(best.groups, 'group')} (slides, patients)" if best.groups else "from unknown slides"
    return f"{images} {groups} in {count_of(len(support), 'class')}, {spread} of each."


def _how_sure(best: Evaluation) -> str:
    low, high = best.interval
    kind, caution = ("slides", "") if best.groups else ("images", "; it treats images as independent")
    return (
        f"On more {kind} like these, the accuracy is probably between {percent(low, 0)} and {percent(high, 0)} "
        f"(95 % interval, {best.interval_method}{caution})."
    )


def _what_to_doubt(doubts: list[Doubt]) -> str:
    if not doubts:
        return "The checks of this report found no reason to doubt these numbers."
    titles = "; ".join(doubt.title.rstrip("?") for doubt in doubts[:3])
    more = len(doubts) - 3
    return f"{titles}" + (f"; and {count_of(more, 'more reason')} below." if more > 0 else ".")
