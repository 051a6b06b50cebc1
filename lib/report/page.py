"""One HTML page that opens without a network: plots, thumbnails, style and script are all inside it."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lib.config import ReportConfig
from lib.folders.output import package_versions
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
from lib.report.page_data import PageData
from lib.report.report import Evaluation, Report, ranked
from lib.report.verdict import answers, can_be_chance, comparison, drawn_from, headline
from lib.storage.location import Location

REPORT_FILE = "report.json"
TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("thumbnails.js", "errors.js", "map.js", "start.js")


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Write `report.html`, and then `report.json`, which says that the page is complete.

    Returns:
        The content of `report.json`.

    Raises:
        SettingsError: If an evaluation folder, or the model, dataset or checks folder it names, is not complete.
        StorageError: If storage fails beyond its retries.
        DataError: If evaluations that name the same dataset and split have predictions of different images.
    """
    report = collect(config)
    output = Location(config.output)
    summary = summarize(report) | {
        "settings": config.model_dump(mode="json", exclude={"verbose", "log_format"}),
        "versions": package_versions(),
        "completed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (output / REPORT_FILE).delete()
    (output / "report.html").write_bytes(render(report, summary).encode())
    (output / REPORT_FILE).write_json(summary)
    return summary


def summarize(report: Report) -> dict[str, Any]:
    """What the page says, for programs. `best` is None where the evaluations cannot be ranked or tie."""
    best, *others = ranked(report.evaluations)
    alone = report.comparable and all(other.right < best.right for other in others)
    return {
        "verdict": headline(report),
        "best": best.name if alone else None,
        "models": [_model_summary(evaluation) for evaluation in report.evaluations],
        "datasets": [
            {"uri": dataset.uri, "content_hash": dataset.record["content_hash"], "counts": dataset.counts}
            for dataset in report.datasets
        ],
        "doubts": [doubt.title for doubt in doubts(report)],
    }


def _model_summary(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "name": evaluation.name,
        "spec": evaluation.record["spec"],
        "dataset_hash": evaluation.record["dataset_hash"],
        "split": evaluation.split,
        "images": evaluation.images,
        "accuracy": evaluation.accuracy,
        "accuracy_interval": list(evaluation.interval),
        "macro_f1": evaluation.metrics["macro"]["f1"],
    }


def render(report: Report, summary: dict[str, Any]) -> str:
    """The page."""
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
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
    }
    data = PageData(report)
    script = "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    found = doubts(report)
    environment.globals |= {
        "count_of": count_of,
        "can_be_chance": can_be_chance,
        "drawn_from": drawn_from,
        "thumbnail": data.thumbnail,
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
