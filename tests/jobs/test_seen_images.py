"""No model is measured on an image that it was trained on, however the image got into the test split."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes.chain import Chain
from tests.fakes.jobs import JobResult, run_job


def dataset_with_splits_exchanged(chain: Chain, folder: Path) -> Path:
    """The chain's dataset, with `train` called `test`: as if somebody had cut the same images otherwise."""
    shutil.copytree(chain.output / "dataset", folder)
    record = json.loads((folder / "dataset.json").read_text())
    names = {"train": "test", "test": "train", "validation": "validation"}
    record["shards"] = [shard | {"split": names[shard["split"]]} for shard in record["shards"]]
    record["content_hash"] = "another"
    (folder / "dataset.json").write_text(json.dumps(record))
    manifest = pq.read_table(folder / "manifest.parquet")
    splits = pa.array([names.get(split) for split in manifest["split"].to_pylist()], pa.string())
    place = manifest.schema.get_field_index("split")
    pq.write_table(manifest.set_column(place, "split", splits), folder / "manifest.parquet")
    return folder


def evaluate(model: Path, dataset: Path, output: Path) -> JobResult:
    return run_job("evaluate", "--model-dir", model, "--dataset", dataset, "--output", output)


def test_a_test_split_that_was_trained_on_elsewhere_is_refused(chain: Chain, tmp_path: Path) -> None:
    dataset = dataset_with_splits_exchanged(chain, tmp_path / "dataset")
    result = evaluate(chain.output / "models" / "cnn", dataset, tmp_path / "evaluation")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "26 of 26 images" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "evaluation").exists()
