"""Ray's memory monitor really ends tasks: the run says so, tries with fewer at once, and comes to an end."""

import os
from pathlib import Path

import pytest

from tests.fakes.jobs import run_job
from tests.fakes.sources import write_source

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# How much a task takes depends on the machine: each stays till the monitor, which takes 0 % for too much, has seen it.
SLOW_DECODER = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import lib.ingest.tiff.samples as decoding
decoding.read_samples = lambda data, page: time.sleep(600)
"""


def test_tasks_that_are_ended_for_memory_are_told_and_tried_with_fewer_at_once_a_few_times(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 6, "lung": 6})
    (tmp_path / "sitecustomize.py").write_text(SLOW_DECODER)
    monitor = {"RAY_memory_usage_threshold": "0.0", "RAY_memory_monitor_refresh_ms": "50"}
    at_once = {"RAY_task_oom_retries": "0"}
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    flags = ("--source", source, "--output", tmp_path / "dataset", "--image-size", 32, "--images-per-shard", 4)
    result = run_job("convert", *flags, env=monitor | at_once | path)
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if "ran out of memory" in line]
    assert "going on with half as many tasks at once" in lines[0]
    assert "--convert-memory-gib" in lines[0]
    assert "even with one task at once on a machine" in lines[-1]
    assert "Traceback" not in result.stderr
