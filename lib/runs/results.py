"""What the jobs return to a program or a notebook: tables as pandas frames, read when they are asked for.

A result shows itself in a notebook: what came out in a sentence, the measures, the confusion matrix, the curves.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from lib.folders.dataset import DatasetRecord
from lib.folders.evaluation import PLOTS, EvaluationRecord, Metrics
from lib.folders.manifest import read_manifest
from lib.folders.model import CURVES_FILE, ModelRecord, read_history
from lib.folders.pipeline_folder import DATASET, EVALUATIONS, MODELS, REPORT, PipelineRecord
from lib.folders.predictions import PredictionsRecord, read_predictions
from lib.folders.report_folder import PAGE, ReportRecord
from lib.report.formatting import count_of, percent
from lib.storage.location import Location

CONFUSION = "confusion_matrix.png"
PICTURE_WIDTH = 480
"""Pixels of a screen that a picture takes in a notebook."""
MEASURES = (
    *("images", "accuracy", "balanced_accuracy", "top_3_accuracy", "loss", "brier", "ece", "roc_auc", "pr_auc"),
)


@dataclass(frozen=True)
class Conversion:
    """A dataset folder.

    Attributes:
        output: Its URI.
        record: What `dataset.json` says.
    """

    output: str
    record: DatasetRecord

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """A row for each listed file: what became of it, and why."""
        return _frame(read_manifest(Location(self.output)))

    @property
    def verdict(self) -> str:
        """What came out, in a sentence."""
        counts = self.record.counts
        return (
            f"{count_of(counts.accepted, 'image')} of {count_of(counts.listed, 'file')} converted; "
            f"{counts.quarantined:,} quarantined, {counts.excluded:,} excluded."
        )

    def _repr_html_(self) -> str:
        reasons = pd.DataFrame({"files": self.record.reasons})
        return _page(self.verdict, reasons if len(reasons) else None)


@dataclass(frozen=True)
class Training:
    """A model folder.

    Attributes:
        output: Its URI.
        record: What `model.json` says.
    """

    output: str
    record: ModelRecord

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row an epoch."""
        return _frame(read_history(Location(self.output)))

    @property
    def verdict(self) -> str:
        """What came out, in a sentence."""
        best = self.record.metrics
        known = best.accuracy if best.val_accuracy is None else best.val_accuracy
        of = "training" if best.val_accuracy is None else "validation"
        return f"{self.record.name}: right on {percent(known)} of the {of} images, in epoch {best.best_epoch}."

    def _repr_html_(self) -> str:
        return _page(self.verdict, None, Location(self.output) / CURVES_FILE)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation folder.

    Attributes:
        output: Its URI.
        record: What `evaluation.json` says.
    """

    output: str
    record: EvaluationRecord

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row an image: its label, what was predicted, and how sure the model was."""
        return _frame(read_predictions(Location(self.output)))

    @property
    def measures(self) -> pd.DataFrame:
        """A row: each measure, and the ends of its 95 % interval."""
        return pd.DataFrame([_measures(self.record.metrics)], index=pd.Index([self.record.name], name="model"))

    @property
    def per_class(self) -> pd.DataFrame:
        """A row a class: precision, recall, F1 and their 95 % intervals."""
        return pd.DataFrame([row.model_dump() for row in self.record.metrics.per_class]).set_index("class_name")

    @property
    def confusion_matrix(self) -> pd.DataFrame:
        """Images by actual (row) and predicted (column) class."""
        names = self.record.class_names
        return pd.DataFrame(self.record.metrics.confusion_matrix, index=names, columns=names)

    @property
    def verdict(self) -> str:
        """What came out, in a sentence."""
        metrics, split = self.record.metrics, self.record.split
        interval = metrics.intervals.accuracy
        sure = "" if interval is None else f" (95 % interval {100 * interval[0]:.0f} to {percent(interval[1], 0)})"
        images = count_of(metrics.images, f"{split} image")
        return f"{self.record.name}: right on {percent(metrics.accuracy)} of {images}{sure}."

    def _repr_html_(self) -> str:
        return _page(self.verdict, self.measures, Location(self.output) / PLOTS / CONFUSION)


