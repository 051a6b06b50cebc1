"""Jobs as people run them, a command in a process of its own; and what a job does, in this process."""

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import psutil

from lib.runs.command_line import parse_settings

ROOT = Path(__file__).parents[2]
FOREIGN_VARIABLES = ("RAY_ADDRESS", "STORAGE_EMULATOR_HOST", "DRIVE_API_ENDPOINT", "GOOGLE_APPLICATION_CREDENTIALS")
JOB_TIMEOUT_S, WAIT_S = 500.0, 300.0
"""After which a test fails that waits for a job, or for something else: ten times what it takes on a machine that is
not busy, and less than what pytest gives a test."""
FoundT = TypeVar("FoundT")
RunningJob: TypeAlias = "subprocess.Popen[str] | Future[dict[str, Any]]"
TASK_TITLE = "ray::MapBatches("
"""How Ray names a process that runs a task of a graph over units."""


@dataclass(frozen=True)
class JobResult:
    """How a job ended."""

    exit_code: int
    stdout: str
    stderr: str

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The last line on stdout."""
        assert self.exit_code == 0, f"exit code {self.exit_code}:\n{self.stderr}"
        return dict(json.loads(self.stdout.splitlines()[-1]))


def job_here(name: str, *flags: object) -> dict[str, Any]:
    """Do what `python -m jobs.NAME` does with these flags, in this process and with its Ray (see `local_ray`).

    For tests of what a job writes and returns. It saves a Ray and an import of TensorFlow, two thirds of a small job.

    Returns:
        The summary.

    Raises:
        TissueError: For which the command would end with an exit code and one line.
    """
    job = import_module(f"jobs.{name}").main
    (config_type,) = (parameter.annotation for parameter in signature(job).parameters.values())
    summary = job(parse_settings(config_type, list(map(str, flags)), f"python -m jobs.{name}"))
    return dict(json.loads(json.dumps(summary)))


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """What `lib` logs meanwhile; a training in this process takes the handlers of the root away, and so `caplog`'s."""
    log, ours = io.StringIO(), logging.getLogger("lib")
    handler, level = logging.StreamHandler(log), ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield log
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)


@contextmanager
def job_beside(name: str, *flags: object) -> Iterator["Future[dict[str, Any]]"]:
    """`job_here` in a thread, for tests that do something to its workers meanwhile; at the end it has to be done."""
    job: Future[dict[str, Any]] = Future()

    def run() -> None:
        try:
            job.set_result(job_here(name, *flags))
        except BaseException as error:  # noqa: BLE001 - whoever waits for the job raises it
            job.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # which does not outlive a test that has failed for long
    yield job
    job.result(JOB_TIMEOUT_S)


def _command(name: str, flags: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", f"jobs.{name}", *map(str, flags)]


def _environment(changes: Mapping[str, str] | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return environment | dict(changes or {})


def finish_job(process: "subprocess.Popen[str]", timeout: float = JOB_TIMEOUT_S) -> JobResult:
    """Wait for the end of a job that was started with `start_job`."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            kill_job(process)
    return JobResult(process.returncode, stdout, stderr)


def run_job(
    name: str, *flags: object, env: Mapping[str, str] | None = None, timeout: float = JOB_TIMEOUT_S
) -> JobResult:
    """Run `python -m jobs.NAME` to its end.

    Args:
        name: Of the job.
        flags: The command line.
        env: Changes to the environment.
        timeout: Seconds after which the test fails.
    """
    return finish_job(start_job(name, *flags, env=env), timeout)


def start_job(name: str, *flags: object, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start `python -m jobs.NAME` in a session of its own."""
    return subprocess.Popen(
        _command(name, flags),
        cwd=ROOT,
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_job(process: "subprocess.Popen[str]") -> None:
    """`kill -9` a job that we started, with the Ray that it started: as when a machine loses its power."""
    if process.poll() is None:
        kill_family(process.pid)
    process.communicate()


def kill_family(pid: int) -> None:
    """`kill -9` a process that we started, and all that it started."""
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[1:], timeout=10)


def task_workers(pid: int) -> list[psutil.Process]:
    """The processes below one of ours in which Ray runs a task on units at this moment."""
    return [child for child in psutil.Process(pid).children(recursive=True) if _title(child).startswith(TASK_TITLE)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for_file(job: RunningJob, folder: Path, pattern: str, timeout: float = WAIT_S) -> None:
    """Wait until a running job has written a file that matches."""
    wait_until(job, lambda: any(folder.glob(pattern)), f"{pattern} is written", timeout)


def wait_until(job: RunningJob, condition: Callable[[], FoundT], what: str, timeout: float = WAIT_S) -> FoundT:
    """Wait until something is the case while a job runs; returns what the condition then found."""

    def met() -> FoundT:
        if isinstance(job, Future):
            assert not job.done(), f"the job ended before {what}: {job.exception() or job.result()}"
        else:
            assert job.poll() is None, f"the job ended before {what}: {job.communicate()[1]}"
        return condition()

    return wait_for(met, what, timeout)


def wait_for(condition: Callable[[], FoundT], what: str, timeout: float = WAIT_S) -> FoundT:
    """Wait until something is the case; returns what the condition then found."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {timeout} s it is still not so that {what}"
        time.sleep(0.01)
    return found
