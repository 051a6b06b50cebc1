"""Folders as `convert`, `train` and `evaluate` leave them, for tests of what reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lib.config.chain import ReportConfig
from lib.dataset.thumbnails import thumbnail_table
from lib.evaluation.measures.measures import NO_STAKES
from lib.evaluation.measures.metrics import classification_metrics
from lib.evaluation.measures.stakes import Stakes
from lib.evaluation.views.maps import map_table
from lib.folders.checks import NEAR_DUPLICATE_SCHEMA, BaselineRecord, write_near_duplicates
from lib.folders.evaluation import LABEL_ERROR_SCHEMA, Metrics, write_label_errors, write_maps
from lib.folders.manifest import VerdictCounts, write_manifest
from lib.folders.model import CURVES_FILE
from lib.folders.predictions import THUMBNAIL_SCHEMA
from lib.ingest.image import decode_jpeg
from lib.storage.location import Location
from tests.fakes.records import checks_record, dataset_record, evaluation_record, model_record

HOSTILE = "<script>alert(1)</script>"
PNG = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
JPEG = cv2.imencode(".jpg", np.full((180, 150, 3), 90, np.uint8))[1].tobytes()
PLOTS = ("confusion_matrix", "scatter", "swarm", "per_class", "reliability", "roc", "pr", "confidence", "abstention")
CONFIDENCE = 0.9


@dataclass
class Lab:
    """`images` test images of the classes in turns, and models that miss some of them.

    Attributes:
        root: Where the folders are written.
        images: How many test images.
        quarantined: How many files of the training split were refused.
        class_names: The classes.
        jpegs: The encoded images, used in turns.
        groups: The group of each test image; unknown if empty.
        stakes: What mistakes cost.
    """

    root: Path
    images: int = 60
    quarantined: int = 2
    class_names: Sequence[str] = ("liver", HOSTILE)
    jpegs: Sequence[bytes] = (JPEG,)
    groups: Sequence[str] = ()
    stakes: Stakes = NO_STAKES
    plots: Mapping[str, bytes] = field(default_factory=lambda: dict.fromkeys(PLOTS, PNG))

    def ids(self) -> list[str]:
        return [f"{index:016x}" for index in range(self.images)]

    def number(self, index: int) -> int:
        return index % len(self.class_names)

    def label(self, index: int) -> str:
        return self.class_names[self.number(index)]

    def path(self, index: int) -> str:
        return f"test/{self.label(index)}/{index:04d}.tif"

    def dataset(self, content_hash: str = "hash-1", **record: Any) -> None:
        folder = self.root / "dataset"
        folder.mkdir(parents=True)
        write_manifest(self.manifest(), Location(str(folder)))
        labels = [self.label(index) for index in range(self.images)]
        by_class = {name: VerdictCounts(accepted=labels.count(name)) for name in self.class_names}
        content = {
            "class_names": list(self.class_names),
            "counts": {
                "listed": self.images + self.quarantined + 1,
                "accepted": self.images,
                "quarantined": self.quarantined,
                "excluded": 1,
            },
            "counts_by_split": {
                "-": {"-": VerdictCounts(excluded=1)},
                "test": by_class,
                "train": {self.class_names[0]: VerdictCounts(quarantined=self.quarantined)},
            },
            "reasons": {"truncated": self.quarantined, "not_tiff_name": 1},
            "content_hash": content_hash,
        }
        dataset_record(**(content | record)).write(Location(str(folder)))

    def manifest(self) -> pa.Table:
        fields = ["image_id", "path", "checksum", "label", "split", "group", "verdict", "reason", "detail"]
        empty = dict.fromkeys(fields)
        rows = []
        for index, name in enumerate(self.ids()):
            group = self.groups[index] if self.groups else None
            found = {"image_id": name, "path": self.path(index), "label": self.label(index), "group": group}
            rows.append(empty | found | {"split": "test", "verdict": "accepted"})
        for index in range(self.quarantined):
            refused = {"image_id": f"q{index}", "path": f"train/liver/bad{index:04d}.tif", "label": "liver"}
            verdict = {"split": "train", "verdict": "quarantined", "reason": "truncated", "detail": "cut <b>off"}
            rows.append(empty | refused | verdict)
        return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in fields]))

    def model(self, name: str, **record: Any) -> None:
        folder = self.root / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CURVES_FILE).write_bytes(self.plots.get("curves", PNG))
        content = {"name": name, "spec": name, "class_names": list(self.class_names)}
        model_record(**(content | record)).write(Location(str(folder)))

    def evaluation(
        self,
        name: str,
        wrong: set[int] | npt.NDArray[np.float32],
        *,
        folder_name: str | None = None,
        maps: Mapping[Any, npt.NDArray[np.float32]] | None = None,
        **record: Any,
    ) -> str:
        """Write an evaluation of predictions that miss some images, or have these probabilities."""
        folder = self.root / "evaluations" / (folder_name or name)
        for part in ("plots", "predictions", "thumbnails"):
            (folder / part).mkdir(parents=True)
        for plot, png in self.plots.items():
            (folder / "plots" / f"{plot}.png").write_bytes(png)
        probabilities = self.probabilities(wrong) if isinstance(wrong, set) else wrong
        pq.write_table(self.predictions(probabilities), folder / "predictions/a.parquet")
        pq.write_table(self.thumbnails(), folder / "thumbnails/a.parquet")
        metrics = self.metrics(probabilities)
        metrics.write(Location(str(folder)))
        if maps:
            write_maps(map_table(self.ids(), maps), Location(str(folder)))
        content = {
            "name": name,
            "spec": name,
            "model_dir": str(self.root / "models" / name),
            "dataset": str(self.root / "dataset"),
            "class_names": list(self.class_names),
            "images": self.images,
            "metrics": metrics,
        }
        evaluation_record(**(content | record)).write(Location(str(folder)))
        return str(folder)

    def probabilities(self, wrong: set[int]) -> npt.NDArray[np.float32]:
        """0.9 and a little more for the predicted class, the next one where it is wrong."""
        classes = len(self.class_names)
        confidence = CONFIDENCE + np.arange(self.images) / 1e5
        predicted = [(index + (index in wrong)) % classes for index in range(self.images)]
        found = np.repeat((1 - confidence)[:, None] / (classes - 1), classes, axis=1)
        found[np.arange(self.images), predicted] = confidence
        return found.astype(np.float32)

    def actual(self) -> npt.NDArray[np.int64]:
        return np.arange(self.images) % len(self.class_names)

    def predictions(self, probabilities: npt.NDArray[np.float32]) -> pa.Table:
        predicted = probabilities.argmax(axis=1)
        rows = {
            "image_id": self.ids(),
            "path": [self.path(index) for index in range(self.images)],
            "label": [self.label(index) for index in range(self.images)],
            "predicted": [self.class_names[number] for number in predicted],
            "correct": predicted == self.actual(),
            "confidence": probabilities.max(axis=1),
        }
        return pa.table(rows)

    def thumbnails(self) -> pa.Table:
        small = thumbnail_table(map(str, range(len(self.jpegs))), map(decode_jpeg, self.jpegs))["thumbnail"].to_pylist()
        columns = {"image_id": self.ids(), "thumbnail": [small[index % len(small)] for index in range(self.images)]}
        return pa.table(columns, schema=THUMBNAIL_SCHEMA)

    def metrics(self, probabilities: npt.NDArray[np.float32]) -> Metrics:
        groups = self.groups or None
        return classification_metrics(
            self.actual(),
            probabilities,
            self.class_names,
            groups=groups,
            temperature=1.25,
            stakes=self.stakes,
            resamples=100,
        )

    def checks(self, pairs: Sequence[tuple[int, int]] = (), baseline: float | None = 0.5) -> str:
        """Write a folder of checks: pairs of test images (the second one said to be of train), and the baseline."""
        folder = self.root / "checks"
        folder.mkdir()
        found = None if baseline is None else self.baseline(baseline)
        record = checks_record(
            dataset=str(self.root / "dataset"), images=self.images, near_duplicates=len(pairs), baseline=found
        )
        record.write(Location(str(folder)))
        write_near_duplicates(self.near_duplicates(pairs), Location(str(folder)))
        return str(folder)

    def baseline(self, accuracy: float) -> BaselineRecord:
        return BaselineRecord(
            name="colour histogram, logistic regression",
            images=self.images,
            accuracy=accuracy,
            interval=(accuracy - 0.1, accuracy + 0.1),
            balanced_accuracy=accuracy,
        )

    def near_duplicates(self, pairs: Sequence[tuple[int, int]]) -> pa.Table:
        rows = []
        for bits, pair in enumerate(pairs):
            row: dict[str, Any] = {"hamming": bits % 10}
            for before, index, split in zip(("", "other_"), pair, ("test", "train"), strict=True):
                row |= {f"{before}image_id": self.ids()[index], f"{before}path": self.path(index)}
                row |= {f"{before}label": self.label(index), f"{before}split": split}
            rows.append(row)
        return pa.Table.from_pylist(rows, schema=NEAR_DUPLICATE_SCHEMA)

    def label_errors(self, evaluation: str, indices: Sequence[int]) -> None:
        """Write candidates into an evaluation folder."""
        rows = [
            {
                "image_id": self.ids()[index],
                "path": self.path(index),
                "label": self.label(index),
                "predicted": self.label(index + 1),
                "confidence": 0.98,
                "score": 0.01,
            }
            for index in indices
        ]
        write_label_errors(pa.Table.from_pylist(rows, schema=LABEL_ERROR_SCHEMA), Location(evaluation))

    def layouts(self) -> dict[Any, npt.NDArray[np.float32]]:
        """Three maps: each class around a place of its own."""
        rng, maps = np.random.default_rng(0), {}
        angles = 2 * np.pi * self.actual() / len(self.class_names)
        for kind, size in (("pca", 2.0), ("tsne", 40.0), ("umap", 9.0)):
            centres = np.stack([np.cos(angles), np.sin(angles)], axis=1) * size
            maps[kind] = (centres + rng.normal(0, size / 4, (self.images, 2))).astype(np.float32)
        return maps

    def both(self, *wrong: set[int]) -> ReportConfig:
        """A dataset, a model for each set of wrong images, and the settings of their report."""
        self.dataset()
        names = ["cnn", "vgg16"][: len(wrong)]
        for name in names:
            self.model(name)
        folders = [self.evaluation(name, missed) for name, missed in zip(names, wrong, strict=True)]
        return self.config(*folders)

    def config(self, *evaluations: str) -> ReportConfig:
        return ReportConfig(evaluations=evaluations, output=str(self.root / "report"))
