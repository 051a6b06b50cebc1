"""A Ray of ours on one machine, without the processes that nothing of ours asks.

Each of them is a Python that imports Ray: seconds, on a laptop, before the first image. A cluster has its own, and its
dashboard and its autoscaler do ask them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from ray.data import ExecutionResources

NEEDLESS_STARTS, LOG_READER_START = ("start_api_server", "start_monitor"), "start_log_monitor"
"""Methods of Ray's node that start processes."""
NEEDLESS_TELLING = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
"""Methods by which Ray Data's statistics reach an actor that the dashboard asks."""


@contextmanager
def needed_processes_alone(verbose: bool) -> Iterator[None]:
    """Have `ray.init` start fewer.

    `include_dashboard=False` starts the dashboard's server all the same, to count usage, and waits for it; the
    autoscaler has no machines to start; and the reader of logs has no reader unless all is to be told. A start took
    8.2 s with them on two cores and takes 5.3 s without.
    """
    from ray._private.node import Node

    needless = NEEDLESS_STARTS if verbose else (*NEEDLESS_STARTS, LOG_READER_START)
    before = {name: getattr(Node, name) for name in needless}
    for name in needless:
        setattr(Node, name, lambda node, **options: None)
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(Node, name, start)


def have_no_coordinators() -> None:
    """Have graphs of this process do without two actors: of statistics, and of what each graph may have of a cluster.

    They took 7 of the 89 s of a CPU that all processes of an evaluation of 120 images took. It holds for this process
    until its end.
    """
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.stats import _StatsManager

    for name in NEEDLESS_TELLING:
        setattr(_StatsManager, name, staticmethod(lambda *told, **more: None))
    _StatsManager.gen_dataset_id_from_stats_actor = staticmethod(lambda: uuid4().hex)
    streaming_executor.create_cluster_autoscaler = lambda *told, **more: _WholeMachine()


class _WholeMachine:
    """What Ray Data asks instead of an autoscaler: all that there is, for each graph, as we run one after the other."""

    def try_trigger_scaling(self) -> None:
        """There is nothing to start."""

    def on_executor_shutdown(self) -> None:
        """There is nothing to give back."""

    def get_total_resources(self) -> "ExecutionResources":
        import ray
        from ray.data import ExecutionResources

        return ExecutionResources.from_resource_dict(ray.cluster_resources())
