"""The plots of a model and its evaluation, each with a caption and its content in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from lib.report.records import Plot
from lib.storage.filesystem import Location

CAPTIONS = {
    "confusion_matrix": (
        "Confusion matrix",
        "Rows are what an image is, columns what the model says. Blue is right, orange is wrong.",
    ),
    "scatter": (
        "Predicted against actual",
        "Every image is one mark, moved a little so that marks do not hide each other.",
    ),
    "swarm": (
        "How sure of the actual class",
        "Every image at the probability the model gave to what it really is. "
        "Low marks are confident mistakes, marks in the middle are doubts.",
    ),
    "per_class": (
        "Class by class",
        "Precision: how often the name is right when given. Recall: how many of the class are found.",
    ),
    "reliability": (
        "Can its confidence be believed?",
        "Below the diagonal it is too sure of itself, above it too modest.",
    ),
}


def evaluation_plots(
    evaluation: Location, model: Location, metrics: Mapping[str, Any], class_names: Sequence[str]
) -> tuple[Plot, ...]:
    """The learning curves and the plots of an evaluation, as far as their files exist, in the order shown."""
    in_words = _in_words(metrics, class_names)
    plots = [_read(model / "curves.png", "curves", ("Training", "The epoch that was kept is marked."), "")]
    for key, caption in CAPTIONS.items():
        plots.append(_read(evaluation / "plots" / f"{key}.png", key, caption, in_words.get(key, "")))
    return tuple(plot for plot in plots if plot is not None)


def _read(file: Location, key: str, caption: tuple[str, str], in_words: str) -> Plot | None:
    if not file.exists():
        return None
    title, text = caption
    return Plot(key, title, text, f"{title}. {in_words or text}", file.read_bytes())


def _in_words(metrics: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, str]:
    confusions = most_confused(metrics["confusion_matrix"], class_names)
    taken = "; ".join(f"{actual} for {predicted} ({count})" for actual, predicted, count in confusions)
    mistakes = f"Most often taken: {taken}." if taken else "No image is off the diagonal."
    lowest = sorted(metrics["per_class"], key=lambda row: row["f1"] or 0)[:3]
    weakest = ", ".join(f"{row['class_name']} {row['f1'] or 0:.2f}" for row in lowest)
    return {"confusion_matrix": mistakes, "scatter": mistakes, "per_class": f"Lowest F1: {weakest}."}


def most_confused(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[tuple[str, str, int]]:
    """The three most frequent mistakes: actual class, predicted class, images.

    Args:
        matrix: Images by actual (row) and predicted (column) class.
        class_names: In the order of the rows.
    """
    mistakes = [
        (class_names[row], class_names[column], count)
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(mistakes, key=lambda mistake: -mistake[2])[:3]
