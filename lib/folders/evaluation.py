"""The evaluation folder: names, schemas and records of what a model was found to be worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lib.storage.location import Location
from lib.storage.tables import read_table

EVALUATION_FILE, METRICS_FILE = "evaluation.json", "metrics.json"
MOST_SHOWN = 30
"""Pairs and candidates shown with thumbnails; the page states how many more there are."""
LABEL_ERRORS_FILE, RESEMBLING_FILE = "label_errors.parquet", "near_duplicates.parquet"
MAPS_FILE, PROJECTOR = "maps.parquet", "projector"
LABEL_ERROR_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # probability of the label; the lowest is the most doubtful
    ]
)


MapKind = Literal["pca", "tsne", "umap"]
KINDS: tuple[MapKind, ...] = ("pca", "tsne", "umap")
MAP_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False)]
    + [pa.field(f"{kind}_{axis}", pa.float32()) for kind in KINDS for axis in "xy"]  # null where not made
)


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
class Layouts:
    """Maps of the embeddings of one evaluation.

    Attributes:
        image_ids: Of the n images on the maps.
        places: By kind (`pca`, `tsne`, `umap`), places in [0, 1], shape (n, 2); both axes of a map have one scale.
    """

    image_ids: list[str]
    places: Mapping[str, npt.NDArray[np.float32]]


MOST_TRIALS = 10
"""Trials of a sweep shown for each model; the page states how many more there are."""


def read_trials(model_folder: Location) -> tuple[SweepTrial, ...]:
    """The best trials of the sweep that a model was chosen from."""
    rows = (model_folder / "sweep" / "leaderboard.json").read_json()["trials"][:MOST_TRIALS]
    shared = ("parameters", "val_loss", "val_accuracy", "epochs", "pruned")
    return tuple(SweepTrial(row["trial"], **{name: row[name] for name in shared}) for row in rows)


def read_layouts(folder: Location) -> Layouts | None:
    """Maps without a place for every image were not made; earlier versions made none at all."""
    file = folder / MAPS_FILE
    if not file.exists():
        return None
    table = read_table(file)
    made = {kind: table.select([f"{kind}_x", f"{kind}_y"]) for kind in KINDS}
    places: dict[str, npt.NDArray[np.float32]] = {
        kind: _scaled(np.stack([column.to_numpy() for column in columns.columns], axis=1))
        for kind, columns in made.items()
        if columns.num_rows and not any(column.null_count for column in columns.columns)
    }
    return Layouts(table["image_id"].to_pylist(), places) if places else None


def _scaled(places: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Into the unit square, centred, with one scale for both axes."""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max()) or 1.0
    return np.asarray((places - (low + high) / 2) / extent + 0.5, np.float32)


@dataclass(frozen=True)
class LabelError:
    """An image whose label may be wrong; `score` is the probability the model gives to that label."""

    image_id: str
    path: str
    label: str
    predicted: str
    confidence: float
    score: float


@dataclass(frozen=True)
class LabelErrors:
    """The most doubtful labels, and how many there are."""

    shown: tuple[LabelError, ...]
    count: int


def read_label_errors(file: Location) -> LabelErrors:
    """The candidates of a file of rows of `LABEL_ERROR_SCHEMA`, which has the most doubtful first."""
    table = read_table(file)
    names = ["image_id", "path", "label", "predicted", "confidence", "score"]
    rows = table.select(names).slice(0, MOST_SHOWN).to_pylist()
    return LabelErrors(tuple(LabelError(**row) for row in rows), table.num_rows)
