"""A TensorBoard that does not work costs an evaluation its proof of the Projector, and nothing else."""

import json
from pathlib import Path

import pytest

from lib.folders.evaluation import EvaluationRecord
from lib.storage.location import Location
from tests.fakes.chain import Chain
from tests.fakes.jobs import job_here

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def test_an_evaluation_is_whole_and_says_that_its_projector_could_not_be_verified(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "packages" / "tensorboard"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this TensorBoard is broken')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    flags = ("--model-dir", chain.output / "models" / "cnn", "--dataset", chain.output / "dataset", "--maps", "pca")
    summary = job_here("evaluate", *flags, "--output", tmp_path / "evaluation")
    record = EvaluationRecord.read(Location(str(tmp_path / "evaluation")))
    assert record.projector is not None
    assert not record.projector.verified
    assert "this TensorBoard is broken" in str(record.projector.problem)
    whole = json.loads((chain.output / "evaluations" / "cnn" / "metrics.json").read_text())
    assert summary["accuracy"] == pytest.approx(whole["accuracy"])
    assert (tmp_path / "evaluation" / "projector" / "metadata.tsv").exists()
