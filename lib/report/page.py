"""One HTML page that opens without a network: plots, thumbnails, style and script are all inside it."""

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.config.chain import ReportConfig
from lib.folders.output import RunRecord, package_versions, write_anew
from lib.folders.record import Record
from lib.folders.report_folder import PAGE, DatasetSummary, ModelSummary, ReportRecord
from lib.plots.palette import class_looks
from lib.report.collect import collect
from lib.report.doubts.ranking import doubts
from lib.report.formatting import (
    breakable,
    count_of,
    duration,
    json_in_page,
    or_nothing,
    percent,
    points,
    setting,
    unbroken,
)
from lib.report.report import Evaluation, Report, ranked
from lib.report.verdict import answers, can_be_chance, comparison, drawn_from, elsewhere, headline
from lib.runtime.clock import now
from lib.storage.location import Location

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("thumbnails.js", "errors.js", "map.js", "sort.js", "start.js")


def write_report(config: ReportConfig) -> ReportRecord:
    """Write `report.html`, and then `report.json`, which says that the page is complete.

    Raises:
        SettingsError: If an evaluation folder, or the model, dataset or checks folder it names, is not complete, or
            another run is writing into the output.
        StorageError: If storage fails beyond its retries.
        DataError: If evaluations that name the same dataset and split have predictions of different images.
    """
    report, output = collect(config), Location(config.output)
    run = RunRecord(marker=ReportRecord.FILE, settings=config.identity())
    return write_anew(output, run, lambda: _write_page(report, config, output), ReportRecord)


def _write_page(report: Report, config: ReportConfig, output: Location) -> ReportRecord:
    summary = summarize(report, config)
    (output / PAGE).write_bytes(render(report, summary).encode())
    return summary


def summarize(report: Report, config: ReportConfig) -> ReportRecord:
    """What the page says, for programs."""
    best, *others = ranked(report.evaluations)
    alone = report.comparable and all(other.right < best.right for other in others)
    return ReportRecord(
        verdict=headline(report),
        best=best.name if alone else None,
        models=[_model_summary(evaluation) for evaluation in report.evaluations],
        datasets=[
            DatasetSummary(uri=dataset.uri, content_hash=dataset.record.content_hash, counts=dataset.counts)
            for dataset in report.datasets
        ],
        doubts=[doubt.title for doubt in doubts(report)],
        settings=config.model_dump(mode="json", exclude={"verbose", "log_format"}),
        versions=package_versions(),
        completed_at=now(),
    )


def _model_summary(evaluation: Evaluation) -> ModelSummary:
    return ModelSummary(
        name=evaluation.name,
        spec=evaluation.record.spec,
        dataset_hash=evaluation.record.dataset_hash,
        split=evaluation.split,
        images=evaluation.images,
        accuracy=evaluation.accuracy,
        accuracy_interval=evaluation.interval,
        macro_f1=evaluation.metrics.macro.f1,
    )


def render(report: Report, summary: ReportRecord) -> str:
    """The whole page as HTML, from the templates beside this file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": or_nothing(percent),
        "number": or_nothing(lambda value: f"{value:.3f}"),
        "thousands": or_nothing(lambda value: f"{value:,.0f}"),
        "duration": or_nothing(duration),
        "points": or_nothing(points),
        "breakable": breakable,
        "unbroken": unbroken,
        "setting": setting,
        "base64": lambda data: base64.b64encode(data).decode(),
        "json_in_page": json_in_page,
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=Record.as_json),
    }
    data = PageData(report)
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    found = doubts(report)
    environment.globals |= {
        "count_of": count_of,
        "can_be_chance": can_be_chance,
        "drawn_from": drawn_from,
        "thumbnail": data.thumbnail,
        "elsewhere": elsewhere,
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        summary=summary,
        comparison=comparison(report),
        doubts=found,
        answers=answers(report, found),
        data=data.content,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode(),
    )


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
        """The number of a thumbnail; None where no evaluation kept one."""
        return self.numbers.get((dataset_uri, split, image_id))

    @property
    def content(self) -> dict[str, object]:
        """JSON for the script: thumbnails, sprites, and a map for each evaluation that has one (or null)."""
        keys = {key: number for number, key in enumerate(self.report.thumbnails)}
        return {
            "thumbnails": self.jpegs,
            "sprites": [self._sprite(key) for key in keys],
            "maps": [self._map(one, keys) for one in self.report.evaluations],
        }

    def _sprite(self, key: tuple[str, str]) -> dict[str, object] | None:
        sprite = self.report.thumbnails[key].sprite
        if sprite is None:
            return None
        rows = -(-len(sprite.tiles) // sprite.columns)
        return {"jpeg": _base64(sprite.jpeg), "side": sprite.side_px, "columns": sprite.columns, "rows": rows}

    def _map(self, one: Evaluation, keys: dict[tuple[str, str], int]) -> dict[str, object] | None:
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
