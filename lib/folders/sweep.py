"""The sweep of a model folder: how each trial ended, and the leaderboard, the best first."""

import json
from collections.abc import Iterable
from typing import ClassVar

import pyarrow as pa
from pydantic import Field, JsonValue

from lib.folders.record import Record, StoredRecord
from lib.storage.location import Location
from lib.storage.tables import write_table

SWEEP, TRIALS = "sweep", "trials"
LEADERBOARD_TABLE = "leaderboard.parquet"
MOST_TRIALS = 10
"""Trials of a sweep shown for each model; the page states how many more there are."""
LEADERBOARD_SCHEMA = pa.schema(
    [
        pa.field("trial", pa.int32(), nullable=False),  # from 1, in the order in which they were drawn
        pa.field("parameters", pa.string(), nullable=False),  # a JSON object: what was tried, by setting
        pa.field("val_loss", pa.float64()),  # of the best epoch; null if the loss never was a number
        pa.field("val_accuracy", pa.float64()),
        pa.field("best_epoch", pa.int32()),
        pa.field("epochs", pa.int32(), nullable=False),
        pa.field("pruned", pa.bool_(), nullable=False),  # ended early, since others were better by then
        pa.field("seconds", pa.float64(), nullable=False),  # of its epochs
    ]
)


class TrialResult(Record):
    """How one trial ended; its numbers are of the validation images."""

    trial: int
    """Its number, from 1, in the order in which the trials were drawn."""
    parameters: dict[str, JsonValue]
    """What was tried, by setting."""
    val_loss: float | None
    """Of its best epoch, in nats; None if the loss never was a number."""
    val_accuracy: float | None
    """Of that epoch, in [0, 1]."""
    best_epoch: int | None
    """That epoch, from 1."""
    epochs: int
    """Epochs it was trained for."""
    pruned: bool
    """Whether it was ended early, since others were better by then."""
    seconds: float
    """Of its epochs."""


class TrialRecord(StoredRecord, TrialResult):
    """Says, in the folder of a trial, that it is over."""

    FILE: ClassVar[str] = "trial.json"

    curve: list[tuple[int, float]] = Field(default_factory=list)
    """Its epochs, and by which number it was compared after each."""

    @property
    def result(self) -> TrialResult:
        """Without its curve."""
        return TrialResult.model_validate(self.model_dump(exclude={"curve"}))


class Leaderboard(StoredRecord):
    """All trials of a sweep."""

    FILE: ClassVar[str] = "leaderboard.json"

    metric: str
    """By which they are compared."""
    trials: list[TrialResult]
    """The best first."""


def rank(results: Iterable[TrialRecord], metric: str) -> list[TrialRecord]:
    """The best first: those that were trained to their end, then the pruned ones, then those without a number."""

    def key(result: TrialRecord) -> tuple[bool, bool, float, int]:
        value = getattr(result, metric)
        falling = 0.0 if value is None else value if metric == "val_loss" else -value
        return result.val_loss is None, result.pruned, falling, result.trial

    return sorted(results, key=key)


def write_leaderboard(ranked: list[TrialRecord], metric: str, model_folder: Location) -> None:
    """Write the leaderboard into a model folder, as JSON and as a table for programs."""
    leaderboard = Leaderboard(metric=metric, trials=[trial.result for trial in ranked])
    rows = [
        trial.as_json() | {"parameters": json.dumps(trial.parameters, ensure_ascii=False)}
        for trial in leaderboard.trials
    ]
    table = pa.Table.from_pylist(rows, schema=LEADERBOARD_SCHEMA)
    write_table(table, model_folder / SWEEP / LEADERBOARD_TABLE)
    leaderboard.write(model_folder / SWEEP)


def read_best_trials(model_folder: Location) -> tuple[TrialResult, ...]:
    """The best trials of the sweep that a model was chosen from, the best first."""
    return tuple(Leaderboard.read(model_folder / SWEEP).trials[:MOST_TRIALS])
