"""Log lines as JSON: what a job writes to stderr, and what becomes of lines that are not ours."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.runtime import logs
from lib.runtime.environment import JOB_VARIABLE, LOG_FORMAT_VARIABLE, name_job
from lib.runtime.native_messages import as_json
from lib.runtime.progress import Progress
from tests.fakes.jobs import run_job

KEYS = {"time", "severity", "message", "job", "stage", "node", "pid"}
SAMPLE = ("--train-per-class", 2, "--test-per-class", 1)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Where a job writes JSON, in this process."""
    for name in (JOB_VARIABLE, LOG_FORMAT_VARIABLE):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(logs.process, "stage", None)  # a unit of work may have been done here before
    name_job("convert", "json")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    ours = logging.getLogger("lib")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield stream
    ours.removeHandler(handler)
    ours.setLevel(level)


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_numbers_of_a_progress_line_are_fields(stream: io.StringIO) -> None:
    with Progress("convert", 30) as progress:
        progress.advance(10)
    (record,) = records(stream.getvalue())
    assert set(record) == KEYS | {"logger", "images", "total", "rate", "seconds_left"}
    assert (record["images"], record["total"], record["stage"], record["job"]) == (10, 30, "convert", "convert")
    assert record["rate"] > 0
    assert record["seconds_left"] >= 0
    assert record["time"].endswith("+00:00")


def test_a_line_belongs_to_the_innermost_stage(stream: io.StringIO) -> None:
    logger = logging.getLogger("lib.storage")
    logger.warning("before")
    with Progress("train", 0), Progress("features", 0):
        logger.warning("within")
    logger.warning("after")
    stages = [r["stage"] for r in records(stream.getvalue()) if r["logger"] == "lib.storage"]
    assert stages == [None, "features", None]


def test_a_stage_that_fails_is_left(stream: io.StringIO) -> None:
    with pytest.raises(OSError, match="gone"), Progress("convert", 1):
        raise OSError("gone")
    logging.getLogger("lib.storage").info("later")
    assert records(stream.getvalue())[-1]["stage"] is None


def test_an_exception_is_one_line_with_its_traceback(stream: io.StringIO) -> None:
    logging.getLogger("lib.x").error("it failed", exc_info=ValueError("a\nb"))
    (record,) = records(stream.getvalue())
    assert record["severity"] == "ERROR"
    assert "ValueError: a\nb" in record["stack_trace"]


def test_a_bug_is_reported_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs.process, "stream", None)
    logs.report_failure("KeyError: 'x'", KeyError("x"))
    (record,) = records(capsys.readouterr().err)
    assert (record["message"], record["severity"]) == ("KeyError: 'x'", "ERROR")
    assert record["stack_trace"].startswith("KeyError")


@given(st.binary(max_size=80).filter(lambda line: b"\n" not in line))
def test_any_line_of_other_code_becomes_one_json_line_or_none(line: bytes) -> None:
    written = as_json(line + b"\n", {"job": "convert", "pid": 3})
    assert written.count(b"\n") == bool(written)
    if written:
        record = json.loads(written)
        assert (record["severity"], record["job"], record["pid"]) == ("DEFAULT", "convert", 3)


def test_a_line_of_a_worker_that_ray_passes_on_stays_as_the_worker_wrote_it() -> None:
    own = b'{"time": "2026-11-24T05:00:00.000+00:00", "severity": "INFO", "message": "m", "node": "n7"}'
    assert as_json(b"\x1b[36m(MapBatches(convert_unit) pid=7)\x1b[0m " + own + b"\n", {"node": "head"}) == own + b"\n"


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_every_line_of_a_job_is_json_and_its_summary_is_as_ever(tmp_path: Path, verbose: list[str]) -> None:
    done = run_job("sample", "--output", tmp_path / "s", *SAMPLE, "--log-format", "json", *verbose)
    lines = records(done.stderr)
    assert all(set(line) >= KEYS for line in lines)
    assert any(line.get("images") == line.get("total") == done.summary["images"] for line in lines)
    assert done.summary["job"] == "sample"
    assert done.summary["output"] == str(tmp_path / "s")


@pytest.mark.parametrize(("flags", "code"), [(("--seed", -1), 2), (("--nothing", 1), 2), (("--log_format=json",), 1)])
def test_a_failure_is_json_too_even_if_the_settings_are_wrong(
    tmp_path: Path, flags: tuple[object, ...], code: int
) -> None:
    (tmp_path / "file").touch()
    done = run_job("sample", "--output", tmp_path / "file" / "below", *SAMPLE, "--log-format", "json", *flags)
    assert done.exit_code == code
    assert done.stdout == ""
    failure = records(done.stderr)[-1]
    assert set(failure) >= KEYS
    assert failure["severity"] == "ERROR"


def test_text_is_plain_lines_with_the_time_of_day(tmp_path: Path) -> None:
    done = run_job("sample", "--output", tmp_path / "s", *SAMPLE)
    (line,) = done.stderr.splitlines()
    assert line[2] == line[5] == ":"
    assert line[9:].startswith(f"sample: {done.summary['images']} of {done.summary['images']} images, ")


def test_the_format_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    run_job("sample", "--output", tmp_path / "s", *SAMPLE)
    again = run_job("sample", "--output", tmp_path / "s", *SAMPLE, "--log-format", "json")
    assert again.summary["images"] > 0
