"""What a training leaves behind of its epochs: the history, the curves, and what `model.json` says of them."""

from typing import Any

import numpy as np
import pyarrow as pa

from lib.folders.model import HISTORY_SCHEMA, write_epochs
from lib.plots import curves
from lib.storage.location import Location


def write_history(rows: list[dict[str, Any]], folder: Location) -> None:
    """Write the history and its curves into a model folder.

    Args:
        rows: One an epoch, as `HISTORY_SCHEMA` has them.
        folder: The model folder.
    """
    history = pa.Table.from_pylist(rows, schema=HISTORY_SCHEMA)
    picture = curves(history.to_pandas())
    write_epochs(history, picture.png, picture.svg, folder)


def history_record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What `model.json` says of the epochs: the numbers of the best one, and how fast they went."""
    best = min(rows, key=watched_loss)
    return {
        "metrics": {
            "best_epoch": best["epoch"],
            "epochs": len(rows),
            **{name: best[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")},
        },
        "fit_seconds": round(sum(row["seconds"] for row in rows), 3),
        "images_per_s": round(float(np.median([row["images_per_s"] for row in rows])), 1),
    }


def watched_loss(row: dict[str, Any]) -> float:
    """The loss by which epochs are judged; one that is no number is the worst."""
    loss = row["loss"] if row["val_loss"] is None else row["val_loss"]
    return float("inf") if np.isnan(loss) else float(loss)
