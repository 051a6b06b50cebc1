"""Tasks that were ended for memory: fewer run at once, what is done is not done again, and there is an end."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from lib.config.conversion import ConvertConfig
from lib.errors import MemoryKillsError
from lib.folders.dataset import DatasetRecord
from lib.ingest import convert
from lib.runtime.environment import MOST_MEMORY_RETRIES, prepare_environment
from lib.runtime.memory_kills import GIB, fewer_at_once
from lib.runtime.ray_data import stream_tables
from tests.fakes.tiffs import write_source

KILLED = "Task convert_unit was killed due to the node running low on memory."


def machines(monkeypatch: pytest.MonkeyPatch, *resources: tuple[float, float]) -> None:
    """A Ray whose machines have so many CPUs and so much memory in GiB; one that is gone had more."""
    nodes = [{"Alive": True, "Resources": {"CPU": cpus, "memory": gib * GIB}} for cpus, gib in resources]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 999, "memory": GIB}}])


def test_half_as_many_tasks_fit_on_the_machine_that_had_most_until_one_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    machines(monkeypatch, (8, 32), (2, 4))
    reserved: Mapping[str, float] | None = {"num_cpus": 1}
    shares = []
    while (reserved := fewer_at_once(reserved)) is not None:
        assert reserved["num_cpus"] == 1
        shares.append(reserved["memory"] / GIB)
    assert shares == [8, 16, 32], "4, 2 and 1 tasks at once of the machine of 32 GiB"


def test_what_was_reserved_before_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machines(monkeypatch, (8, 32))
    assert fewer_at_once({"num_cpus": 1, "memory": 10 * GIB}) == {"num_cpus": 1, "memory": 32 * GIB}
    assert fewer_at_once({"num_cpus": 1, "memory": 17 * GIB}) is None
    assert fewer_at_once({"num_cpus": 5}) is None


@given(cpus=st.integers(1, 256), gib=st.floats(0.5, 4000), share=st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_there_is_an_end_after_few_steps(cpus: int, gib: float, share: float) -> None:
    reserved: Mapping[str, float] | None = {"num_cpus": share}
    with pytest.MonkeyPatch.context() as patch:
        machines(patch, (cpus, gib))
        steps = 0
        while (reserved := fewer_at_once(reserved)) is not None:
            assert reserved["memory"] <= gib * GIB, "the machine has room for one"
            steps += 1
    assert steps <= 10, "1024 tasks at once"


class Killed:
    """A dataset of which one result comes before an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        yield pa.table({"a": [1]})
        raise self.error


@pytest.mark.parametrize("error", [OutOfMemoryError("killed"), WorkerCrashedError(), RuntimeError(KILLED)])
def test_a_kill_for_memory_is_one_line_with_a_remedy_and_another_error_stays_what_it_is(error: Exception) -> None:
    results = stream_tables(cast("ray.data.Dataset", Killed(error)))
    assert next(results).num_rows == 1
    if isinstance(error, WorkerCrashedError):
        with pytest.raises(WorkerCrashedError):
            next(results)
    else:
        with pytest.raises(MemoryKillsError, match="--convert-memory-gib"):
            next(results)


def test_ray_tries_again_for_memory_a_few_times_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_task_oom_retries"
    monkeypatch.delenv(name, raising=False)
    prepare_environment()
    assert os.environ[name] == str(MOST_MEMORY_RETRIES)
    monkeypatch.setenv(name, "7")
    prepare_environment()
    assert os.environ[name] == "7"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConvertConfig:
    """A conversion of some units on one machine of 4 CPUs and 8 GiB."""
    write_source(tmp_path / "source", train=5, test=2)
    machines(monkeypatch, (4, 8))
    monkeypatch.setattr(convert, "start_ray", lambda _: None)
    monkeypatch.setattr(convert, "units_dataset", lambda units: units)
    monkeypatch.setattr(convert, "map_units", lambda units, _, fn_kwargs, **reserved: (units, fn_kwargs, reserved))
    return ConvertConfig(
        source=str(tmp_path / "source"), output=str(tmp_path / "dataset"), images_per_shard=2, image_size=32
    )


def test_the_run_goes_on_with_fewer_at_once_and_repeats_no_unit(
    config: ConvertConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tried: list[tuple[list[str], float | None]] = []

    def killed_twice(graph: tuple[list[pa.Table], dict[str, Any], Mapping[str, float]]) -> Iterator[pa.Table]:
        units, arguments, reserved = graph
        tried.append(([unit["shard"][0].as_py() for unit in units], reserved.get("memory")))
        for number, unit in enumerate(units):
            if number == 1 and len(tried) < 3:
                raise MemoryKillsError("killed")
            yield convert.convert_unit(unit, **arguments)

    monkeypatch.setattr(convert, "stream_tables", killed_twice)
    record = convert.convert_images(config)
    assert record == DatasetRecord.read(convert.Location(config.output))
    assert record.counts.accepted == 14
    shards = tried[0][0]
    assert tried == [(shards, None), (shards[1:], 4 * GIB), (shards[2:], 8 * GIB)]
    told = [line for line in caplog.messages if "ran out of memory" in line]
    assert [line.partition("--convert-memory-gib ")[2][:3] for line in told] == ["4.0", "8.0"]


def test_a_task_that_has_its_machine_to_itself_and_is_killed_ends_the_run(
    config: ConvertConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def always_killed(_: object) -> Iterator[pa.Table]:
        tries.append(1)
        raise MemoryKillsError("killed")

    monkeypatch.setattr(convert, "stream_tables", always_killed)
    with pytest.raises(MemoryKillsError, match="one task at once on a machine"):
        convert.convert_images(config)
    assert len(tries) == 3, "4, 2 and 1 at once"
