"""What to doubt about the verdict: the ranking first, then the data, then each model."""

from collections.abc import Iterator

from lib.report.doubts.data_doubts import data_doubts
from lib.report.doubts.doubt import Doubt
from lib.report.doubts.model_doubts import model_doubts
from lib.report.formatting import count_of, percent, some
from lib.report.report import Evaluation, Report, ranked
from lib.report.verdict import can_be_chance

FEW_PER_CLASS = 10
WIDE_INTERVAL = 0.05
"""Half width of the accuracy's interval from which on the page says that the images are few."""
FEW_GROUPS = 10


def doubts(report: Report) -> list[Doubt]:
    """Everything that speaks against taking the verdict at its word, the general before the particular."""
    found = list(_ranking(report))
    best_of_sample = {one.sample: one for one in reversed(ranked(report.evaluations))}
    for evaluation in best_of_sample.values():
        found += _sample(evaluation)
    found += data_doubts(report)
    for evaluation in report.evaluations:
        found += model_doubts(evaluation)
    return list(dict.fromkeys(found))


def _ranking(report: Report) -> Iterator[Doubt]:
    if len(report.evaluations) == 1:
        return
    if not report.comparable:
        samples = "; ".join(f"{e.name}: {e.split} split of {e.dataset.uri}" for e in report.evaluations)
        yield Doubt("Not the same images", f"{samples}. Differences may come from the images alone.")
        return
    contest = report.contests[0]
    if can_be_chance(contest):
        yield Doubt(
            "Is the best really better?",
            f"{contest.best.name} and {contest.other.name} differ on so few images that their order may be chance.",
        )
    yield Doubt(
        "Chosen and measured on the same images",
        "The best of several models scores slightly higher on the images it was chosen by than on new ones.",
    )


def _sample(evaluation: Evaluation) -> Iterator[Doubt]:
    low, high = evaluation.interval
    images = count_of(evaluation.images, f"{evaluation.split} image")
    if (high - low) / 2 > WIDE_INTERVAL:
        yield Doubt(
            "Few images",
            f"With {images}, the accuracy of {evaluation.name} may be anywhere between {percent(low, 0)} and "
            f"{percent(high, 0)}; a single image changes it by {percent(1 / max(evaluation.images, 1))}.",
        )
    if evaluation.groups is not None and evaluation.groups < FEW_GROUPS:
        yield Doubt(
            "Few groups",
            f"The {images} come from {count_of(evaluation.groups, 'group')} (slide, patient). "
            "So few cannot show how much the accuracy varies between groups: the intervals are too narrow.",
        )
    if evaluation.split != "test":
        yield Doubt("Not a test", f"The {evaluation.split} split was used to train or choose the model.")
    support = {row.class_name: row.support for row in evaluation.metrics.per_class}
    few = sorted((name for name in support if support[name] < FEW_PER_CLASS), key=lambda name: support[name])
    if few:
        yield Doubt(
            "Classes with few images",
            f"{len(few)} of {count_of(len(support), 'class')} have fewer than {FEW_PER_CLASS} "
            f"{evaluation.split} images: {some([f'{name} ({support[name]})' for name in few])}. "
            "Precision and recall of these classes mean little.",
        )
