"""No model is measured on an image that it was trained on, however the image got into the test split."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from lib.errors import DataError
from lib.folders.dataset import DatasetRecord
from lib.folders.manifest import read_manifest, write_manifest
from lib.storage.location import Location
from tests.fakes.chain import Chain
from tests.fakes.jobs import job_here


def dataset_with_splits_exchanged(chain: Chain, folder: Path) -> Path:
    """The chain's dataset, with `train` called `test`: as if somebody had cut the same images otherwise."""
    shutil.copytree(chain.output / "dataset", folder)
    copy = Location(str(folder))
    record, manifest = DatasetRecord.read(copy), read_manifest(copy)
    names = {"train": "test", "test": "train", "validation": "validation"}
    shards = [shard.model_copy(update={"split": names[shard.split]}) for shard in record.shards]
    record.model_copy(update={"shards": shards, "content_hash": "another"}).write(copy)
    splits = pa.array([names.get(split) for split in manifest["split"].to_pylist()], pa.string())
    place = manifest.schema.get_field_index("split")
    write_manifest(manifest.set_column(place, "split", splits), copy)
    return folder


def test_a_test_split_that_was_trained_on_elsewhere_is_refused(chain: Chain, tmp_path: Path) -> None:
    dataset = dataset_with_splits_exchanged(chain, tmp_path / "dataset")
    flags = ("--model-dir", chain.output / "models" / "cnn", "--dataset", dataset, "--output", tmp_path / "evaluation")
    with pytest.raises(DataError, match="26 of 26 images"):
        job_here("evaluate", *flags)
    assert not (tmp_path / "evaluation").exists()
