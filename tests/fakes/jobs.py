"""Jobs as people run them: a command in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
FOREIGN_VARIABLES = ("RAY_ADDRESS", "STORAGE_EMULATOR_HOST", "DRIVE_API_ENDPOINT", "GOOGLE_APPLICATION_CREDENTIALS")
JOB_TIMEOUT_S = 240.0


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


def _command(name: str, flags: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", f"jobs.{name}", *map(str, flags)]


def _environment(changes: Mapping[str, str] | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return environment | dict(changes or {})


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
    process = start_job(name, *flags, env=env)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            kill_job(process)
    return JobResult(process.returncode, stdout, stderr)


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
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)
    process.communicate()


def wait_for_file(process: "subprocess.Popen[str]", folder: Path, pattern: str, timeout: float = 120) -> None:
    """Wait until a running job has written a file that matches."""
    deadline = time.monotonic() + timeout
    while not any(folder.glob(pattern)):
        assert process.poll() is None, f"the job ended before it wrote {pattern}: {process.communicate()[1]}"
        assert time.monotonic() < deadline, f"no {pattern} after {timeout} s"
        time.sleep(0.01)
