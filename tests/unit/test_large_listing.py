"""A source of a million images: its listing, its units and its account stay below 1 GiB in the driver."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lib.errors import StorageError
from lib.folders.manifest import content_digest
from lib.storage import scan
from lib.storage.gcs import gcs_filesystem
from lib.storage.location import FILESYSTEMS, Location
from tests.fakes.large_bucket import LARGEST_PAGE, large_bucket

pytestmark = pytest.mark.slow

IMAGES = 1_000_000
LIMIT_MIB = 1024

CONVERT = """
import sys, time
started = time.perf_counter()
import pyarrow as pa
import jobs.convert
from lib.config.conversion import ConvertConfig
from lib.folders.manifest import FILE_FIELDS, PIXEL_FIELDS
from lib.ingest import convert
from lib.ingest.update import CONVERTED_SCHEMA

def say(what):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(what, f"{time.perf_counter() - started:.1f}", int(status["VmHWM"].split()[0]) // 1024, flush=True)

def accepted(units, config, progress):
    say("planned")
    for unit in units:
        nulls = pa.nulls(unit.num_rows, pa.string())
        verdicts = unit.append_column("verdict", pa.array(["accepted"] * unit.num_rows))
        verdicts = verdicts.append_column("reason", nulls).append_column("detail", nulls)
        values = ("uint8", 1, 0.5, 0.01, 0.01, 200, None, 512, 512, "lzw", None, "ab12cd", None)
        for field, value in zip([*PIXEL_FIELDS, *FILE_FIELDS], values, strict=True):
            verdicts = verdicts.append_column(field, pa.array([value] * unit.num_rows, field.type))
        yield as_from_another_process(verdicts.select(CONVERTED_SCHEMA.names).cast(CONVERTED_SCHEMA))

def as_from_another_process(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()

convert.convert_units = accepted
config = ConvertConfig(source=sys.argv[1], output=sys.argv[2], duplicates="keep")
record = convert.convert_images(config)
assert record.counts.accepted == int(sys.argv[3]), record.counts
say("accounted")
"""
"""The driver's part of a conversion. A process tells its own peak; what `getrusage` tells began with its parent's."""


def test_a_million_images_are_planned_and_accounted_for_below_a_gibibyte(tmp_path: Path) -> None:
    with large_bucket(IMAGES) as bucket:
        run = subprocess.run(
            [sys.executable, "-c", CONVERT, bucket.source, str(tmp_path / "dataset"), str(IMAGES)],
            env=os.environ | bucket.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    print(run.stdout)  # noqa: T201 - seconds since the start of the process, and its peak in MiB
    stages = {what: int(peak_mib) for what, _, peak_mib in map(str.split, run.stdout.splitlines())}
    assert stages.keys() == {"planned", "accounted"}
    assert stages["planned"] <= stages["accounted"] < LIMIT_MIB


def test_a_listing_of_several_pages_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    images = 2 * LARGEST_PAGE + 1
    with large_bucket(images) as bucket:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
        monkeypatch.setitem(FILESYSTEMS, "gs", partial(gcs_filesystem))
        source = Location(bucket.source)
        files = source.list_files()
        assert len({file.path for file in files}) == len(files) == images
        [(data, checksum)] = source.read_listed(files[-1:])
    assert (len(data), checksum) == (files[-1].size_bytes, files[-1].checksum)
    assert files[-1].path.startswith("train/class_39/slide_")


def test_a_digest_depends_on_the_cells_and_not_on_the_chunks_of_a_table() -> None:
    rows = pa.table({"path": [f"{number}.tif" for number in range(25_000)]})
    in_pieces = pa.concat_tables([rows.slice(0, 7), rows.slice(7, 15_000), rows.slice(15_007)])
    assert content_digest(rows) == content_digest(in_pieces)
    assert content_digest(rows) != content_digest(rows.slice(1))
    assert content_digest(rows) != content_digest(rows, "other settings")


def test_a_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train" / "liver").mkdir(parents=True)
    (tmp_path / "train" / "a.tif").touch()
    scandir = os.scandir

    def refusing(folder: str) -> Any:
        if "liver" in folder:
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(scan.os, "scandir", refusing)
    with pytest.raises(StorageError, match=r"cannot list .*train/liver.*: Permission denied"):
        Location(str(tmp_path)).list_files()
