"""Jobs that are killed in the middle go on where they stopped, and lose and double nothing."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.fakes.chain import Chain
from tests.fakes.jobs import kill_job, run_job, start_job, wait_for_file
from tests.fakes.sources import write_large_source

PER_CLASS, PER_UNIT = 100, 4


@pytest.fixture(scope="module")
def large_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_source(tmp_path_factory.mktemp("large"), PER_CLASS, size=1024)


def interrupt(job: str, flags: tuple[object, ...], output: Path, pattern: str) -> dict[str, int]:
    """Start a job, kill it at its first finished file, and say which ones it had finished, and when."""
    process = start_job(job, *flags)
    try:
        wait_for_file(process, output, pattern)
    finally:
        kill_job(process)
    return {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in output.glob(pattern)}


def test_a_killed_conversion_goes_on_and_has_each_image_once(large_source: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    flags = ("--source", large_source, "--output", output, "--image-size", 48, "--images-per-shard", PER_UNIT)
    finished = interrupt("convert", flags, output, "images/*.parquet")
    assert not (output / "dataset.json").exists()
    result = run_job("convert", *flags)
    assert result.summary["accepted"] == result.summary["listed"] == 2 * PER_CLASS
    record = json.loads((output / "dataset.json").read_text())
    assert 0 < len(finished) < len(record["shards"])
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished
    assert {shard["file"] for shard in record["shards"]} == {file.name for file in (output / "images").iterdir()}
    paths = pq.read_table(output / "images", columns=["path"])["path"].to_pylist()
    assert sorted(paths) == sorted(file.relative_to(large_source).as_posix() for file in large_source.rglob("*.tif"))
    assert not list(output.rglob("*.partial"))
    assert not (output / "run.json").exists()


def test_a_killed_prediction_goes_on_and_has_each_image_once_with_two_actors(
    large_source: Path, chain: Chain, tmp_path: Path
) -> None:
    output = tmp_path / "predictions"
    flags = ("--model-dir", chain.output / "models" / "cnn", "--source", large_source, "--output", output)
    flags += ("--images-per-shard", PER_UNIT, "--num-actors", 2)
    finished = interrupt("predict", flags, output, "predictions/*.parquet")
    assert not (output / "predictions.json").exists()
    result = run_job("predict", *flags)
    assert result.summary["accepted"] == 2 * PER_CLASS
    assert 0 < len(finished) < 2 * PER_CLASS // PER_UNIT
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished
    predictions = pd.read_parquet(output / "predictions")
    names = sorted(file.relative_to(large_source).as_posix() for file in large_source.rglob("*.tif"))
    assert sorted(predictions["path"]) == names
    assert not list(output.rglob("*.partial"))
