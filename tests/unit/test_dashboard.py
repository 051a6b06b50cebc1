"""The Grafana dashboard and the metrics of `lib.runtime.counters` name each other; without Ray, nothing is counted."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib.runtime.counters import METRICS, Metric
from tests.fakes.jobs import WAIT_S

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "cluster" / "grafana-dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
KEPT_BY_PROMETHEUS = {"job", "instance"}
KEPT_BY_RAY = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId"}


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    shown = {name for query in QUERIES for name in re.findall(r"ray_(\w+)", query)}
    assert shown == {metric.name for metric in METRICS}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_dashboard_asks_for_tags_that_a_metric_has(metric: Metric) -> None:
    for query in (query for query in QUERIES if metric.name in query):
        grouped = {tag.strip() for group in re.findall(r"by \(([^)]*)\)", query) for tag in group.split(",")}
        selected = {tag for braces in re.findall(r"\{([^}]*)\}", query) for tag in re.findall(r"(\w+)\s*=", braces)}
        assert grouped | selected <= set(metric.tags)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_tags_are_none_that_prometheus_or_ray_would_overwrite(metric: Metric) -> None:
    assert not set(metric.tags) & (KEPT_BY_PROMETHEUS | KEPT_BY_RAY)
    assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_counters_are_shown_as_rates_or_totals_and_gauges_as_they_are() -> None:
    for query in QUERIES:
        for metric in METRICS:
            if f"rate(ray_{metric.name}" in query:
                assert metric.kind == "counter"


def test_without_ray_nothing_is_counted_and_ray_is_not_imported() -> None:
    script = (
        "import sys\n"
        "from lib.runtime import counters as metrics\n"
        "metrics.count_images('convert', 3, 1); metrics.count_epoch(3, 1.0, 0.5)\n"
        "metrics.STORAGE_RETRIES.add(1, reason='timeout')\n"
        "assert 'ray' not in sys.modules and not metrics._exported.cache_info().currsize\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=WAIT_S)
