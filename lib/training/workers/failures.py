"""Which failures end training and which are worth a restart.

Ray Train's own policy restarts after any error. Here an error of the data or the program ends training at once with its
own message, and only the loss of a worker, or what that loss makes the others raise, starts the workers again.
"""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)
from ray.train import FailureConfig
from ray.train.v2._internal.exceptions import (
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError

from lib.errors import MemoryKillsError, SettingsError, TissueError
from lib.runtime.environment import ray_is_ours
from lib.runtime.memory_kills import is_memory_kill
from lib.training.workers.messages import Note, Reporter

CULPRIT_FIRST_S = 5.0
"""The controller looks at the workers every 2 seconds and acts on the first error it sees."""
ABORTED_COLLECTIVE = "Collective ops is aborted by"
PORT_TAKEN = "Could not start gRPC server"
"""The workers agree on free ports before they import TensorFlow, which takes long enough for others to take one."""
BROKEN_NCCL = re.compile(
    r"NCCL.{0,80}?(unhandled cuda error|unhandled system error|internal error|remote process exited[\w ]*|timeout)"
)
"""What NCCL says where a connection, a process or a GPU is gone."""
MISUSED_NCCL = re.compile(r"NCCL.{0,80}?invalid (?:usage|argument)")
"""What it says, as of two workers on one GPU, where the same would come again."""
LOST_GPU = re.compile(
    r"CUDA_ERROR_(?:ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|CONTAINED|LAUNCH_FAILED|LAUNCH_TIMEOUT|DEVICE_UNAVAILABLE|"
    r"SYSTEM_NOT_READY|EXTERNAL_DEVICE|UNKNOWN)\b(?:: [\w -]+)?"
    r"|uncorrectable (?:ECC|NVLink) error[\w ]*|unspecified launch failure|GPU sync failed"
)
"""What a process is told where the kernel's log has an Xid: 48, 63, 64, 94 and 95 are its memory (ECC), 74 is NVLink,
79 is a GPU that has "fallen off the bus". An illegal address, or too little memory, is a fault of the program."""


class LostPeerError(Exception):
    """This worker cannot go on with the others it knows, as when one of them is gone; its text says why."""


class LostGpuError(TissueError):
    """The GPU of this worker has failed, or lost its memory; its text says how."""

    def __str__(self) -> str:
        """With what to do, for who is told of it and not of a worker."""
        return (
            f"the GPU failed ({self.args[0]}); run the same command again to resume from the last checkpoint, and if "
            "it fails again, on another machine"
        )

    @property
    def reason(self) -> str:
        """How it failed."""
        return f"its GPU failed: {self.args[0]}"


class PreemptedError(Exception):
    """This worker has saved a checkpoint since its machine is about to be taken away, and wants to go on elsewhere."""


LOST = (
    LocalRayletDiedError,
    LostGpuError,
    LostPeerError,
    MemoryKillsError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RpcError,
    WorkerCrashedError,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckTimeoutError,
)
NO_ROOM = (InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError)


@contextmanager
def lost_peers_named() -> Iterator[None]:
    """Raise `LostPeerError` for what TensorFlow raises on a worker whose peer is gone.

    Source: TensorFlow 2.21 on CPU. A worker killed in the middle of a collective makes the others raise
    `UnavailableError`, "Collective ops is aborted by: recvmsg:Connection reset by peer ... from remote target
    /job:worker/replica:0/task:1", within 0.3 s; one that is stopped does so after 10 s, "The following tasks are
    unhealthy (stopped sending heartbeats): /job:worker/replica:0/task:1". Between GPUs, by `nccl_manager.cc`, it is
    `InternalError`, "NCCL: unhandled system error. Set NCCL_DEBUG=WARN for detail.", or `UnknownError`, "Error invoking
    NCCL: unhandled cuda error".
    """
    try:
        yield
    except Exception as error:
        if not _is_broken_collective(error):
            raise
        # The worker that is to blame should be seen before those that suffer from it: it has the better message.
        time.sleep(CULPRIT_FIRST_S)
        if PORT_TAKEN in str(error):
            raise LostPeerError("its port was taken before it started") from error
        nccl = BROKEN_NCCL.search(str(error))
        why = f" (NCCL: {nccl[1].strip()})" if nccl else ""
        raise LostPeerError(f"its connection to {_peer(str(error))} broke{why}") from error


@contextmanager
def lost_gpu_named() -> Iterator[None]:
    """Raise `LostGpuError` for what TensorFlow raises on a worker whose own GPU failed.

    Where TensorFlow finds it out while it looks for finished events, it ends the process instead.

    Source: the CUDA driver API's `CUresult`, and what TensorFlow makes of it in its issues 1450 and 28693: "failed to
    query event: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure", "GPU sync failed".
    """
    try:
        yield
    except Exception as error:
        found = LOST_GPU.search(str(error))
        if found is None or not _is_of_tensorflow(error) or _is_broken_collective(error):
            raise
        raise LostGpuError(found[0].strip()) from error


@contextmanager
def memory_named() -> Iterator[None]:
    """Say which settings take less memory where TensorFlow has none left, as on a GPU.

    Raises:
        TissueError: Then.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise TissueError(
            "TensorFlow has no memory left for a step of training; lower --batch-size or --image-size, or take "
            "--precision mixed_bfloat16"
        ) from error


def _is_of_tensorflow(error: Exception, *names: str) -> bool:
    """Whether it is an error of TensorFlow: of the classes with these names, or any."""
    if "tensorflow" not in sys.modules:
        return False
    from tensorflow import errors

    return isinstance(error, tuple(getattr(errors, name) for name in names or ("OpError",)))


def _is_out_of_memory(error: Exception) -> bool:
    return _is_of_tensorflow(error, "ResourceExhaustedError")


def _is_broken_collective(error: Exception) -> bool:
    if _is_of_tensorflow(error, "UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError"):
        return True
    text = str(error)
    if MISUSED_NCCL.search(text):
        return False
    told = ABORTED_COLLECTIVE in text or PORT_TAKEN in text or BROKEN_NCCL.search(text) is not None
    return told and _is_of_tensorflow(error)


def _peer(message: str) -> str:
    found = re.search(r"(?:target|heartbeats\):)\s*/job:worker/replica:0/task:(\d+)", message)
    return f"rank {found[1]}" if found else "another worker"


class RestartAfterLoss(FailurePolicy):
    """Starts the workers again after a loss, as often as allowed, and says so."""

    def __init__(self, failure_config: FailureConfig, reporter: Reporter) -> None:
        """Count restarts from now on.

        Args:
            failure_config: Has `max_failures`; announced preemptions do not count.
            reporter: Tells what is lost.
        """
        super().__init__(failure_config)
        self._reporter = reporter
        self._restarts = 0
        # A cluster may grow until there is room for the workers; a single machine will not.
        self._room_may_come = not ray_is_ours()

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Whether to start again."""
        failures = _failures(training_failed_error)
        errors = [error for error in failures.values() if not isinstance(error, PreemptionError | PreemptedError)]
        if any(isinstance(error, WorkerGroupStartupTimeoutError) for error in errors):
            return self._wait(failures)
        if not all(is_loss(error) for error in errors):
            return FailureDecision.RAISE
        if len(errors) < len(failures):
            self._say("a machine is about to be reclaimed", "training continues elsewhere from its last checkpoint")
            return FailureDecision.RETRY
        self._restarts += 1
        left = self.failure_config.max_failures - self._restarts
        if left < 0:
            return FailureDecision.RAISE
        self._say(describe(failures), f"training restarts from its last checkpoint (restarts left: {left})")
        return FailureDecision.RETRY

    def _wait(self, failures: Mapping[int, Exception]) -> FailureDecision:
        if not self._room_may_come:
            return FailureDecision.RAISE
        self._say("the cluster has no room for the training workers yet", "waiting")
        return FailureDecision.RETRY

    def _say(self, what: str, then: str) -> None:
        self._reporter.report(Note(f"{what}; {then}"))


def is_loss(error: Exception) -> bool:
    """Whether an error tells of a lost process or machine, and not of a fault that would come again."""
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return False
    return isinstance(error, LOST)


def describe(failures: Mapping[int, Exception]) -> str:
    """Which ranks were lost, and why, on one line."""
    # Survivors say no more than that somebody is gone.
    culprits = {rank: error for rank, error in failures.items() if not isinstance(error, LostPeerError)} or failures
    return ", ".join(f"{_name(rank)} was lost ({_reason(error)})" for rank, error in culprits.items())


def user_error(error: TrainingFailedError, max_failures: int) -> Exception:
    """What to tell a user: the fault itself if there is one, or which workers were lost once too often."""
    failures = _failures(error)
    if any(isinstance(failure, NO_ROOM) for failure in failures.values()):
        return SettingsError("the cluster has no room for so many training workers: see --num-workers and --use-gpu")
    faults = [failure for failure in failures.values() if not is_loss(failure)]
    if faults:
        return next((fault for fault in faults if isinstance(fault, TissueError)), faults[0])
    return TissueError(
        f"{describe(failures)}; restart limit reached (--max-failures {max_failures}); run the same command again to "
        "resume from the last checkpoint"
    )


CONTROLLER = -1


def _failures(error: TrainingFailedError) -> dict[int, Exception]:
    """The errors themselves, by rank."""
    if isinstance(error, WorkerGroupError):
        return {rank: _unwrap(failure) for rank, failure in error.worker_failures.items()}
    if isinstance(error, ControllerError):
        return {CONTROLLER: _unwrap(error.controller_failure)}
    return {CONTROLLER: error}


def _unwrap(error: Any) -> Exception:
    """What happened, without what Ray put around it on its way between processes."""
    seen = set()
    while id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, WorkerHealthCheckFailedError):
            error = error.health_check_failure
        elif isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
            error = error.cause
    return error  # type: ignore[no-any-return]


def _name(rank: int) -> str:
    return "a worker" if rank == CONTROLLER else f"rank {rank}"


def _reason(error: Exception) -> str:
    text = str(error)
    if is_memory_kill(error):
        return "its machine ran out of memory"
    if isinstance(error, NodeDiedError) or "node has died" in text:
        return "its machine is gone"
    if isinstance(error, WorkerHealthCheckTimeoutError):
        return "it no longer answers"
    if isinstance(error, LostGpuError):
        return error.reason
    if isinstance(error, LostPeerError | MemoryKillsError):
        return text
    return "its process is gone"
