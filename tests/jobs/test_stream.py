"""Training on TIFFs that are streamed from storage, without a dataset folder between."""

import json
import shutil
from pathlib import Path

import pytest

from lib.errors import DataError
from tests.fakes.chain import SETTINGS, Chain
from tests.fakes.jobs import job_here

pytestmark = pytest.mark.usefixtures("local_ray")


def test_streamed_training_accounts_for_every_file_and_learns_the_same_classes(
    chain: Chain, tiny_source: Path, tmp_path: Path
) -> None:
    summary = job_here("train", "--source", tiny_source, "--output", tmp_path / "model", *SETTINGS)
    counts = {name: summary[name] for name in ("listed", "accepted", "quarantined", "excluded")}
    # Test images are not trained on: 8 images and a damaged file of test/ are excluded, and two files without a name.
    assert counts == {"listed": 41, "accepted": 29, "quarantined": 1, "excluded": 11}
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    converted = json.loads((chain.output / "models" / "cnn" / "model.json").read_text())
    assert record["class_names"] == converted["class_names"]
    assert record["image_encoding"] is None
    assert record["metrics"]["val_accuracy"] >= 0.6
    assert not (tmp_path / "model" / "images").exists()


def test_the_same_image_in_two_classes_is_refused_before_training(tiny_source: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_source, source)
    first, second = sorted(path for path in (source / "train").iterdir() if path.is_dir())[:2]
    shutil.copy(min(first.glob("*.tif")), second / "zz.tif")
    with pytest.raises(DataError, match="the same image is in two classes"):
        job_here("train", "--source", source, "--output", tmp_path / "model", *SETTINGS)
    assert not (tmp_path / "model" / "model.json").exists()
