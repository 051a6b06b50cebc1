"""How training went, epoch by epoch; of a head that was solved, penalty by penalty."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lib.plots.canvas import BLUE, GREEN, GREY, INK, VERMILION, Picture, legend, new_figure, style, to_picture

LOSSES = {"left_out_loss": "loss of images left out", "val_loss": "validation loss", "loss": "training loss"}
"""By which epochs are judged, the first that there is."""


def curves(history: pd.DataFrame) -> Picture:
    """Accuracy and loss over the epochs, train and validation, with the best epoch marked.

    Args:
        history: One row an epoch: `epoch` (from 1), `loss`, `accuracy` in [0, 1], and optionally
            `val_loss` and `val_accuracy`, which may be NaN, as `left_out_loss`, `left_out_accuracy` and `penalty` of a
            head that was solved, `keeps_last` where no epoch was chosen, and `phase`; where that changes, a line is
            drawn. Other columns are ignored.

    Returns:
        PNG and SVG.

    Raises:
        ValueError: If there is no epoch.
    """
    if history.empty:
        raise ValueError("the history has no epochs")
    figure = new_figure(10.5, 4.2)
    best, measure = best_epoch(history)
    accuracy, loss = figure.subplots(1, 2)
    for axes, name in ((accuracy, "accuracy"), (loss, "loss")):
        _lines(style(axes, name.capitalize(), grid="y"), history, name)
        _mark_best(axes, history, best)
        _part_phases(axes, history)
        axes.set_xlabel(_axis_name(history, best, measure))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        legend(axes)
    accuracy.set_ylim(0, 1.02)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    loss.set_ylim(bottom=0)
    return to_picture(figure)


def _axis_name(history: pd.DataFrame, best: int | None, measure: str) -> str:
    solved = history["penalty"].notna() if "penalty" in history else pd.Series(data=False, index=history.index)
    what = (
        "Penalty, from strong to weak" if solved.all() else "Epoch (of the head: penalty)" if solved.any() else "Epoch"
    )
    if best is None:
        return what
    penalty = f"{history.loc[history['epoch'] == best, 'penalty'].iloc[0]:.0e}" if solved.all() else f"epoch {best}"
    return f"{what}\n(dotted: {f'best, {penalty}, lowest {measure}' if measure else f'kept, {penalty}, the last'})"


def best_epoch(history: pd.DataFrame) -> tuple[int | None, str]:
    """The epoch with the lowest of the first of `LOSSES` that there is, and the name of that loss.

    Without a name the last epoch whose loss is a number, where no epoch was chosen.
    """
    for column, measure in LOSSES.items():
        if column in history and np.isfinite(history[column]).any():
            finite = history[np.isfinite(history[column])]
            if "keeps_last" in history:  # of such a phase, only the last epoch counts
                phase = finite.get("phase", pd.Series("", index=finite.index))
                finite = finite[~finite["keeps_last"] | (phase != phase.shift(-1))]
            best = finite.iloc[int(finite[column].to_numpy().argmin())]
            return int(best["epoch"]), "" if best.get("keeps_last") else measure
    return None, ""


def _lines(axes: Axes, history: pd.DataFrame, name: str) -> None:
    marked = {"markersize": 4.5} if len(history) <= 40 else {"markersize": 0}  # noqa: PLR2004 - more would be a smear
    axes.plot(history["epoch"], history[name], "o-", color=BLUE, linewidth=1.8, label="train", **marked)
    for prefix, line, color, label in (
        ("val_", "s--", VERMILION, "validation"),
        ("left_out_", "^:", GREEN, "left out"),
    ):
        others = history.get(f"{prefix}{name}")
        if others is not None and others.notna().any():
            axes.plot(history["epoch"], others, line, color=color, linewidth=1.8, label=label, **marked)


def _part_phases(axes: Axes, history: pd.DataFrame) -> None:
    """Draw a line before the first epoch of each phase but the first, and say which phase begins."""
    if "phase" not in history:
        return
    begins = history[history["phase"] != history["phase"].shift()]
    for epoch, phase in list(zip(begins["epoch"], begins["phase"], strict=True))[1:]:
        axes.axvline(epoch - 0.5, color=INK, linewidth=0.8)
        name = phase.replace("_", " ")
        label = axes.text(epoch - 0.5, 0.5, name, rotation=90, va="center", ha="right", fontsize=9, color=INK)
        label.set_transform(axes.get_xaxis_transform())


def _mark_best(axes: Axes, history: pd.DataFrame, best: int | None) -> None:
    if best is None:
        return
    axes.axvline(best, color=GREY, linestyle=":", linewidth=1.5, zorder=0)
    row = history.loc[history["epoch"] == best].iloc[0]
    for name in (axes.get_title(loc="left").lower(), f"val_{axes.get_title(loc='left').lower()}"):
        if pd.notna(row.get(name)):
            axes.plot(best, row[name], "o", markersize=10, markerfacecolor="none", markeredgecolor=INK)
