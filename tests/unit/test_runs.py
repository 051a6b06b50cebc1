"""What every job shares: exit codes, the summary on stdout, one line on stderr, and silence for native chatter."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from lib.config.conversion import SampleConfig
from lib.errors import DataError, SettingsError, StorageError, TooManyBadImagesError, expected_cause
from lib.runs import job as runs
from lib.runs.job import run_job
from tests.fakes.jobs import WAIT_S

ROOT = Path(__file__).parents[2]
Run = Callable[..., int]


@pytest.fixture
def filtered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of the filter, which would take over descriptor 2 of the test run."""
    calls: list[str] = []
    monkeypatch.setattr(runs, "filter_native_messages", lambda: calls.append("filtered"))
    return calls


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, filtered: list[str]) -> Iterator[Run]:
    """Runs a main function as the job `sample`, with the log levels put back afterwards."""
    names = ("", "lib", "ray", "ray.data", "ray.train", "absl")
    levels = {name: logging.getLogger(name).level for name in names}

    def run(main: Callable[[SampleConfig], dict[str, Any]], *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["/work/jobs/sample.py", *arguments])
        return run_job(main, SampleConfig)

    yield run
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def failing(error: BaseException) -> Callable[[SampleConfig], dict[str, Any]]:
    def main(_: SampleConfig) -> dict[str, Any]:
        raise error

    return main


def test_a_job_that_is_done_ends_with_its_summary_on_stdout(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: SampleConfig) -> dict[str, Any]:
        sys.stdout.write("something on the way\n")
        return {"images": config.train_per_class, "output": "/Gewebe ü"}

    assert run(main, "--output", "/o", "--train-per-class", "7") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == {"job": "sample", "images": 7, "output": "/Gewebe ü"}
    assert captured.err == ""


def test_wrong_settings_never_reach_the_job(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(AssertionError("started")), "--output", "/o", "--seed", "-1") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: --seed -1: input should be greater than or equal to 0\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("one class"), 1),
        (StorageError("gs://b/x: gone"), 1),
        (SettingsError("--source x is missing"), 2),
        (TooManyBadImagesError("3 of 4 images are bad"), 3),
    ],
)
def test_an_expected_failure_is_one_line_and_its_exit_code(
    run: Run, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert run(failing(error), "--output", "/o") == code
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_a_bug_is_one_line_and_then_its_traceback(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(KeyError("a\nb")), "--output", "/o") == 1
    captured = capsys.readouterr()
    first, *rest = captured.err.splitlines()
    assert captured.out == ""
    assert first == "error: KeyError: 'a\\nb'"
    assert rest[0].startswith("Traceback (most recent call last)")
    assert any("in main" in line for line in rest)


def test_an_interruption_says_that_the_run_can_go_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(KeyboardInterrupt()), "--output", "/o") == 1
    captured = capsys.readouterr()
    assert "interrupted" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_help_is_no_failure(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(failing(AssertionError("started")), "--help")
    assert not stop.value.code
    assert "python -m jobs.sample" in capsys.readouterr().out


def test_native_messages_pass_only_if_asked_for(run: Run, filtered: list[str]) -> None:
    assert run(lambda _: {}, "--output", "/o", "--verbose") == 0
    assert filtered == []
    assert run(lambda _: {}, "--output", "/o") == 0
    assert filtered == ["filtered"]


class WrapperError(Exception):
    """An error of another process, as Ray wraps it: the cause is a field."""

    def __init__(self, cause: BaseException | None) -> None:
        super().__init__("wrapped", cause)
        self.cause = cause


def raised_from(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


CAUSE = StorageError("gs://b/x: gone")


@pytest.mark.parametrize(
    "error",
    [
        CAUSE,
        WrapperError(CAUSE),
        WrapperError(WrapperError(WrapperError(CAUSE))),
        raised_from(RuntimeError("worker died"), CAUSE),
        raised_from(RuntimeError("controller"), WrapperError(raised_from(ValueError("udf"), CAUSE))),
        WrapperError(raised_from(ValueError("udf"), WrapperError(CAUSE))),
    ],
)
def test_the_cause_is_found_below_whatever_wraps_it(error: Exception) -> None:
    assert expected_cause(error) is CAUSE


def test_of_several_messages_of_ours_the_outermost_is_told_since_it_names_the_file() -> None:
    named = raised_from(StorageError("cannot read gs://b/x: HTTP 503"), StorageError("HTTP 503"))
    assert expected_cause(named) is named
    assert expected_cause(WrapperError(raised_from(RuntimeError("udf"), named))) is named


def test_a_wrapped_failure_is_reported_as_if_it_were_not(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(WrapperError(TooManyBadImagesError("3 of 4"))), "--output", "/o") == 3
    assert capsys.readouterr().err == "error: 3 of 4\n"


@pytest.mark.parametrize("error", [None, ValueError("x"), WrapperError(None), WrapperError(ValueError("x"))])
def test_other_errors_have_no_expected_cause(error: Exception | None) -> None:
    assert expected_cause(error) is None


def test_a_circle_of_causes_ends() -> None:
    first, second = WrapperError(None), WrapperError(None)
    first.cause, second.cause = second, first
    assert expected_cause(first) is None


def test_rays_own_wrapping_of_an_error_of_ours_is_one_line() -> None:
    wrapped = RayTaskError("decode", "Traceback:\n  many\n  lines", CAUSE).as_instanceof_cause()
    assert isinstance(wrapped, StorageError)
    assert str(expected_cause(wrapped)) == str(CAUSE)


def test_a_bug_while_an_expected_failure_is_handled_is_a_bug() -> None:
    def handle() -> None:
        try:
            raise CAUSE
        except StorageError:
            {}["a bug of ours"]

    with pytest.raises(KeyError) as caught:
        handle()
    assert expected_cause(caught.value) is None


NATIVE = """
import os, sys, threading
from lib.runtime.native_messages import filter_native_messages
filter_native_messages()
print("from python: I0000 00:00:17", file=sys.stderr)
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
os.write(2, b"I0000 00:00:1763930000.123456    4242 gpu_device.cc:2020] Could not find cuda\\n")
os.write(2, b"E0000 00:00:1763930000.123456    4242 cuda_dnn.cc:8579] Unable to register\\n")
os.write(2, b"[2026-11-23 22:00 E 1 2] core_worker.cc:99: Actor 3 has constructor arguments in the object store\\n")
os.write(2, b"F0000 00:00:1763930000.1 4242 check.cc:1] Check failed\\n")
os.write(2, b"libtiff: a line of native code about E0000 00:00:17\\n")
print("result")
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the last writer goes, so the filter reads to the end
for thread in threading.enumerate():
    if thread.name == "native-messages":
        thread.join(10)
"""


def test_native_chatter_is_dropped_and_every_other_line_passes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NATIVE], cwd=ROOT, capture_output=True, text=True, check=True, timeout=WAIT_S
    )
    assert done.stdout == "result\n"
    assert sorted(done.stderr.splitlines()) == [
        "F0000 00:00:1763930000.1 4242 check.cc:1] Check failed",
        "from python: I0000 00:00:17",
        "libtiff: a line of native code about E0000 00:00:17",
    ]


DYING = """
import os
from lib.runtime.native_messages import filter_native_messages
filter_native_messages()
os.write(2, b"F0000 00:00:1763930000.1 4242 check.cc:1] Check failed\\n")
os._exit(134)
"""


def test_the_last_words_of_native_code_are_not_lost() -> None:
    died = subprocess.run(
        [sys.executable, "-c", DYING], cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT_S
    )
    assert died.returncode == 134
    assert "Check failed" in died.stderr
