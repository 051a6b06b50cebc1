"""One budget of quota units for every process of a cluster, or for one process where there is no Ray.

A token bucket whose rate halves when the server says that it is too much, and climbs back slowly (AIMD). Under Ray it
lives in a named actor, and each process takes leases of units from it, so that few requests cost a round trip.
"""

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from lib.errors import StorageError
from lib.runtime.counters import DRIVE_UNITS

BURST_S = 10.0
"""Seconds' worth of units that may be saved up: with 250,000 a minute, no minute sees more than 292,000."""
REACTION_S = 5.0
"""Rejections within this time of a slow-down are of requests that were sent before it."""
RECOVERY_S = 120.0
"""Time from a standstill back to the full rate."""
LOWEST_SHARE = 1 / 32
LEASE_S = 0.25
"""Seconds' worth of units that a process takes at a time."""
LEASE_LIFE_S = 5.0
"""Units that a process has not used by then are forgotten, so that they cannot pile up."""
IDLE_S = RECOVERY_S
"""Time without a request after which the actor ends."""
ACTOR_NAMESPACE = "drive-limiter"
ACTOR_TIMEOUT_S = 60.0
ACTOR_ATTEMPTS = 5


class Limiter(Protocol):
    """What every request asks first."""

    def acquire(self, units: int) -> None:
        """Wait until that many units may be used."""

    def slow_down(self, pause_s: float) -> None:
        """The server rejected a request as one too many, and asked for a pause (0 if it named none)."""


class Bucket(Protocol):
    """Where a limiter gets its units."""

    def lease(self, units: float) -> float:
        """Reserve units, and say how many seconds to wait before they may be used."""

    def slow_down(self, pause_s: float) -> None:
        """Halve the rate and pause."""


class TokenBucket:
    """Units that come in at a rate and are taken in the order of asking. Has no clock and no lock of its own.

    Source: Chiu and Jain, Analysis of the Increase and Decrease Algorithms for Congestion Avoidance, 1989 (AIMD).
    """

    def __init__(self, units_per_minute: float, now_s: float) -> None:
        self._highest = units_per_minute / 60
        self.units_per_s = self._highest
        self._balance = self._highest * BURST_S
        self._counted_until_s = now_s
        self._reacts_from_s = now_s

    def take(self, units: float, now_s: float) -> float:
        """Reserve units.

        Returns:
            Seconds to wait before they may be used.
        """
        self._count(now_s)
        self._balance -= units
        return max(self._counted_until_s - now_s, 0.0) + max(-self._balance, 0.0) / self.units_per_s

    def slow_down(self, pause_s: float, now_s: float) -> None:
        """Halve the rate, once for all rejections that come together, and give nothing out during the pause."""
        self._count(now_s)
        if now_s >= self._reacts_from_s:
            self.units_per_s = max(self.units_per_s / 2, self._highest * LOWEST_SHARE)
            self._balance = min(self._balance, 0.0)
            self._reacts_from_s = now_s + REACTION_S
        self._counted_until_s = max(self._counted_until_s, now_s + pause_s)

    def _count(self, now_s: float) -> None:
        elapsed_s = max(now_s - self._counted_until_s, 0.0)  # negative during a pause
        self._balance = min(self._balance + elapsed_s * self.units_per_s, self.units_per_s * BURST_S)
        self.units_per_s = min(self.units_per_s + elapsed_s * self._highest / RECOVERY_S, self._highest)
        self._counted_until_s += elapsed_s


class LocalLimiter:
    """A bucket for the threads of one process."""

    def __init__(self, units_per_minute: float) -> None:
        self._bucket = TokenBucket(units_per_minute, time.monotonic())
        self._lock = threading.Lock()

    def lease(self, units: float) -> float:
        """Reserve units, and say how many seconds to wait before they may be used."""
        with self._lock:
            return self._bucket.take(units, time.monotonic())

    def acquire(self, units: int) -> None:
        """Wait until that many units may be used."""
        time.sleep(self.lease(units))

    def slow_down(self, pause_s: float) -> None:
        """Halve the rate and pause."""
        with self._lock:
            self._bucket.slow_down(pause_s, time.monotonic())

    def units_per_minute(self) -> float:
        """The rate at this moment."""
        with self._lock:
            return self._bucket.units_per_s * 60


