"""What to doubt about the verdict: few or refused images, unknown slides, overfitting."""

from collections.abc import Iterator
from dataclasses import dataclass

from lib.report.records import Dataset, Evaluation, Report
from lib.report.verdict import CHANCE_P, count_of, disagreements, exact_mcnemar, percent, ranked

FEW_PER_CLASS = 10
WIDE_INTERVAL = 0.05
"""Half width of the accuracy's interval from which on the page says that the images are few."""
OVERFIT_GAP = 0.1
"""How much better the training accuracy may be than the validation accuracy."""
CALIBRATION_GAP = 0.05
"""How far the mean confidence may be from the accuracy."""
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Doubt:
    """A reason to trust the numbers less, or something that could not be checked."""

    title: str
    text: str


def doubts(report: Report) -> list[Doubt]:
    """Everything that speaks against taking the verdict at its word, the general before the particular."""
    found = list(_ranking(report))
    best_of_sample = {evaluation.sample: evaluation for evaluation in reversed(ranked(report))}
    for evaluation in best_of_sample.values():
        found += _sample(evaluation)
    for dataset in report.datasets:
        found += [*_refusals(dataset), *_overlap(dataset)]
    for evaluation in report.evaluations:
        found += [*_prediction(evaluation), *_training(evaluation), *_provenance(evaluation)]
    return list(dict.fromkeys(found))


def _ranking(report: Report) -> Iterator[Doubt]:
    if len(report.evaluations) == 1:
        return
    if not report.comparable:
        samples = "; ".join(f"{e.name}: {e.split} split of {e.dataset.uri}" for e in report.evaluations)
        yield Doubt("Not the same images", f"{samples}. Differences may come from the images alone.")
        return
    best, second = ranked(report)[:2]
    if exact_mcnemar(*disagreements(best, second)) >= CHANCE_P:
        yield Doubt(
            "Is the best really better?",
            f"{best.name} and {second.name} differ on so few images that their order can be chance.",
        )
    yield Doubt(
        "Chosen and measured on the same images",
        "The best of several models looks a little better on the images it was chosen by than on new ones.",
    )


def _sample(evaluation: Evaluation) -> Iterator[Doubt]:
    low, high = evaluation.interval
    images = count_of(evaluation.images, f"{evaluation.split} image")
    if (high - low) / 2 > WIDE_INTERVAL:
        yield Doubt(
            "Few images",
            f"{images} leave the accuracy of {evaluation.name} open between {percent(low, 0)} and "
            f"{percent(high, 0)}; a single image moves it by {percent(1 / max(evaluation.images, 1))}.",
        )
    if evaluation.split != "test":
        yield Doubt("Not a test", f"The {evaluation.split} split took part in training what it measures.")
    support = {row["class_name"]: row["support"] for row in evaluation.metrics["per_class"]}
    few = sorted((name for name in support if support[name] < FEW_PER_CLASS), key=lambda name: support[name])
    if few:
        yield Doubt(
            "Classes with few images",
            f"{len(few)} of {count_of(len(support), 'class')} have fewer than {FEW_PER_CLASS} "
            f"{evaluation.split} images: {_some([f'{name} ({support[name]})' for name in few])}. "
            "Their own precision and recall say little.",
        )


def _refusals(dataset: Dataset) -> Iterator[Doubt]:
    counts = dataset.counts
    if not dataset.adds_up:
        yield Doubt("The account does not add up", f"Files of {dataset.uri} were lost or counted twice.")
    if counts["quarantined"]:
        worst = max(dataset.counts_by_class, key=lambda row: row.quarantined)
        images = counts["accepted"] + counts["quarantined"]
        yield Doubt(
            "Refused images",
            f"{counts['quarantined']:,} of {count_of(images, 'image')} could not be read "
            "without guessing and took no part. Hardest hit: "
            f"{worst.class_name}, {worst.split} ({worst.quarantined:,}). "
            "They are listed below. If some of them are good images, the models have never met their kind.",
        )


def _overlap(dataset: Dataset) -> Iterator[Doubt]:
    accepted, overlap = dataset.counts["accepted"], dataset.overlap
    if overlap.grouped < accepted:
        yield Doubt(
            "Slide and patient unknown",
            f"{accepted - overlap.grouped:,} of {count_of(accepted, 'image')} state no group (slide or "
            "patient). If one slide gave images to train and to test, new slides are recognised less often.",
        )
    if overlap.shared_groups:
        yield Doubt(
            "Groups in several splits",
            f"{count_of(overlap.shared_groups, 'group')} (slide, patient) gave images to several splits: "
            "new slides are recognised less often.",
        )
    if overlap.shared_contents:
        yield Doubt(
            "The same image twice",
            f"{count_of(overlap.shared_contents, 'image')} have a byte for byte equal copy in another split: "
            "recognising those is memory, not skill.",
        )


def _prediction(evaluation: Evaluation) -> Iterator[Doubt]:
    name, per_class = evaluation.name, evaluation.metrics["per_class"]
    largest = max(per_class, key=lambda row: row["support"])
    baseline = largest["support"] / max(evaluation.images, 1)
    if evaluation.interval[0] <= baseline:
        yield Doubt(
            f"{name} may know nothing",
            f"Always answering {largest['class_name']!r} would be right on {percent(baseline)}; "
            f"the interval of {name} reaches down to {percent(evaluation.interval[0])}.",
        )
    missed = [row["class_name"] for row in per_class if row["support"] and not row["recall"]]
    if missed:
        yield Doubt(f"{name} misses whole classes", f"Not one image of {_some(missed)} is recognised.")
    confidence = evaluation.predictions.mean_confidence
    if abs(confidence - evaluation.accuracy) > CALIBRATION_GAP:
        yield Doubt(
            f"{name} is too {'sure of itself' if confidence > evaluation.accuracy else 'modest'}",
            f"On average it is {percent(confidence)} confident, and right on {percent(evaluation.accuracy)}.",
        )


def _training(evaluation: Evaluation) -> Iterator[Doubt]:
    name, metrics = evaluation.name, evaluation.model["metrics"]
    if sweep := evaluation.model.get("sweep"):
        yield Doubt(
            f"Validation images chose {name}",
            f"It is the best of {count_of(sweep['trials'], 'trial')} on them, so its validation numbers look a little "
            "better than they are. Test images took no part in the choice.",
        )
    train, validation = metrics.get("accuracy"), metrics.get("val_accuracy")
    if validation is None:
        yield Doubt(f"{name} was not validated", "No image was kept aside to choose its best epoch by.")
    elif train is not None and train - validation > OVERFIT_GAP:
        yield Doubt(
            f"{name} knows its training images better",
            f"It is right on {percent(train)} of them and on {percent(validation)} of the validation images.",
        )
    if metrics.get("epochs") and metrics.get("best_epoch") == metrics["epochs"]:
        yield Doubt(
            f"{name} was still improving",
            f"Its best epoch is its last, {metrics['epochs']}: more epochs may help.",
        )


def _provenance(evaluation: Evaluation) -> Iterator[Doubt]:
    name, evaluated_on = evaluation.name, evaluation.record["dataset_hash"]
    trained_on, there_now = evaluation.model["dataset_hash"], evaluation.dataset.record["content_hash"]
    if trained_on != evaluated_on:
        yield Doubt(
            f"{name} was trained on other data",
            f"Trained on dataset {trained_on}, measured on {evaluated_on}; they may share images.",
        )
    if there_now != evaluated_on:
        yield Doubt(
            f"The dataset has changed since {name} was measured",
            f"It was measured on dataset {evaluated_on}; {evaluation.dataset.uri} now holds {there_now}.",
        )


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
