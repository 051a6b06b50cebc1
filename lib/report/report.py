"""What the report shows, gathered from files: typed, complete and without any formatting."""

from collections.abc import Mapping
from dataclasses import dataclass

from lib.evaluation.measures.comparison import Comparison
from lib.folders.checks import BaselineRecord, Checks, NearDuplicates
from lib.folders.choice import ChoiceRecord
from lib.folders.dataset import Dataset
from lib.folders.evaluation import EvaluationRecord, LabelErrors, Layouts, Metrics, Slices
from lib.folders.model import ModelRecord
from lib.folders.predictions import Predictions
from lib.folders.sweep import TrialResult
from lib.plots import wilson_interval
from lib.plots.tiles import Sprite


@dataclass(frozen=True)
class Thumbnails:
    """Small copies of images of one split of a dataset, as far as an evaluation kept them.

    Attributes:
        singles: A JPEG by image id.
        sprite: Of the images on maps; None without any.
    """

    singles: Mapping[str, bytes]
    sprite: Sprite | None


@dataclass(frozen=True)
class Plot:
    """A picture with a caption, and its content in words for those who do not see it."""

    key: str
    title: str
    caption: str
    alt: str
    image: bytes
    media_type: str


@dataclass(frozen=True)
class Evaluation:
    """One model on one split of one dataset.

    Attributes:
        uri: The evaluation folder.
        name: Name of the model; with the time of the evaluation where two models of a report have the same name.
        record: What `evaluation.json` says.
        metrics: What `metrics.json` says. Earlier versions wrote fewer numbers; the page then shows fewer.
        model: What the model folder's `model.json` says.
        dataset: The dataset it was evaluated on.
        plots: The pictures, in the order in which they are shown.
        trials: The best of the sweep that the model was chosen from, the best first; none without a sweep.
        layouts: Where its maps place the images; None if it has none.
        checks: Checks of the data; None for evaluations of earlier versions.
        resembling: Training images that the model holds for neighbours and that look alike; None if it did not look.
        label_errors: Images that may carry a wrong label; None for evaluations of earlier versions.
        slices: How good it is by site and other columns; None where nothing is known of the images.
        has_thumbnails: Whether it kept small copies of the images; evaluations of earlier versions did not.
    """

    uri: str
    name: str
    record: EvaluationRecord
    metrics: Metrics
    model: ModelRecord
    dataset: Dataset
    predictions: Predictions
    plots: tuple[Plot, ...]
    trials: tuple[TrialResult, ...]
    layouts: Layouts | None
    checks: Checks | None
    resembling: NearDuplicates | None
    label_errors: LabelErrors | None
    slices: Slices | None
    has_thumbnails: bool

    @property
    def split(self) -> str:
        return self.record.split

    @property
    def class_names(self) -> list[str]:
        """In the order of the confusion matrix."""
        return self.record.class_names

    @property
    def images(self) -> int:
        return len(self.predictions.image_ids)

    @property
    def right(self) -> int:
        return self.images - self.predictions.mistake_count

    @property
    def accuracy(self) -> float:
        """Share of images predicted right, in [0, 1]; 0 without images."""
        return self.right / max(self.images, 1)

    @property
    def groups(self) -> int | None:
        """How many groups (slides, patients) the intervals were drawn from; None if they were drawn from images."""
        bootstrap = self.metrics.bootstrap
        return bootstrap.units if bootstrap and bootstrap.unit == "group" else None

    @property
    def interval(self) -> tuple[float, float]:
        return self._interval[0]

    @property
    def interval_method(self) -> str:
        return self._interval[1]

    @property
    def _interval(self) -> tuple[tuple[float, float], str]:
        """By resampling groups where every image has one, otherwise Wilson's.

        Where all images are right, resampling them would claim that no other image could ever be wrong; then it is
        Wilson's too, with each group as one trial, since images of a group are alike.
        """
        resampled = self.metrics.intervals.accuracy
        if self.groups is None or resampled is None:
            return wilson_interval(self.right, self.images), "Wilson"
        if self.right in (0, self.images):
            return wilson_interval(self.groups if self.right else 0, self.groups), f"Wilson, of {self.groups:,} groups"
        return resampled, f"bootstrap of {self.groups:,} groups"

    @property
    def groups_interval(self) -> tuple[float, float]:
        """Wilson's, of the accuracy of answers for groups; (0, 1) where none was measured."""
        metrics = self.record.groups.metrics if self.record.groups else None
        return wilson_interval(round(metrics.accuracy * metrics.images), metrics.images) if metrics else (0.0, 1.0)

    @property
    def baseline(self) -> BaselineRecord | None:
        """What colours alone achieve on the images that the model was measured on; None where it is not known."""
        return self.checks.baseline if self.checks and self.checks.record.split == self.split else None

    @property
    def sample(self) -> tuple[str, str]:
        """What must be equal for two evaluations to be ranked: the dataset's hash and the split."""
        return self.record.dataset_hash, self.split


@dataclass(frozen=True)
class Contest:
    """The best model against another one, on the same images."""

    best: Evaluation
    other: Evaluation
    result: Comparison


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        evaluations: In the order in which they are shown.
        contests: The best against each of the others, the highest accuracy first; none where images differ.
        thumbnails: Thumbnails of each split of each dataset, by address and split, as far as images of it are shown.
        choice: How its model was chosen by training images; None where nothing was chosen.
    """

    evaluations: tuple[Evaluation, ...]
    contests: tuple[Contest, ...]
    thumbnails: Mapping[tuple[str, str], Thumbnails]
    choice: ChoiceRecord | None = None

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Each dataset once, in the order of the evaluations."""
        return tuple({evaluation.dataset.uri: evaluation.dataset for evaluation in self.evaluations}.values())

    @property
    def checks(self) -> tuple[Checks, ...]:
        """Each folder of checks once, in the order of the evaluations."""
        return tuple({one.checks.uri: one.checks for one in self.evaluations if one.checks}.values())

    @property
    def knows_stakes(self) -> bool:
        """Whether any model was measured with an order of the classes or with costs."""
        measured = (one.metrics for one in self.evaluations)
        return any(metrics.quadratic_kappa is not None or metrics.cost is not None for metrics in measured)

    @property
    def comparable(self) -> bool:
        return comparable(self.evaluations)


def comparable(evaluations: tuple[Evaluation, ...]) -> bool:
    """Whether all evaluations were made on the same images."""
    return len({evaluation.sample for evaluation in evaluations}) == 1


def ranked(evaluations: tuple[Evaluation, ...]) -> list[Evaluation]:
    """The evaluations, the highest accuracy first."""
    return sorted(evaluations, key=lambda evaluation: -evaluation.accuracy)
