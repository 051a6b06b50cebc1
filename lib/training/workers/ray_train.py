"""How many workers train, what each of them holds, and how Ray Train is to treat their loss."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from ray._private.state import state as cluster_state
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from lib.config.fitting import FitConfig, TrainConfig
from lib.config.resources import AcceleratorConfig
from lib.folders.model import CHECKPOINTS
from lib.runtime.environment import ray_is_ours
from lib.runtime.gpus import processes_on
from lib.runtime.ray_data import accelerator_label
from lib.storage.location import Location
from lib.training.workers.failures import RestartAfterLoss
from lib.training.workers.messages import Reporter
from lib.training.workers.preemption import SaveBeforeResize

RAY_NODE_ID_KEY = "ray.io/node-id"
QUICKER = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}
"""Of the 30 seconds between a cloud's notice and the end of a machine, Ray's default of 5 would be a waste."""


def is_elastic(config: FitConfig) -> bool:
    """Whether the number of workers follows what there is: machines of a cluster, or GPUs."""
    return config.num_workers.fewest < config.num_workers.most and (config.use_gpu or not ray_is_ours())


def first_workers(config: FitConfig) -> int:
    """Workers that training starts with, at most. A single machine takes as many of a range as it has cores."""
    if is_elastic(config) or config.num_workers.fewest == config.num_workers.most:
        return config.num_workers.most
    return max(config.num_workers.fewest, min(config.num_workers.most, os.cpu_count() or 1))


def in_this_process(config: FitConfig) -> bool:
    """Whether training needs no process of its own: a single worker, unless this process runs on a cluster's head."""
    return ray_is_ours() and first_workers(config) == 1


def scaling(config: FitConfig) -> ScalingConfig:
    """How many workers there are, and what each of them holds."""
    if in_this_process(config):
        return ScalingConfig(num_workers=0, use_gpu=config.use_gpu)
    return ScalingConfig(
        num_workers=tuple(config.num_workers) if is_elastic(config) else first_workers(config),
        use_gpu=config.use_gpu,
        # Workers that hold a part of a CPU for as long as they live take away a whole one from the tasks that decode
        # their images: on a machine with one CPU both would wait for ever. So they hold next to nothing else.
        resources_per_worker={"GPU": config.gpus_per_worker} if config.use_gpu else {"memory": 1},
        placement_strategy="PACK" if config.use_gpu else "SPREAD",
        label_selector=machines(config),
    )


def machines(config: AcceleratorConfig) -> dict[str, str] | None:
    """Which nodes may hold what trains: those with a GPU of the wanted kind, or those that have CPUs."""
    if config.use_gpu:
        return accelerator_label(config).get("label_selector")
    return None if ray_is_ours() else machines_with_cpus()


def machines_with_cpus() -> dict[str, str] | None:
    """Keeps workers off a head that is to run no work, which nothing but its want of CPUs says."""
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and not node["Resources"].get("CPU")]
    return {RAY_NODE_ID_KEY: f"!in({','.join(heads)})"} if heads else None


def run_config(config: TrainConfig) -> RunConfig:
    """Where Ray Train keeps what it writes itself, and how often it may start again."""
    return RunConfig(
        name="ray",
        failure_config=FailureConfig(max_failures=config.max_failures),
        **ray_storage(Location(config.output) / CHECKPOINTS),
    )


def ray_storage(folder: Location) -> dict[str, Any]:
    """The settings that have Ray write into a folder."""
    storage: dict[str, Any] = {"storage_path": folder.path}
    if not folder.is_local:
        storage["storage_filesystem"] = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(folder.filesystem))
    return storage


class ResilientTrainer(DataParallelTrainer):
    """Starts its workers again after losses alone, and says so."""

    def __init__(self, *arguments: Any, reporter: Reporter, **settings: Any) -> None:
        """Take what `DataParallelTrainer` takes, and whom to tell."""
        super().__init__(*arguments, **settings)
        self._reporter = reporter

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        for name, value in QUICKER.items():
            os.environ.setdefault(name, value)  # Ray Train hands these on to its actors
        settings["failure_policy"] = RestartAfterLoss(self.run_config.failure_config, self._reporter)
        if self.scaling_config.elasticity_enabled:
            settings["scaling_policy"] = StayingWorkers(self.scaling_config)
            settings["callbacks"].append(SaveBeforeResize(self._reporter))
        with _interrupts_given_back():
            return super()._initialize_and_run_controller(**settings)


@contextmanager
def _interrupts_given_back() -> Iterator[None]:
    """Ray Train takes Ctrl+C for itself and keeps it, although its controller is gone after training."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # no other thread may set it, Ray's included
            signal.signal(signal.SIGINT, before)


GROWTH, QUIET_S = 1.25, 300.0
"""A group grows at once by a quarter; by less, when no other machine has come for so long. Machines of a cloud come one
after the other, and each time all workers would start again: a checkpoint, processes, imports, and their images."""


class StayingWorkers(ElasticScalingPolicy):
    """Counts one worker a GPU, or, without GPUs, one a machine, since TensorFlow uses all cores of a machine.

    Machines that are about to be taken away do not count: Ray would start no worker there.
    """

    def __init__(self, scaling_config: ScalingConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Decide.

        Args:
            clock: Tells seconds.
        """
        super().__init__(scaling_config)
        self._clock = clock
        self._room, self._room_since = 0, clock()

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """As Ray's, but growth may have to wait for more room or some quiet."""
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if not isinstance(decision, ResizeDecision):
            return decision
        workers, quiet_s = worker_group_state.num_workers, self._clock() - self._room_since
        waits = workers < decision.num_workers < GROWTH * workers and quiet_s < QUIET_S
        return NoopDecision() if waits else decision

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        room = self._room_now(reserved_resources)
        if room != self._room:
            self._room, self._room_since = room, self._clock()
        return room

    def _room_now(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        leaving = cluster_state.get_draining_nodes()
        if self.scaling_config.use_gpu:
            fitting = _nodes_with(self.scaling_config.label_selector) - set(leaving)
            share = self.scaling_config.resources_per_worker["GPU"]
            gpus = [held.get("GPU", 0) for node, held in reserved_resources.items() if node in fitting]
            room = sum(processes_on(count, share) for count in gpus)
        else:
            machines = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            room = len(set(machines) - set(leaving))
        return min(room, int(self.scaling_config.max_workers))


def _nodes_with(label_selector: Any) -> set[str]:
    """The nodes that are up and have the labels."""
    wanted = (label_selector or {}).items()
    return {node["NodeID"] for node in ray.nodes() if node["Alive"] and wanted <= node["Labels"].items()}


def _free_address() -> str:
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _set_tf_config(value: str) -> None:
    os.environ["TF_CONFIG"] = value


class _TensorflowAddresses(Backend):
    def on_start(self, worker_group: WorkerGroup, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        for index in range(len(addresses)):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            worker_group.execute_single(index, _set_tf_config, json.dumps(task))


class TensorflowAddresses(BackendConfig):
    """Sets TF_CONFIG on every worker.

    `ray.train.tensorflow` does the same, but imports TensorFlow in the driver and the controller too, several
    seconds each.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """The backend that Ray Train runs."""
        return _TensorflowAddresses
