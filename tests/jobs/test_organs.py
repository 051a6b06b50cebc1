"""Real histology with real ImageNet weights, where both are at hand (`../shared/data`)."""

from pathlib import Path

import pytest

from tests.fakes.jobs import ROOT, run_job

DATA = ROOT.parent / "shared" / "data"
WEIGHTS = DATA / "imagenet-weights" / "mobilenet_2_5_224_tf_no_top.h5"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "organs12").is_dir() or not WEIGHTS.is_file(), reason="needs ../shared/data"),
]


def test_frozen_mobilenet_tells_twelve_organs_apart(tmp_path: Path) -> None:
    flags = ("--source", DATA / "organs12", "--output", tmp_path / "organs", "--image-size", 224, "--epochs", 10)
    result = run_job("pipeline", *flags, "--models", f"mobilenet:alpha=0.25,weights={WEIGHTS}")
    assert (result.summary["accepted"], result.summary["quarantined"]) == (264, 0)
    assert result.summary["accuracy"] >= 0.80  # one run of the same network and a linear head elsewhere had 0.85