class LimiterActor(LocalLimiter):
    """The bucket of a cluster. Ends itself once a new one would be no different: full, and at the highest rate.

    It is detached, since the process that happens to ask first may be a worker that Ray ends at any time; and it must
    not outlive the jobs that use it.
    """

    def __init__(self, units_per_minute: float, idle_s: float) -> None:
        super().__init__(units_per_minute)
        self._idle_s = idle_s
        self._asked_s = time.monotonic()
        threading.Thread(target=self._end_when_idle, daemon=True).start()

    def lease(self, units: float) -> float:
        """Reserve units, and say how many seconds to wait before they may be used."""
        wait_s = super().lease(units)
        DRIVE_UNITS.add(units)
        self._asked_s = time.monotonic() + wait_s
        return wait_s

    def slow_down(self, pause_s: float) -> None:
        """Halve the rate and pause."""
        super().slow_down(pause_s)
        self._asked_s = time.monotonic() + pause_s

    def _end_when_idle(self) -> None:
        import ray

        while (left_s := self._asked_s + self._idle_s - time.monotonic()) > 0:
            time.sleep(left_s)
        ray.kill(ray.get_runtime_context().current_actor)


class ClusterBucket:
    """The bucket of a cluster as one process sees it: a named actor.

    The actor is started by the process that asks first, in any job, and again if its node is lost.
    """

    def __init__(self, name: str, units_per_minute: float) -> None:
        self._name = name
        self._units_per_minute = units_per_minute
        self._actor: Any = None
        self._job: Any = None
        self.round_trips = 0

    def lease(self, units: float) -> float:
        """Reserve units, and say how many seconds to wait before they may be used.

        Raises:
            StorageError: If the actor cannot be reached.
        """
        return float(self._ask("lease", units))

    def slow_down(self, pause_s: float) -> None:
        """Halve the rate and pause.

        Raises:
            StorageError: If the actor cannot be reached.
        """
        self._ask("slow_down", pause_s)

    def _ask(self, method: str, *arguments: float) -> Any:
        import ray

        for attempt in range(ACTOR_ATTEMPTS):
            try:
                self.round_trips += 1
                return ray.get(getattr(self._reach(), method).remote(*arguments), timeout=ACTOR_TIMEOUT_S)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                self._actor = None  # it ended itself, or its node was lost
                time.sleep(0.1 * 2**attempt)
        raise StorageError(f"the limiter of Drive requests (Ray actor {self._name}) cannot be reached")

    def _reach(self) -> Any:
        import ray

        job = ray.get_runtime_context().get_job_id()
        if self._actor is None or self._job != job:
            options = {"name": self._name, "namespace": ACTOR_NAMESPACE, "get_if_exists": True, "num_cpus": 0}
            actor_class = ray.remote(LimiterActor).options(lifetime="detached", **options)
            self._actor = actor_class.remote(self._units_per_minute, IDLE_S)
            self._job = job
        return self._actor


class LeasingLimiter:
    """One process's share of a bucket that others take from too: units are leased, so that few requests ask for them.

    Args:
        bucket: Where units come from.
        units_per_minute: Units per minute of the whole bucket.
        now_s: A clock.
    """

    def __init__(self, bucket: Bucket, units_per_minute: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._bucket = bucket
        self._units_per_minute = units_per_minute
        self._now_s = now_s
        self._balance = 0.0
        self._usable_until_s = 0.0
        self._lock = threading.Lock()

    def acquire(self, units: int) -> None:
        """Wait until that many units may be used.

        Raises:
            StorageError: If the bucket cannot be reached.
        """
        with self._lock:
            if self._balance < units or self._now_s() > self._usable_until_s:
                leased = max(float(units), self._units_per_minute / 60 * LEASE_S)
                time.sleep(self._bucket.lease(leased))
                self._balance = leased
                self._usable_until_s = self._now_s() + LEASE_LIFE_S
            self._balance -= units

    def slow_down(self, pause_s: float) -> None:
        """Tell the cluster, and give up what this process still has.

        Raises:
            StorageError: If the bucket cannot be reached.
        """
        self._balance = 0.0  # without the lock, which a thread that waits for its lease may hold
        self._bucket.slow_down(pause_s)


class SharedLimiter:
    """The cluster's limiter where Ray runs, this process's own where it does not; asked anew at every request."""

    def __init__(self, name: str, units_per_minute: float) -> None:
        self._local = LocalLimiter(units_per_minute)
        self._cluster = LeasingLimiter(ClusterBucket(name, units_per_minute), units_per_minute)

    def acquire(self, units: int) -> None:
        """Wait until that many units may be used."""
        self._current().acquire(units)

    def slow_down(self, pause_s: float) -> None:
        """Halve the rate and pause."""
        self._current().slow_down(pause_s)

    def _current(self) -> Limiter:
        ray = sys.modules.get("ray")  # a process that has not imported Ray is not part of a cluster
        return self._cluster if ray is not None and ray.is_initialized() else self._local


@functools.lru_cache(maxsize=64)
def shared_limiter(name: str, units_per_minute: float) -> SharedLimiter:
    """The one limiter of this process for that name."""
    return SharedLimiter(name, units_per_minute)
