"""Processes on this machine that do some of a job's work beside it."""

from functools import lru_cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MOST_KEPT = 16


def process_beside(work: type, number: int = 0) -> Any:
    """One of the processes that do a kind of work, on the machine of this one; started where there is none yet.

    It stays until Ray ends or this process does, so that a later stage finds all imported and compiled. It reserves no
    CPU, as it is idle most of the time. Ray is up.

    Args:
        work: A class without arguments; its methods are called by `process.method.remote(...)`.
        number: Which of them, where there are several.
    """
    return _process(work, number, ray.get_runtime_context().get_node_id())


@lru_cache(maxsize=MOST_KEPT)
def _process(work: type, number: int, node_id: str) -> Any:
    """By the node, since Ray may have been started anew."""
    del number
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3, scheduling_strategy=here)(work).remote()
