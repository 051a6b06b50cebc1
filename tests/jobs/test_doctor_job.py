"""`python -m jobs.doctor` on a source that is in order, and on one that is not."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from lib.errors import TissueError
from lib.models.spec import ModelSpec
from tests.fakes.jobs import job_here
from tests.fakes.sources import damage, write_source

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def test_a_run_that_can_work_has_an_estimate_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 4, "lung": 4})
    summary = job_here("doctor", "--source", source, "--output", tmp_path / "out", "--image-size", 32)
    assert summary["blocks"] == []
    checks = [finding["check"] for finding in summary["findings"]]
    assert {"source", "output", "weights", "versions", "GPUs", "decoding", "disk", "memory", "estimate"} <= set(checks)
    assert {"step", "workers"} <= set(checks)
    as_set, *faster = summary["speeds"]["cnn"]["steps"]
    assert as_set["settings"] == {"batch_size": 32, "parts": 4, "precision": "float32"}
    assert all(0 < step["seconds"] < 0.95 * as_set["seconds"] for step in faster)
    assert summary["estimate"]["train_s"] > 0
    assert not (tmp_path / "out").exists()


def test_a_candidate_without_weights_is_a_warning_and_does_not_stop_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(specs: Iterable[ModelSpec], _: int) -> None:
        if any(spec.weights == "imagenet" for spec in specs):
            raise TissueError("the ImageNet weights of vgg16 are not on this machine")

    monkeypatch.setattr("lib.evaluation.choice.candidates.require_weights_of", refuse)
    source = write_source(tmp_path / "source", {"liver": 4, "lung": 4})
    flags = ("--source", source, "--output", tmp_path / "out", "--image-size", 32)
    summary = job_here("doctor", *flags, "--models", "auto", "cnn", "vgg16")
    found = {finding["check"]: finding for finding in summary["findings"]}
    assert summary["blocks"] == []
    assert found["weights"]["state"] == "warning"
    assert "vgg16 is left out: the ImageNet weights of vgg16 are not on this machine" in found["weights"]["detail"]
    assert summary["estimate"]["train_s"] > 0
    assert job_here("doctor", *flags, "--models", "auto", "vgg16")["blocks"] == ["weights"]


def test_what_stands_in_the_way_is_named_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_source(tmp_path / "source", {"liver": 3, "lung": 3})
    for file in source.rglob("*.tif"):
        damage(file)
    flags = ("--source", source, "--output", tmp_path / "out", "--models", "cnn", f"vgg16:weights={tmp_path}/none.h5")
    summary = job_here("doctor", *flags, "--use-gpu")
    assert summary["exit_code"] == 1
    assert set(summary["blocks"]) == {"models", "GPUs", "decoding"}
    assert "none.h5" in capsys.readouterr().err
