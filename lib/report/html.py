"""One HTML page that opens without a network: plots, thumbnails, style and script are all inside it."""

import base64
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lib.config import ReportConfig
from lib.report.collect import collect
from lib.report.doubts import doubts
from lib.report.records import Evaluation, Report
from lib.report.verdict import comparison, count_of, headline, percent, ranked
from lib.storage.filesystem import Location
from lib.storage.output import package_versions

REPORT_FILE = "report.json"
TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "\N{EN DASH}"
"""Stands where there is no number."""


def write_report(config: ReportConfig) -> dict[str, Any]:
    """Write `report.html`, and then `report.json`, which says that the page is complete.

    Returns:
        The content of `report.json`.

    Raises:
        SettingsError: If an evaluation folder, or the model or dataset folder it names, is not complete.
        StorageError: If storage fails beyond its retries.
    """
    report = collect(config)
    output = Location(config.output)
    summary = summarize(report) | {
        "settings": config.model_dump(mode="json", exclude={"verbose"}),
        "versions": package_versions(),
        "completed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (output / REPORT_FILE).delete()
    (output / "report.html").write_bytes(render(report, summary).encode())
    (output / REPORT_FILE).write_json(summary)
    return summary


def summarize(report: Report) -> dict[str, Any]:
    """What the page says, for programs. `best` is None where the evaluations cannot be ranked or tie."""
    best, *others = ranked(report)
    alone = report.comparable and all(other.right < best.right for other in others)
    return {
        "verdict": headline(report),
        "best": best.name if alone else None,
        "models": [_model_summary(evaluation) for evaluation in report.evaluations],
        "datasets": [
            {"uri": dataset.uri, "content_hash": dataset.record["content_hash"], "counts": dataset.counts}
            for dataset in report.datasets
        ],
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
        "percent": _or_nothing(percent),
        "number": _or_nothing(lambda value: f"{value:.3f}"),
        "thousands": _or_nothing(lambda value: f"{value:,.0f}"),
        "duration": _or_nothing(duration),
        "breakable": breakable,
        "setting": setting,
        "base64": lambda data: base64.b64encode(data).decode(),
        "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
    }
    environment.globals |= {"count_of": count_of}
    return environment.get_template("report.html.j2").render(
        report=report, summary=summary, comparison=comparison(report), doubts=doubts(report)
    )


def setting(value: Any) -> str:
    """The value of a setting as it is given on the command line; `none` for an empty list."""
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def breakable(text: str) -> Markup:
    """Escaped text that may break after `_` and `/`, where long names and paths are easiest to read on."""
    return Markup("").join(escape(part) + Markup("<wbr>") for part in re.split(r"(?<=[_/])", text))


def _or_nothing(formatted: Any) -> Any:
    def shown(value: float | None) -> str:
        return NOTHING if value is None or not math.isfinite(value) else str(formatted(value))

    return shown


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 5 min`."""
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004
