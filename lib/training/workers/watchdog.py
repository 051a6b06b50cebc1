"""Finds the worker that holds up the others, names it and ends it, so that training goes on from its last checkpoint.

A worker that hangs raises nothing: the others wait for it in their next collective for as long as they are let. So a
thread of each worker tells the driver how far its training is; the training itself only counts.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Self

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lib.errors import TissueError
from lib.training.workers.messages import Messages, Note, Reporter, SignOfLife, WorkerEnded

SIGN_INTERVAL_S = 0.5
SILENT_S = 3.0
"""A process that has said nothing for so long is stopped, or holds Python's lock in native code."""
LONG_SILENCE_S = 30.0
"""Before its first step a worker imports native libraries, and that may hold Python's lock for seconds."""
LONG_WORK_S = 120.0
"""What is not counted as a stall while a worker starts, compiles or saves, however short `stall_timeout` is."""
TO_OBEY_S = 10.0
"""Within which an interrupted main thread ends."""
TO_END_S = 60.0
"""Within which another machine ends a process; Ray may have to start one there to do it."""


class Heartbeat:
    """Tells the driver, from a thread, how far a worker is, for as long as the context lasts."""

    def __init__(self, reporter: Reporter, rank: int) -> None:
        """Begin in a state that may take long.

        Args:
            reporter: Tells the driver.
        """
        self._reporter, self._rank = reporter, rank
        self._group = _group()
        self._node_id = ray.get_runtime_context().get_node_id()
        self._created = psutil.Process().create_time()
        self._state = (0, True, time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="heartbeat", daemon=True)

    def step(self, *, patient: bool = False) -> None:
        """A step begins in which all workers meet, so that all of them count the same steps.

        Args:
            patient: Whether it may take long, as one that is compiled first.
        """
        self._state = (self._state[0] + 1, patient, time.monotonic())

    def move(self, *, patient: bool = False) -> None:
        """This worker has done something within a step, as loading some images."""
        self._state = (self._state[0], patient, time.monotonic())

    def __enter__(self) -> Self:
        """Start telling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop: from now on nothing is expected of this worker."""
        self._stop.set()
        self._thread.join()
        self._reporter.report(WorkerEnded(self._group, self._rank))

    def _tell(self) -> None:
        while True:
            steps, patient, moved = self._state
            idle_s = time.monotonic() - moved
            process = self._node_id, os.getpid(), self._created
            self._reporter.report(SignOfLife(self._group, self._rank, *process, steps, patient, idle_s))
            if self._stop.wait(SIGN_INTERVAL_S):
                return


def _group() -> str:
    """The addresses of all workers: they differ from group to group. In the driver's own process there is one group."""
    settings = json.loads(os.environ.get("TF_CONFIG", "{}"))
    return " ".join(settings.get("cluster", {}).get("worker", []))


def find_stalled(signs: Sequence[SignOfLife], timeout_s: float) -> SignOfLife | None:
    """The worker that holds up the others, if it has done so for too long.

    That is one that has fallen silent, as a stopped process does; else the one that has begun the fewest steps; of
    several, the one that moved on longest ago. Silence comes first since a worker may be stopped when it has begun its
    next step, but not yet sent the others the last part of their sums. (TensorFlow too gives up a worker whose process
    does not run for 10 seconds, so that the others raise errors; one that runs and hangs is found only here.)
    """
    if not signs:
        return None
    last = min(signs, key=lambda sign: (sign.silent_s < SILENT_S, sign.steps, -sign.idle_s))
    if last.silent_s > timeout_s and last.steps:
        return last
    if last.patient:
        timeout_s = max(timeout_s, LONG_SILENCE_S if last.silent_s > LONG_SILENCE_S else LONG_WORK_S)
    return last if last.idle_s > timeout_s else None


class StallWatch:
    """Ends stalled workers. A worker in this very process is ended with an error, since nobody would start it again."""

    def __init__(self, messages: Messages, timeout_s: float, *, in_this_process: bool) -> None:
        """Watch.

        Args:
            messages: Has the signs of the workers.
            timeout_s: Seconds without a step after which a worker is stalled.
            in_this_process: Whether the only worker is the main thread of this process.
        """
        self._messages, self._timeout_s, self._in_this_process = messages, timeout_s, in_this_process
        self._dealt_with: set[str] = set()
        self._error: TissueError | None = None
        self._last_resort = threading.Timer(TO_OBEY_S, self._leave)
        self._last_resort.daemon = True
        self._looked = time.monotonic()
        self._not_before = 0.0

    def __enter__(self) -> Self:
        """Nothing to start: `look` is called from outside."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """Say why the main thread was interrupted."""
        self._last_resort.cancel()
        if kind is KeyboardInterrupt and self._error is not None:
            raise self._error from error

    def look(self) -> None:
        """Look once. Each group loses at most one worker: that ends the group."""
        now = time.monotonic()
        if self._in_this_process and now - self._looked > self._timeout_s / 2:
            self._not_before = now + self._timeout_s  # the worker was stopped with us, as by Ctrl-Z, and goes on now
        self._looked = now
        stalled = find_stalled(self._messages.news().signs, self._timeout_s)
        if stalled is None or stalled.group in self._dealt_with or now < self._not_before:
            return
        self._dealt_with.add(stalled.group)
        if self._in_this_process:
            self._interrupt(stalled)
        elif end_worker(stalled):
            self._messages.report(Note(f"{_name(stalled)} made no step for {stalled.idle_s:.0f} s and was ended"))
        self._looked = time.monotonic()

    def _interrupt(self, stalled: SignOfLife) -> None:
        self._error = TissueError(
            f"training made no step for {stalled.idle_s:.0f} s (--stall-timeout {self._timeout_s:g}), after "
            f"{stalled.steps} steps in process {stalled.pid}; run the same command again to resume"
        )
        self._last_resort.start()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # ends a system call too

    def _leave(self) -> None:
        """The main thread hangs in native code, where no exception reaches it: show where, and end the process."""
        faulthandler.dump_traceback()
        sys.stderr.write(f"error: {self._error}\n")
        sys.stderr.flush()
        os._exit(1)


def _name(sign: SignOfLife) -> str:
    return f"rank {sign.rank} (process {sign.pid} on node {sign.node_id[:8]}, step {sign.steps})"


def end_worker(sign: SignOfLife) -> bool:
    """End the process that left a sign, wherever it runs, even if it is stopped.

    Returns:
        Whether it was still there.
    """
    if sign.node_id == ray.get_runtime_context().get_node_id():
        return _kill(sign.pid, sign.created)
    there = NodeAffinitySchedulingStrategy(sign.node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there)
    try:
        return bool(ray.get(task.remote(sign.pid, sign.created), timeout=TO_END_S))
    except ray.exceptions.RayError:  # its machine is gone or does not answer, which Ray finds out by itself
        return False


def _kill(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > 1:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True
