"""Google takes a machine: its node drains by Ray's own account, and is left by the work that can leave."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import drain_on_preemption
from cluster.drain_on_preemption import nodes_here
from tests.fakes.cluster import RayCluster, ray_cluster
from tests.fakes.jobs import WAIT_S, wait_for
from tests.fakes.metadata_server import MetadataServer, metadata_server

pytestmark = pytest.mark.slow

SCRIPT = Path(drain_on_preemption.__file__)


@dataclass
class Node:
    """A node of the cluster.

    Attributes:
        node_id: As Ray names it.
        raylet: Its process.
    """

    node_id: str
    raylet: int

    @property
    def record(self) -> dict[str, Any]:
        """What the GCS says of it."""
        import ray

        [record] = [node for node in ray.nodes() if node["NodeID"] == self.node_id]
        return dict(record)

    @property
    def deadline_ms(self) -> int | None:
        """Until when it drains by the GCS's account, or None if it does not."""
        from ray._private.state import state

        deadline: int | None = state.get_draining_nodes().get(self.node_id)
        return deadline


@pytest.fixture(scope="module")
def running() -> Iterator[RayCluster]:
    import ray

    with ray_cluster({}) as cluster:
        ray.init(cluster.environment["RAY_ADDRESS"], log_to_driver=False)
        yield cluster
        ray.shutdown()


@pytest.fixture
def add_node(running: RayCluster) -> Callable[[], Node]:
    def add() -> Node:
        raylet = running.add_node()
        command = psutil.Process(raylet).cmdline()
        [node_id] = [word.removeprefix("--node_id=") for word in command if word.startswith("--node_id=")]
        return Node(node_id, raylet)

    return add


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as fake:
        yield fake


@pytest.fixture
def start_watcher(running: RayCluster, server: MetadataServer) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the watcher of a node as its machine does, and ends it if it still runs when its test is over."""
    started: list[subprocess.Popen[str]] = []

    def start(node: Node, *flags: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(SCRIPT), "--node-id", node.node_id, *flags]
        environment = running.environment | {"GCE_METADATA_HOST": server.host}
        process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_node_whose_machine_is_taken_drains_and_leaves_when_its_work_has_left(
    add_node: Callable[[], Node], server: MetadataServer, start_watcher: Callable[..., "subprocess.Popen[str]"]
) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    taken, other = add_node(), add_node()
    assert {taken.node_id, other.node_id} <= set(nodes_here())

    @ray.remote(num_cpus=0)
    class Work:
        def place(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    work = Work.options(scheduling_strategy=NodeAffinitySchedulingStrategy(taken.node_id, soft=False)).remote()
    assert ray.get(work.place.remote()) == taken.node_id
    server.failures = [503, 503]
    watcher = start_watcher(taken)
    wait_for(lambda: len(server.asked) > 4, "the metadata server is watched")
    assert taken.deadline_ms is None

    server.set("preempted", "TRUE")

    _, log = watcher.communicate(timeout=WAIT_S)
    assert watcher.returncode == 0, log
    assert log.count("does not answer (HTTP 503); trying again") == 2
    assert "Google reclaims this spot machine" in log
    assert taken.deadline_ms is not None
    assert 0 < taken.deadline_ms / 1000 - time.time() <= 25
    assert other.deadline_ms is None
    assert ray.get(work.place.remote()) == taken.node_id  # what runs there still has its time

    new = [Work.options(num_cpus=0.5).remote() for _ in range(2)]
    assert {ray.get(it.place.remote()) for it in new} == {other.node_id}

    ray.kill(work)
    wait_for(lambda: not taken.record["Alive"], "the node has left")
    assert "Google reclaims this spot machine" in taken.record["DeathReasonMessage"]
    assert other.record["Alive"]


def test_a_gpu_machine_with_maintenance_ahead_has_an_hour(
    add_node: Callable[[], Node], server: MetadataServer, start_watcher: Callable[..., "subprocess.Popen[str]"]
) -> None:
    taken = add_node()
    server.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
    watcher = start_watcher(taken)
    _, log = watcher.communicate(timeout=WAIT_S)
    assert watcher.returncode == 0, log
    assert re.search(r"Google ends this machine for maintenance of its host, 35\d\d s are left", log)
    wait_for(lambda: not taken.record["Alive"], "the node has left")


def test_a_pod_that_ends_drains_its_node_and_waits_for_it(
    add_node: Callable[[], Node], server: MetadataServer, start_watcher: Callable[..., "subprocess.Popen[str]"]
) -> None:
    taken = add_node()
    watcher = start_watcher(taken, "--now", "--deadline-seconds", str(round(2 * WAIT_S)))
    _, log = watcher.communicate(timeout=WAIT_S)  # sooner than the deadline, since nothing runs there
    assert watcher.returncode == 0, log
    assert not server.asked
    assert taken.node_id not in nodes_here()
    wait_for(lambda: not taken.record["Alive"], "the node has left")
