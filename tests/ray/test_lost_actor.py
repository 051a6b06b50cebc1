"""A pool that fails: by an actor that is lost over the same unit whenever it comes to it, or by what it does."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from lib.config.resources import AcceleratorConfig
from lib.dataset.graph import done, run_pool
from lib.errors import TissueError
from lib.runtime import ray_data

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def lost() -> type:
    """An actor's class, which goes to its process with its code, since that cannot import this file."""

    class Lost:
        """Ends its process where a unit says so, as the machine's memory monitor does."""

        def __init__(self, log: Path) -> None:
            self.log = log

        def __call__(self, unit: pa.Table) -> pa.Table:
            with self.log.open("a") as lines:
                lines.write(f"{unit['number'][0].as_py()}\n")
            if unit["deadly"][0].as_py():
                os.kill(os.getpid(), signal.SIGKILL)
            return done(1)

    return Lost


def units(*deadly: bool) -> list[pa.Table]:
    return [pa.table({"number": [number], "deadly": [ends]}) for number, ends in enumerate(deadly)]


def test_a_unit_that_ends_every_actor_is_tried_a_few_times_and_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "MAX_LOSSES", 1)
    arguments = {"log": tmp_path / "log"}
    pool = run_pool(units(False, True), lambda unit: unit, lost(), arguments, 2, AcceleratorConfig())
    with pytest.raises(TissueError, match="lost again and again over the same images"):
        list(pool)
    assert 1 <= (tmp_path / "log").read_text().split().count("1") <= 2


def test_the_graph_of_a_network_that_fails_in_this_process_has_ended_while_its_error_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = []

    def stream(_: object) -> Iterator[pa.Table]:
        try:
            yield from units(False, False)
        finally:
            ended.append(True)

    class Failing:
        def __call__(self, unit: pa.Table) -> pa.Table:
            raise TissueError(f"unit {unit['number'][0]}")

    monkeypatch.setattr("lib.dataset.graph.stream_tables", stream)
    pool = run_pool(units(False, False), lambda unit: unit, Failing, {}, 1, AcceleratorConfig())
    with pytest.raises(TissueError, match="unit 0") as failure:
        list(pool)
    assert (ended, failure.value.exit_code) == ([True], 1)
