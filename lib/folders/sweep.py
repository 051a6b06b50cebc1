"""How the trials of a sweep ended, the best first."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from lib.storage.location import Location
from lib.storage.tables import write_table

TRIAL_FILE = "trial.json"
"""Says, in the folder of a trial, that it is over."""
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


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended: a row of the leaderboard.

    Attributes:
        trial: Its number.
        parameters: What was tried.
        val_loss: Of its best epoch on the validation images; None if the loss never was a number.
        val_accuracy: Of that epoch.
        best_epoch: That epoch, from 1.
        epochs: Epochs it was trained for.
        pruned: Whether it was ended early, since others were better by then.
        seconds: Of its epochs.
        curve: Its epochs, and by which number it was compared after each.
    """

    trial: int
    parameters: dict[str, Any]
    val_loss: float | None
    val_accuracy: float | None
    best_epoch: int | None
    epochs: int
    pruned: bool
    seconds: float
    curve: list[tuple[int, float]] = field(default_factory=list)

    @property
    def row(self) -> dict[str, Any]:
        """Without its curve."""
        return {name: value for name, value in asdict(self).items() if name != "curve"}

    def write(self, folder: Location) -> None:
        """Say in the folder of the trial that it is over."""
        (folder / TRIAL_FILE).write_json(asdict(self))


def read_result(folder: Location) -> TrialResult | None:
    """How a trial ended; None if it is not over."""
    file = folder / TRIAL_FILE
    return TrialResult(**file.read_json()) if file.exists() else None


def rank(results: Iterable[TrialResult], metric: str) -> list[TrialResult]:
    """The best first: those that were trained to their end, then the pruned ones, then those without a number."""

    def key(result: TrialResult) -> tuple[bool, bool, float, int]:
        value = getattr(result, metric)
        falling = 0.0 if value is None else value if metric == "val_loss" else -value
        return result.val_loss is None, result.pruned, falling, result.trial

    return sorted(results, key=key)


def write_leaderboard(ranked: list[TrialResult], metric: str, folder: Location) -> None:
    """Write `leaderboard.parquet` for programs, and `leaderboard.json`."""
    rows = [result.row for result in ranked]
    as_text = [row | {"parameters": json.dumps(row["parameters"], ensure_ascii=False)} for row in rows]
    write_table(pa.Table.from_pylist(as_text, schema=LEADERBOARD_SCHEMA), folder / "leaderboard.parquet")
    (folder / "leaderboard.json").write_json({"metric": metric, "trials": rows})
