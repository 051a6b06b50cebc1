"""Saves a checkpoint when the worker group is about to end: a machine is taken away, or the group gets another size."""

import threading
import time

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
from ray.train.v2._internal.execution.train_fn_utils import get_train_fn_utils
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from lib.training.workers.messages import Note, Reporter

SAVE_BEFORE_RESIZE_S = 120.0

_asked = threading.Event()
"""Set in a worker that was asked for a checkpoint. A worker process serves one group, so it is never cleared."""


def ask_for_checkpoint() -> None:
    """Have this process want a checkpoint."""
    _asked.set()


def checkpoint_wanted() -> bool:
    """Whether this worker was told that its group is about to end.

    Ray Train tells every worker when the machine of any of them is being drained, but not all at the same step. Where
    all must take part in a checkpoint, they have to agree first.

    It reads what `ray.train.get_preemption_info` would broadcast. That function waits for a call of every rank each
    time, so it cannot be called whenever a worker feels like it, and costs every step two round trips to an actor.
    """
    if not get_train_fn_utils().is_distributed():
        return False
    return _asked.is_set() or get_train_context().preemption_context.preemption_info is not None


class SaveBeforeResize(WorkerGroupCallback, ControllerCallback):
    """Has the workers save a checkpoint before an elastic group is replaced by a larger or smaller one.

    Ray Train would end them without notice, and what they did since their last checkpoint would be done again.
    """

    def __init__(self, reporter: Reporter) -> None:
        """Tell what happens."""
        self._reporter = reporter
        self._group: WorkerGroup | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Know the workers."""
        self._group = worker_group

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        """Forget them."""
        self._group = None

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        """Ask for a checkpoint, and wait until a worker has raised `PreemptedError`, or failed anyhow."""
        if self._group is None or _has_ended(self._group):
            return
        workers = resize_decision.num_workers
        self._reporter.report(Note(f"training continues with {workers} workers, after a checkpoint"))
        self._group.execute(ask_for_checkpoint)
        deadline = time.monotonic() + SAVE_BEFORE_RESIZE_S
        while not _has_ended(self._group) and time.monotonic() < deadline:
            time.sleep(0.2)


def _has_ended(group: WorkerGroup) -> bool:
    status = group.poll_status(timeout=1.0)
    return bool(status.errors) or bool(status.finished)
