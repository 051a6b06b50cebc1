"""What the script of the page needs besides the page: thumbnails, and the points of the maps.

Thumbnails stand here once, however often the page shows them, and the browser decodes only those that come into view.
"""

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from lib.plots.palette import class_looks
from lib.report.report import Evaluation, Report

KIND_NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "principal components"}
"""In the order in which the page offers them."""
STEPS = 10_000
"""Places on a map are whole numbers up to this."""


class PageData:
    """Numbers the thumbnails of a report, and gathers what its script reads."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.numbers: dict[tuple[str, str, str], int] = {}
        self.jpegs: list[str] = []
        for (uri, split), thumbnails in report.thumbnails.items():
            for image_id, jpeg in thumbnails.singles.items():
                self.numbers[uri, split, image_id] = len(self.jpegs)
                self.jpegs.append(_base64(jpeg))

    def thumbnail(self, dataset_uri: str, split: str, image_id: str) -> int | None:
        """The number of a thumbnail; None where the dataset no longer has the image."""
        return self.numbers.get((dataset_uri, split, image_id))

    @property
    def content(self) -> dict[str, Any]:
        """JSON for the script: thumbnails, sprites, and a map for each evaluation that has one (or null)."""
        keys = {key: number for number, key in enumerate(self.report.thumbnails)}
        return {
            "thumbnails": self.jpegs,
            "sprites": [self._sprite(key) for key in keys],
            "maps": [self._map(one, keys) for one in self.report.evaluations],
        }

    def _sprite(self, key: tuple[str, str]) -> dict[str, Any] | None:
        sprite = self.report.thumbnails[key].sprite
        if sprite is None:
            return None
        rows = -(-len(sprite.tiles) // sprite.columns)
        return {"jpeg": _base64(sprite.jpeg), "side": sprite.side_px, "columns": sprite.columns, "rows": rows}

    def _map(self, one: Evaluation, keys: dict[tuple[str, str], int]) -> dict[str, Any] | None:
        if one.layouts is None:
            return None
        key = (one.dataset.uri, one.split)
        sprite, predictions = self.report.thumbnails[key].sprite, one.predictions
        rows = {image_id: row for row, image_id in enumerate(predictions.image_ids)}
        order = np.array([rows[image_id] for image_id in one.layouts.image_ids])
        tiles = sprite.tiles if sprite else {}
        kinds = [kind for kind in KIND_NAMES if kind in one.layouts.places]
        actual = predictions.actual[order]
        return {
            "kinds": [{"name": KIND_NAMES[kind], "places": _steps(one.layouts.places[kind])} for kind in kinds],
            "classes": one.class_names,
            "looks": _looks(one.layouts.places[kinds[0]], actual, len(one.class_names)),
            "actual": actual.tolist(),
            "predicted": predictions.predicted[order].tolist(),
            "confidence": np.round(predictions.confidence[order].astype(float), 4).tolist(),
            "paths": [predictions.paths[row] for row in order],
            "sprite": keys[key],
            "tiles": [tiles.get(image_id, -1) for image_id in one.layouts.image_ids],
            "thumbnails": [self.numbers.get((*key, image_id), -1) for image_id in one.layouts.image_ids],
        }


def _steps(places: npt.NDArray[np.float32]) -> list[int]:
    """x, y, x, y and so on, with y downwards as on a screen."""
    flipped = np.stack([places[:, 0], 1 - places[:, 1]], axis=1)
    return [int(step) for step in np.round(flipped * STEPS).ravel()]


def _looks(places: npt.NDArray[np.float32], actual: npt.NDArray[np.int64], classes: int) -> list[list[str]]:
    """Outline and fill of each class, those of the static maps."""
    middle = np.full(2, 0.5)
    centres = [
        np.median(places[actual == number], axis=0) if (actual == number).any() else middle for number in range(classes)
    ]
    return [[look.colour, look.fill] for look in class_looks(classes, np.array(centres))]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