@dataclass(frozen=True)
class Predicted:
    """A folder of predictions of images that have no label.

    Attributes:
        output: Its URI.
        record: What `predictions.json` says.
    """

    output: str
    record: PredictionsRecord

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row an image: what was predicted, and how sure the model was."""
        return _frame(read_predictions(Location(self.output)))

    @property
    def verdict(self) -> str:
        """What came out, in a sentence."""
        doubtful = {"unlike any training image": self.record.unfamiliar, "left unanswered": self.record.abstained}
        told = "".join(f"; {number:,} {how}" for how, number in doubtful.items() if number)
        return f"{self.record.name} predicted {count_of(self.record.images, 'image')}{told}."

    def _repr_html_(self) -> str:
        return _page(self.verdict, self.predictions["predicted"].value_counts().to_frame("images"))


@dataclass(frozen=True)
class Run:
    """The folder of a pipeline, with what its stages returned.

    Attributes:
        output: Its URI.
        record: What `pipeline.json` says.
        conversion: Of its images.
        trainings: By the name of the model.
        evaluations: On the test images, by the name of the model.
        report: URI of the page.
        verdict: What the report says of all models in a sentence.
    """

    output: str
    record: PipelineRecord
    conversion: Conversion
    trainings: Mapping[str, Training]
    evaluations: Mapping[str, Evaluation]
    report: str
    verdict: str

    @classmethod
    def of(cls, record: PipelineRecord, output: str) -> "Run":
        """What lies in the folder of a complete pipeline."""
        folder = Location(output)
        models = {name: folder / MODELS / name for name in record.models}
        evaluations = {name: folder / EVALUATIONS / name for name in record.models}
        return cls(
            output=output,
            record=record,
            conversion=Conversion((folder / DATASET).uri, DatasetRecord.read(folder / DATASET)),
            trainings={name: Training(it.uri, ModelRecord.read(it)) for name, it in models.items()},
            evaluations={name: Evaluation(it.uri, EvaluationRecord.read(it)) for name, it in evaluations.items()},
            report=(folder / REPORT / PAGE).uri,
            verdict=ReportRecord.read(folder / REPORT).verdict,
        )

    @property
    def manifest(self) -> pd.DataFrame:
        """A row for each listed file: what became of it, and why."""
        return self.conversion.manifest

    @property
    def measures(self) -> pd.DataFrame:
        """A row a model: each measure on the test images, and the ends of its 95 % interval."""
        return pd.concat([one.measures.rename({one.record.name: name}) for name, one in self.evaluations.items()])

    @property
    def predictions(self) -> pd.DataFrame:
        """A row for each model and test image; `model` says which."""
        return _stacked({name: one.predictions for name, one in self.evaluations.items()})

    @property
    def history(self) -> pd.DataFrame:
        """A row for each model and epoch; `model` says which."""
        return _stacked({name: one.history for name, one in self.trainings.items()})

    def _repr_html_(self) -> str:
        best = max(self.record.models, key=lambda name: self.record.models[name])
        pictures = (Location(self.evaluations[best].output) / PLOTS / CONFUSION,)
        return _page(self.verdict, self.measures, *pictures, Location(self.trainings[best].output) / CURVES_FILE)


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _stacked(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames, names=["model"]).reset_index(level="model").reset_index(drop=True)


def _measures(metrics: Metrics) -> dict[str, float | None]:
    """The measures, each followed by the ends of its interval where it has one."""
    row: dict[str, float | None] = {}
    for name in MEASURES:
        row[name] = getattr(metrics, name)
        if (interval := getattr(metrics.intervals, name, None)) is not None:
            row[f"{name}_low"], row[f"{name}_high"] = interval
    return row | {"macro_f1": metrics.macro.f1}


def _page(verdict: str, table: pd.DataFrame | None, *pictures: Location) -> str:
    """A sentence, a table, and the pictures that there are, as HTML."""
    shown = "" if table is None else table.to_html(float_format=lambda number: f"{number:.3f}", na_rep="")
    images = [_image(file) for file in pictures if file.exists()]
    said = Markup("<p><strong>{}</strong></p>").format(verdict)
    return str(said + Markup(shown) + Markup("").join(images))  # noqa: S704 - pandas has escaped the table


def _image(file: Location) -> Markup:
    data = base64.b64encode(file.read_bytes()).decode()
    looks = f"max-width:{PICTURE_WIDTH}px;width:100%"
    return Markup('<img alt="{}" style="{}" src="data:image/png;base64,{}">').format(file.name, looks, data)
