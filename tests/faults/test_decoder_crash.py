"""A file that crashes a decoder which is trusted to run in the worker itself."""

import os
from pathlib import Path

import pandas as pd
import pytest
import tifffile

from tests.fakes.jobs import run_job
from tests.fakes.sources import write_source

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# No such file is known (430,000 damaged ones were tried), so the decoder is given a weakness.
WEAK_DECODER = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import lib.ingest.tiff.samples as decoding
strong = decoding.read_samples
def weak(data, page):
    if b"POISON" in data:
        os.abort()
    return strong(data, page)
decoding.read_samples = weak
"""


def test_a_file_that_ends_its_worker_is_refused_by_name_and_all_others_are_converted(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 6, "lung": 6})
    poisoned = next((source / "train" / "lung").glob("*.tif"))
    tifffile.imwrite(poisoned, tifffile.imread(poisoned), photometric="rgb", description="POISON")
    (tmp_path / "sitecustomize.py").write_text(WEAK_DECODER)
    flags = ("--source", source, "--output", tmp_path / "dataset", "--image-size", 32, "--max-bad-fraction", 0.2)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = run_job("convert", *flags, env={"PYTHONPATH": path})
    assert result.summary["quarantined"] == 1
    assert result.summary["accepted"] == result.summary["listed"] - 1
    manifest = pd.read_parquet(tmp_path / "dataset" / "manifest.parquet")
    refused = manifest[manifest["verdict"] == "quarantined"]
    assert refused["path"].tolist() == [poisoned.relative_to(source).as_posix()]
    assert refused["reason"].tolist() == ["decoder_crashed"]
