"""A Ray cluster of several nodes on this machine, each of them with a raylet and workers of its own."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.fakes.jobs import kill_family

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
}
"""So that a dead node is given up after one second instead of fifteen."""
OBJECT_STORE_BYTES = 80 * 2**20


class RayCluster:
    """A running cluster: a head that runs no tasks, and nodes with one CPU each.

    Attributes:
        environment: What a job needs to join it as a driver.
        raylets: The process ids of the nodes' raylets.
    """

    def __init__(self, cluster: "Cluster", environment: Mapping[str, str]) -> None:
        self._cluster, self._environment = cluster, dict(environment)
        self.environment = self._environment | {"RAY_ADDRESS": cluster.address}
        self.raylets: list[int] = []

    def add_node(self) -> int:
        """Start a node with one CPU, and return the process id of its raylet."""
        node = self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES, env_vars=self._environment)
        [raylet] = node.all_processes["raylet"]
        self.raylets.append(raylet.process.pid)
        return self.raylets[-1]

    def kill_node(self, raylet: int) -> None:
        """`kill -9` a node's raylet with its workers: as when a machine loses its power."""
        self.raylets.remove(raylet)
        kill_family(raylet)


@contextmanager
def ray_cluster(environment: Mapping[str, str], nodes: int = 0) -> Iterator[RayCluster]:
    """Start a cluster, and end it.

    Args:
        environment: What the workers need to find their storage.
        nodes: With how many nodes beside the head it starts.
    """
    from ray.cluster_utils import Cluster

    assert "RAY_AUTH_TOKEN" in os.environ, "prepare_environment comes first"
    head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"_system_config": QUICK_TO_NOTICE})
    try:
        running = RayCluster(cluster, environment)
        for _ in range(nodes):
            running.add_node()
        yield running
    finally:
        cluster.shutdown()
