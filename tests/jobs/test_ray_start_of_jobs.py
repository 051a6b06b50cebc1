"""A job where Ray cannot start as usual."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.fakes.jobs import run_job
from tests.fakes.tiffs import write_source


@contextmanager
def nobody_listens() -> Iterator[int]:
    """A port of this machine that is taken, and not listened at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_an_address_with_nothing_there_is_one_line(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    with nobody_listens() as port:
        flags = ("--source", source, "--output", tmp_path / "out", "--image-size", 32)
        result = run_job("convert", *flags, env={"RAY_ADDRESS": f"127.0.0.1:{port}"})
    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if "RAY_ADDRESS" in line]
    assert f"no Ray answers at RAY_ADDRESS=127.0.0.1:{port} (Connection refused); start that cluster" in line
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_long_tmpdir_is_no_obstacle(tmp_path: Path) -> None:
    source, long = write_source(tmp_path / "source"), tmp_path / ("x" * 90)
    long.mkdir()
    flags = ("--source", source, "--output", tmp_path / "out", "--image-size", 32)
    result = run_job("convert", *flags, env={"TMPDIR": str(long), "RAY_TMPDIR": str(long)})
    assert result.summary["accepted"] == 16


@pytest.mark.usefixtures("local_ray")
def test_a_ray_of_ours_has_no_process_that_nobody_asks() -> None:
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert any("raylet" in command for command in commands)
    for needless in ("dashboard/dashboard.py", "_private/monitor.py", "_private/log_monitor.py"):
        assert not any(needless in command for command in commands)
