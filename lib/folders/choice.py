"""The folder of `--models auto`: what was tried on training images, what each model said, and what was chosen."""

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from lib.folders.record import CompletionRecord, Record
from lib.storage.location import Location
from lib.storage.tables import read_table, write_table

CHOICE, LEFT_OUT, NETWORKS = "choice", "left_out", "networks"
"""The folder, and in it what each model says of images that it was fitted without, and networks under way."""
FLOOR = "colours"
"""The name of the model that sees colours alone, beside those of candidates."""
LEFT_OUT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("fold", pa.int8(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),  # -log(probability of the label), in nats
    ]
)


class TriedModel(Record):
    """What became of one model, measured on training images that it was fitted without."""

    name: str
    """Of its folder, if it is chosen."""
    spec: str | None = None
    """None for what sees colours alone."""
    accuracy: float | None = None
    """In [0, 1]; None where it could not be tried."""
    loss: float | None = None
    """In nats."""
    won: float | None = None
    """Share of the resamples in which it was the best."""
    reason: str | None = None
    """Why it could not be tried."""


class ChoiceOutcome(Record):
    """What was chosen, and how good it is."""

    chosen: str
    """Its name."""
    accuracy: float
    """Cross-validated, in [0, 1]."""
    loss: float
    """Cross-validated, in nats; by it the choice was made."""
    corrected_accuracy: float | None
    """Without the optimism of having chosen the best; None where all images are of one group."""
    corrected_loss: float | None
    """The same of the loss."""


class ChoiceRecord(CompletionRecord, ChoiceOutcome):
    """How a model was chosen, by training images alone."""

    FILE: ClassVar[str] = "choice.json"
    JOB: ClassVar[str] = "choice"
    MADE_BY: ClassVar[str] = "pipeline"
    PARTS: ClassVar[str] = LEFT_OUT

    images: int
    """Training images that were tried."""
    left_out: int
    """Those of them that were left out once."""
    groups: int | None
    """Groups (slides, patients) that these are of; None where they are not known."""
    folds: int
    """Parts of the images that are left out in turn."""
    resamples: int
    """That the corrected numbers are the mean of."""
    candidates: list[TriedModel]
    """In the order in which they were given."""
    floor: TriedModel
    """What colours alone achieve; it is never chosen."""
    seconds: float

    @property
    def outcome(self) -> ChoiceOutcome:
        """Without how it came about."""
        return ChoiceOutcome.model_validate(self.model_dump(include=set(ChoiceOutcome.model_fields)))

    @property
    def tried(self) -> list[TriedModel]:
        """The candidates that could be tried."""
        return [candidate for candidate in self.candidates if candidate.reason is None]

    @property
    def colours_are_better(self) -> bool:
        """Whether what sees colours alone has the least loss of all."""
        return self.floor.loss is not None and self.floor.loss < self.loss


def write_left_out(rows: pa.Table, folder: Location, name: str) -> None:
    """Write what a model said of images (`LEFT_OUT_SCHEMA`) into the folder of a choice."""
    write_table(rows, _left_out(folder, name))


def read_left_out(folder: Location, names: Sequence[str]) -> dict[str, pa.Table]:
    """What models said of images, by name, of those that have been tried.

    Raises:
        StorageError: If it cannot be read.
    """
    files = {name: _left_out(folder, name) for name in names}
    return {name: read_table(file) for name, file in files.items() if file.exists()}


def _left_out(folder: Location, name: str) -> Location:
    return folder / LEFT_OUT / f"{name}.parquet"
