"""What the report shows, gathered from files: typed, complete and without any formatting."""

from dataclasses import dataclass
from typing import Any

from lib.plots import wilson_interval

VERDICTS = ("accepted", "quarantined", "excluded")
NOWHERE = "-"
"""Stands for the split and the class of files that have none."""


@dataclass(frozen=True)
class ClassCount:
    """Files of one class in one split."""

    split: str
    class_name: str
    accepted: int
    quarantined: int
    excluded: int

    @property
    def listed(self) -> int:
        """All of them."""
        return self.accepted + self.quarantined + self.excluded


@dataclass(frozen=True)
class RefusedFile:
    """A file that was quarantined, and why."""

    path: str
    label: str | None
    split: str | None
    reason: str
    detail: str | None


@dataclass(frozen=True)
class Overlap:
    """What the manifest tells about the independence of the splits.

    Attributes:
        grouped: Accepted images whose group (slide, patient) is known.
        shared_groups: Groups with accepted images in more than one split.
        checksummed: Accepted images whose checksum is known.
        shared_contents: Accepted images that are byte for byte the same as one in another split.
    """

    grouped: int
    shared_groups: int
    checksummed: int
    shared_contents: int


@dataclass(frozen=True)
class Dataset:
    """A dataset folder.

    Attributes:
        uri: Where it is.
        record: The content of `dataset.json`.
        counts_by_class: One row a split and class, in the order of splits and classes.
        refused: The quarantined files that are shown.
        overlap: Whether the splits are independent.
    """

    uri: str
    record: dict[str, Any]
    counts_by_class: tuple[ClassCount, ...]
    refused: tuple[RefusedFile, ...]
    overlap: Overlap

    @property
    def counts(self) -> dict[str, int]:
        """Files: listed, accepted, quarantined and excluded."""
        return {name: int(count) for name, count in self.record["counts"].items()}

    @property
    def splits(self) -> list[str]:
        """The splits that hold files, without `NOWHERE`."""
        return list(dict.fromkeys(row.split for row in self.counts_by_class if row.split != NOWHERE))

    @property
    def classes(self) -> list[str]:
        """The classes that hold files, in order, and `NOWHERE` last if there are files of no class."""
        names = sorted({row.class_name for row in self.counts_by_class} - {NOWHERE})
        return names + [NOWHERE] * any(row.class_name == NOWHERE for row in self.counts_by_class)

    def count(self, *, split: str | None = None, class_name: str | None = None) -> ClassCount:
        """Files of a split, of a class, of both, or of all."""
        rows = [
            row for row in self.counts_by_class if split in {None, row.split} and class_name in {None, row.class_name}
        ]
        sums = (sum(getattr(row, verdict) for row in rows) for verdict in VERDICTS)
        return ClassCount(split or "", class_name or "", *sums)

    @property
    def adds_up(self) -> bool:
        """Whether listed = accepted + quarantined + excluded, in all and summed over splits and classes."""
        total = self.count()
        return total.listed == self.counts["listed"] and all(
            getattr(total, verdict) == self.counts[verdict] for verdict in VERDICTS
        )


@dataclass(frozen=True)
class Plot:
    """A picture with a caption, and its content in words for those who do not see it."""

    key: str
    title: str
    caption: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction; `thumbnail` is a small JPEG, or None where the dataset no longer has the image."""

    image_id: str
    path: str
    actual: str
    predicted: str
    confidence: float
    thumbnail: bytes | None


@dataclass(frozen=True)
class Predictions:
    """The predictions of one evaluation, without their probabilities.

    Attributes:
        correct: Whether each was right, by image id.
        mean_confidence: Of the predicted classes, in [0, 1].
        mistakes: The wrong ones that are shown, the most confident first.
        mistake_count: All wrong ones.
    """

    correct: dict[str, bool]
    mean_confidence: float
    mistakes: tuple[Mistake, ...]
    mistake_count: int


@dataclass(frozen=True)
class SweepTrial:
    """One trial of the sweep that a model was chosen from; its numbers are of the validation images.

    Attributes:
        number: In the order in which the trials were drawn, from 1.
        parameters: What was tried, by setting.
        val_loss: Of its best epoch; None if the loss never was a number.
        val_accuracy: Of that epoch.
        epochs: Epochs it was trained for.
        pruned: Whether it was ended early, since others were better by then.
    """

    number: int
    parameters: dict[str, Any]
    val_loss: float | None
    val_accuracy: float | None
    epochs: int
    pruned: bool


@dataclass(frozen=True)
class Evaluation:
    """One model on one split of one dataset.

    Attributes:
        uri: The evaluation folder.
        record: The content of `evaluation.json`.
        metrics: The content of `metrics.json`.
        model: The content of the model folder's `model.json`.
        dataset: The dataset it was evaluated on.
        predictions: What it predicted.
        plots: The pictures, in the order in which they are shown.
        trials: The best of the sweep that the model was chosen from, the best first; none without a sweep.
    """

    uri: str
    record: dict[str, Any]
    metrics: dict[str, Any]
    model: dict[str, Any]
    dataset: Dataset
    predictions: Predictions
    plots: tuple[Plot, ...]
    trials: tuple[SweepTrial, ...] = ()

    @property
    def name(self) -> str:
        """The name of the model."""
        return str(self.record["name"])

    @property
    def split(self) -> str:
        """The split that was predicted."""
        return str(self.record["split"])

    @property
    def images(self) -> int:
        """Images that were predicted."""
        return len(self.predictions.correct)

    @property
    def right(self) -> int:
        """Images that were predicted right."""
        return self.images - self.predictions.mistake_count

    @property
    def accuracy(self) -> float:
        """Share of images predicted right, in [0, 1]; 0 without images."""
        return self.right / max(self.images, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the accuracy."""
        return wilson_interval(self.right, self.images)

    @property
    def sample(self) -> tuple[str, str]:
        """What must be equal for two evaluations to be ranked: the dataset's hash and the split."""
        return str(self.record["dataset_hash"]), self.split


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    evaluations: tuple[Evaluation, ...]

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Each dataset once, in the order of the evaluations."""
        return tuple({evaluation.dataset.uri: evaluation.dataset for evaluation in self.evaluations}.values())

    @property
    def comparable(self) -> bool:
        """Whether all evaluations were made on the same images."""
        return len({evaluation.sample for evaluation in self.evaluations}) == 1
