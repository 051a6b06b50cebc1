"""All plots of an evaluation, as PNG and as SVG."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from lib.evaluation.measures.abstention import risk_coverage_curve
from lib.evaluation.measures.metrics import uncalibrated
from lib.evaluation.views.drawing import Drawing, begin_drawing
from lib.folders.evaluation import KINDS, PLOT_KEY_FILE, PLOTS, Metrics, write_plot_key
from lib.folders.predictions import ScoredPredictions, read_grad_cam
from lib.ingest.image import decode_jpeg
from lib.plots import (
    Picture,
    abstention_curve,
    confidence_histogram,
    confusion_matrix,
    embedding_map,
    grad_cam_sheet,
    lettering,
    per_class_bars,
    pr_curves,
    predicted_scatter,
    predicted_swarm,
    reliability,
    roc_curves,
)
from lib.storage.location import Location

logger = logging.getLogger(__name__)
MOST_HEATMAPS = 12
MOST_NAMED = 5
MAP_TITLES = {"pca": "Principal components", "tsne": "t-SNE", "umap": "UMAP"}


class PendingPlots:
    """Plots that are being drawn, beside other work (see `begin_drawing`)."""

    def __init__(self, scored: ScoredPredictions, metrics: Metrics, folder: Location) -> None:
        """Begin to draw all but the maps, which `draw_maps` draws.

        Args:
            scored: What is drawn.
            metrics: How good the predictions are.
            folder: The evaluation folder, which has the heatmaps if there are any.
        """
        self._class_names, self._folder = scored.class_names, folder
        self._pictures = begin_drawing(_plots(scored, metrics) | _grad_cam(folder, scored.class_names))

    def write(self) -> Mapping[str, str]:
        """Write `plots/NAME.png` and `plots/NAME.svg` into the folder, and a key of what they draw for names.

        Returns:
            The names of classes that cannot be drawn, by what the plots draw for them.
        """
        _write(self._pictures.result(), self._folder)
        key = _key(self._class_names)
        write_plot_key(key, self._folder)
        return key


def draw_maps(scored: ScoredPredictions, maps: pa.Table, folder: Location) -> None:
    """Write `plots/map_KIND.png` and `plots/map_KIND.svg`.

    Args:
        scored: What is drawn.
        maps: Rows of `MAP_SCHEMA`, of some of its images.
        folder: The evaluation folder.
    """
    _write(begin_drawing(_maps(scored, maps)).result(), folder)


def _write(pictures: Mapping[str, Picture], folder: Location) -> None:
    files = {f"{name}.png": picture.png for name, picture in pictures.items()}
    files |= {f"{name}.svg": picture.svg for name, picture in pictures.items()}
    (folder / PLOTS).write_many(files)


def _key(class_names: Sequence[str]) -> Mapping[str, str]:
    """The key of the plots; a warning names the classes for which a font is missing."""
    written = lettering(class_names)
    if drawn := written.without_font:
        named = ", ".join(f"{written.key[name]} is '{name}'" for name in drawn[:MOST_NAMED])
        logger.warning(
            "no font on this machine has the letters of %d class name%s, which plots show by number: %s%s. "
            "The key is in %s/%s and in the report; to see the names, install a font that has them, such as Noto "
            "Sans CJK or the Noto Sans of their script, and evaluate anew",
            *(len(drawn), "" if len(drawn) == 1 else "s", named, ", ..." if len(drawn) > MOST_NAMED else ""),
            *(PLOTS, PLOT_KEY_FILE),
        )
    return written.key


def _plots(scored: ScoredPredictions, metrics: Metrics) -> dict[str, Drawing]:
    actual, probabilities, names = scored.actual, scored.probabilities, scored.class_names
    confidence, correct = scored.confidence, scored.correct
    before = None
    if scored.temperature is not None:
        before = (uncalibrated(probabilities, scored.temperature).max(axis=1), correct)
    return {
        "confusion_matrix": partial(confusion_matrix, np.array(metrics.confusion_matrix), names),
        "scatter": partial(predicted_scatter, actual, scored.predicted, confidence, names),
        "swarm": partial(predicted_swarm, actual, scored.predicted, probabilities, names),
        "per_class": partial(per_class_bars, [row.as_json() for row in metrics.per_class]),
        "roc": partial(roc_curves, actual, probabilities, names),
        "pr": partial(pr_curves, actual, probabilities, names),
        "reliability": partial(reliability, before, (confidence, correct)),
        "confidence": partial(confidence_histogram, confidence, correct),
        "abstention": partial(
            abstention_curve,
            *risk_coverage_curve(confidence, correct),
            [row.as_json() for row in metrics.abstention],
        ),
    }


def _maps(scored: ScoredPredictions, maps: pa.Table) -> dict[str, Drawing]:
    places = {image_id: place for place, image_id in enumerate(scored.predictions["image_id"].to_pylist())}
    rows = np.array([places[image_id] for image_id in maps["image_id"].to_pylist()], np.int64)
    actual, correct = scored.actual[rows], scored.correct[rows]
    drawings: dict[str, Drawing] = {}
    for kind in KINDS:
        points = np.stack([maps[f"{kind}_{axis}"].to_numpy() for axis in "xy"], axis=1)
        if np.isfinite(points).all():
            drawn = partial(embedding_map, points, actual, correct, scored.class_names, MAP_TITLES[kind])
            drawings[f"map_{kind}"] = drawn
    return drawings


def _grad_cam(folder: Location, class_names: Sequence[str]) -> dict[str, Drawing]:
    """One drawing, or none where there are no heatmaps."""
    rows = read_grad_cam(folder).slice(0, MOST_HEATMAPS).to_pylist()
    looked = [
        (decode_jpeg(row["image"]), _gray(row["heatmap"]), row["label"], row["predicted"], row["confidence"])
        for row in rows
    ]
    return {"grad_cam": partial(grad_cam_sheet, looked, class_names)} if looked else {}


def _gray(png: bytes) -> "np.ndarray[Any, Any]":
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE), np.float32) / 255
