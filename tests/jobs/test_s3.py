"""A job whose source is in S3, played by a real server of moto on loopback."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.fakes.jobs import run_job
from tests.fakes.s3 import s3_server
from tests.fakes.sources import write_source

pytestmark = pytest.mark.slow


def test_workers_read_from_s3_what_the_driver_has_listed(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 3, "lung": 3}, test_per_class=1, size=32)
    with s3_server() as server:
        flags = ("--source", server.upload(source, "organs"), "--output", tmp_path / "out", "--image-size", 32)
        result = run_job("convert", *flags, "--validation-fraction", 0.4, env=server.environment)
    assert (result.summary["listed"], result.summary["accepted"]) == (8, 8)
    assert pq.read_table(tmp_path / "out" / "images").num_rows == 8
