"""The chain with source and output in Google Cloud Storage, played by a real fake-gcs-server."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from lib.errors import TissueError
from tests.fakes.chain import SETTINGS, Chain
from tests.fakes.gcs import GcsServer, gcs_server
from tests.fakes.jobs import ROOT, job_here, run_job
from tests.fakes.storage import storage_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsServer]:
    with gcs_server() as server:
        yield server


def test_the_chain_gives_the_same_in_the_cloud_as_on_this_machine(
    gcs: GcsServer, chain: Chain, tiny_source: Path
) -> None:
    source, output = gcs.upload(tiny_source, "organs"), f"gs://{gcs.bucket}/results"
    flags = ("--source", source, "--output", output, "--models", "cnn", "--layout", "folder", "--maps", "pca")
    result = run_job("pipeline", *flags, *SETTINGS, env=gcs.environment)
    assert result.summary["models"]["cnn"] == chain.result.summary["models"]["cnn"]
    assert result.summary["output"] == output
    here = json.loads((chain.output / "dataset" / "dataset.json").read_text())
    there = json.loads(gcs.read("results/dataset/dataset.json"))
    same = ("content_hash", "class_names", "counts", "counts_by_split", "reasons")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    predictions = [name for name in gcs.names() if name.startswith("results/evaluations/cnn/predictions/")]
    table = pd.concat([pd.read_parquet(io.BytesIO(gcs.read(name))) for name in predictions])
    local = pd.read_parquet(chain.output / "evaluations" / "cnn" / "predictions")
    assert table.set_index("image_id")["predicted"].to_dict() == local.set_index("image_id")["predicted"].to_dict()


def test_every_file_of_a_local_run_is_in_the_bucket_too_and_none_on_this_machine(gcs: GcsServer, chain: Chain) -> None:
    there = {name.removeprefix("results/") for name in gcs.names() if name.startswith("results/")}
    folders = ("dataset", "models/cnn", "evaluations/cnn", "report")
    here = {name for name in chain.file_times(*folders) if "/tensorboard/" not in name and "/images/" not in name}
    assert here <= there
    assert not [path for path in ROOT.iterdir() if path.name.startswith("gs:")]


def test_a_bucket_that_does_not_exist_is_named(gcs: GcsServer, tmp_path: Path) -> None:
    with storage_here(gcs.environment), pytest.raises(TissueError, match="gs://nobody/organs"):
        job_here("convert", "--source", "gs://nobody/organs", "--output", tmp_path / "dataset")
