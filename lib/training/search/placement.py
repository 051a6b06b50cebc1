"""How the trials of a sweep share machines."""

import os
from dataclasses import dataclass
from typing import Self

import ray
from ray import tune

from lib.config.fitting import TrainConfig
from lib.runtime.environment import ray_is_ours
from lib.training.workers.ray_train import machines

MOST_OF_MEMORY = 0.51
"""What a trial reserves of a machine's memory to have the machine for itself."""


@dataclass(frozen=True)
class TrialResources:
    """What each trial has of a machine.

    Attributes:
        reserved: What Ray reserves for it.
        at_once: Trials at the same time; None for as many as can be reserved for.
        threads: Threads of TensorFlow in each; None for as many as it likes.
        neighbours: Trials on one machine; None for as many as it has GPUs.
    """

    reserved: tune.PlacementGroupFactory
    at_once: int | None = None
    threads: int | None = None
    neighbours: int | None = None

    @classmethod
    def of(cls, config: TrainConfig, trials: int) -> Self:
        """A GPU each; else a core each on this machine, or a machine each on a cluster.

        Cores are not reserved: the tasks that decode images for the trials would never get one.
        """
        if config.use_gpu:
            return cls(_reserve(config, "GPU", config.gpus_per_worker))
        if ray_is_ours():
            cores = os.cpu_count() or 1
            at_once = min(cores, trials)
            return cls(tune.PlacementGroupFactory([{"memory": 1}]), at_once, cores // at_once, at_once)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        memory = MOST_OF_MEMORY * min(node["memory"] for node in nodes)
        return cls(_reserve(config, "memory", memory), neighbours=1)


def _reserve(config: TrainConfig, kind: str, amount: float) -> tune.PlacementGroupFactory:
    """So much for each trial, on the machines that may train."""
    labels = machines(config)
    return tune.PlacementGroupFactory([{kind: amount}], **({"bundle_label_selector": [labels]} if labels else {}))
