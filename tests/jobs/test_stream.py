"""Training on TIFFs that are streamed from storage, without a dataset folder between."""

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from lib.config.images import ImageConfig, ListingConfig
from lib.config.resources import DecodeConfig
from lib.dataset.tiff_source import TiffSource
from lib.errors import DataError
from lib.folders.model import SEEN_SCHEMA
from lib.ingest.listing import image_id
from lib.storage.location import Location
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


def test_what_only_an_earlier_start_of_a_training_has_read_is_known_as_seen(tiny_source: Path) -> None:
    source = TiffSource.list_labelled(
        Location(str(tiny_source)), ImageConfig(image_size=48), ListingConfig(validation_fraction=0.1)
    )
    nothing, splits = SEEN_SCHEMA.empty_table(), ("train", "validation")
    every = source.trained_on(splits, {}, nothing, DecodeConfig())
    assert every.counts is not None
    assert (len(every.checksums), every.counts.accepted, every.counts.quarantined) == (30, 29, 1)
    damaged = pc.equal(every.checksums["image_id"], image_id("train/lung/lung_train_003.tif"))
    later = every.checksums.filter(pc.invert(damaged)).slice(20)  # what is told after going on from a checkpoint
    assert source.trained_on(splits, {}, later, DecodeConfig()).checksums.sort_by("image_id") == (
        every.checksums.sort_by("image_id")
    )
    assert source.trained_on(splits, {}, later, DecodeConfig()).counts == every.counts


def test_the_same_image_in_two_classes_is_refused_before_training(tiny_source: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_source, source)
    first, second = sorted(path for path in (source / "train").iterdir() if path.is_dir())[:2]
    shutil.copy(min(first.glob("*.tif")), second / "zz.tif")
    with pytest.raises(DataError, match="the same image is in two classes"):
        job_here("train", "--source", source, "--output", tmp_path / "model", *SETTINGS)
    assert not (tmp_path / "model" / "model.json").exists()
