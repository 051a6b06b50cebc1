"""The history of a model folder: one row an epoch, typed once for the fit, its checkpoints and `history.parquet`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa


@dataclass(frozen=True)
class HistoryRow:
    """One epoch, with numbers of all workers together.

    Attributes:
        epoch: From 1, over all phases.
            A head that is solved has no epochs: there, a row is a penalty, from strong to weak.
        phase: `fit`, `head` or `fine_tune`.
        loss: Mean cross-entropy of the training images in nats, each times its weight.
        accuracy: Fraction of the training images that were predicted right, in [0, 1].
        val_loss: The loss of the validation images; None without any.
        val_accuracy: Their accuracy; None without any.
        learning_rate: Step size at the end of the epoch; None where nothing is done step by step.
        seconds: Duration, validation included.
        images_per_s: Training images a second, validation not included.
        wait_share: Share of the time of training in which steps waited for images, in [0, 1], on rank 0.
        penalty: Of a head that is solved; see `lib.models.softmax_regression`.
        left_out_loss: Loss of each training image by a head that was solved without it; None without such.
        left_out_accuracy: The accuracy of these heads.
        keeps_last: Whether the last epoch is kept, since too few validation images could choose one.
        gpu_utilisation: Share of the time of training in which the GPU of rank 0 ran a kernel, in [0, 1]; None without
            one, or where it does not tell.
        gpu_memory_gib: Most memory of that GPU that was taken, by whatever process, in GiB; None likewise.
    """

    epoch: int
    phase: str
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float | None
    seconds: float
    images_per_s: float
    wait_share: float
    penalty: float | None = None
    left_out_loss: float | None = None
    left_out_accuracy: float | None = None
    keeps_last: bool = False
    gpu_utilisation: float | None = None
    gpu_memory_gib: float | None = None

    @property
    def watched_loss(self) -> float:
        """The loss by which rows are judged: of left-out, else of validation, else of training images; NaN is worst."""
        known = (self.left_out_loss, self.val_loss, self.loss)
        loss = next(loss for loss in known if loss is not None)
        return math.inf if math.isnan(loss) else loss


_COLUMN_TYPES: dict[object, tuple[pa.DataType, bool]] = {
    int: (pa.int32(), False),
    bool: (pa.bool_(), False),
    str: (pa.string(), False),
    float: (pa.float64(), False),
    float | None: (pa.float64(), True),
}
HISTORY_SCHEMA = pa.schema([pa.field(field.name, *_COLUMN_TYPES[field.type]) for field in fields(HistoryRow)])


def best_row(rows: Sequence[HistoryRow]) -> HistoryRow:
    """The epoch whose weights are kept: the first of those with the lowest watched loss.

    Of a phase in which no epoch is chosen, only the last whose loss is a number counts.
    """
    numbers = [row for row in rows if row.watched_loss < math.inf] or rows
    last_of = {row.phase: row for row in numbers}
    return min(
        (row for row in numbers if not row.keeps_last or row is last_of[row.phase]), key=lambda row: row.watched_loss
    )


def history_table(rows: Sequence[HistoryRow]) -> pa.Table:
    """Rows as `HISTORY_SCHEMA` has them."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=HISTORY_SCHEMA)
