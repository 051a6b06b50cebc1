"""`python -m jobs.doctor` on a source that is in order, and on one that is not."""

from pathlib import Path

import pytest

from tests.fakes.jobs import job_here
from tests.fakes.sources import damage, write_source

pytestmark = pytest.mark.usefixtures("local_ray")


def test_a_run_that_can_work_has_an_estimate_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 4, "lung": 4})
    summary = job_here("doctor", "--source", source, "--output", tmp_path / "out", "--image-size", 32)
    assert summary["blocks"] == []
    checks = [finding["check"] for finding in summary["findings"]]
    assert {"source", "output", "weights", "versions", "GPUs", "decoding", "disk", "memory", "estimate"} <= set(checks)
    assert summary["estimate"]["train_s"] > 0
    assert not (tmp_path / "out").exists()


def test_what_stands_in_the_way_is_named_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "source", {"liver": 3, "lung": 3})
    for file in source.rglob("*.tif"):
        damage(file)
    flags = ("--source", source, "--output", tmp_path / "out", "--models", "cnn", f"vgg16:weights={tmp_path}/none.h5")
    summary = job_here("doctor", *flags, "--use-gpu")
    assert summary["exit_code"] == 1
    assert set(summary["blocks"]) == {"models", "GPUs", "decoding"}
    assert "none.h5" in capsys.readouterr().err
