"""The budget of requests: never more units in a minute than allowed, less after a rejection, back to full in time."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.storage.drive.limiter import (
    BURST_S,
    LEASE_LIFE_S,
    LOWEST_SHARE,
    REACTION_S,
    RECOVERY_S,
    LeasingLimiter,
    LocalLimiter,
    TokenBucket,
    shared_limiter,
)

DRIVE_LIMIT = 325_000
DEFAULT = 250_000


def test_what_was_saved_up_is_there_at_once_and_then_units_come_at_the_rate() -> None:
    bucket = TokenBucket(6_000, now_s=0)  # 100 a second, 1,000 saved up
    assert bucket.take(1_000, 0) == 0
    assert bucket.take(200, 0) == pytest.approx(2)
    assert bucket.take(100, 0) == pytest.approx(3)
    assert bucket.take(100, 3) == pytest.approx(1)


def test_nothing_is_saved_up_beyond_the_burst() -> None:
    bucket = TokenBucket(6_000, now_s=0)
    assert bucket.take(100 * BURST_S, 3_600) == 0
    assert bucket.take(100, 3_600) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(1, 20_000), st.floats(0, 20)), min_size=1, max_size=60))
def test_no_minute_sees_more_units_than_drive_allows(steps: list[tuple[int, float]]) -> None:
    bucket, now, uses = TokenBucket(DEFAULT, now_s=0), 0.0, []
    for units, pause_s in steps:
        now += pause_s
        uses.append((now + bucket.take(units, now), units))
    for start, _ in uses:
        assert sum(units for at, units in uses if start <= at < start + 60) <= DRIVE_LIMIT


def test_rejections_that_come_together_halve_the_rate_once() -> None:
    bucket = TokenBucket(6_000, now_s=0)
    for at in (0, 0.1, 0.2, REACTION_S - 0.1):
        bucket.slow_down(0, at)
    assert 50 <= bucket.units_per_s < 55
    bucket.slow_down(0, REACTION_S + 0.1)
    assert 25 <= bucket.units_per_s < 30


def test_a_rejection_takes_what_was_saved_up() -> None:
    bucket = TokenBucket(6_000, now_s=0)
    bucket.slow_down(0, 0)
    assert bucket.take(50, 0) == pytest.approx(1)


def test_the_rate_climbs_back_to_the_highest_and_not_beyond() -> None:
    bucket = TokenBucket(6_000, now_s=0)
    bucket.slow_down(0, 0)
    bucket.take(0, RECOVERY_S / 4)
    assert bucket.units_per_s == pytest.approx(75)
    bucket.take(0, RECOVERY_S * 2)
    assert bucket.units_per_s == 100


def test_the_rate_never_falls_to_a_standstill() -> None:
    bucket = TokenBucket(6_000, now_s=0)
    for step in range(30):
        bucket.slow_down(0, step * (REACTION_S + 0.01))
    assert bucket.units_per_s >= 100 * LOWEST_SHARE


def test_nothing_is_given_out_during_a_pause_that_the_server_asks_for() -> None:
    bucket = TokenBucket(6_000, now_s=0)
    bucket.slow_down(30, 0)
    assert bucket.take(50, 0) == pytest.approx(31)  # the pause, then one second at half the rate
    assert bucket.take(50, 10) == pytest.approx(22)
    assert bucket.take(50, 40) == 0


def test_threads_share_one_budget() -> None:
    limiter = LocalLimiter(6_000)
    limiter.acquire(1_000)
    began = time.monotonic()
    threads = [threading.Thread(target=limiter.acquire, args=(10,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began > 0.4  # each its own budget would be no wait at all


def test_a_process_has_one_limiter_for_a_name_and_needs_no_ray() -> None:
    limiter = shared_limiter("somebody", 6_000_000)
    assert shared_limiter("somebody", 6_000_000) is limiter
    assert shared_limiter("somebody else", 6_000_000) is not limiter
    limiter.acquire(100)
    limiter.slow_down(0)


class Asked:
    """A bucket that never lets anyone wait, and notes what it was asked for."""

    def __init__(self) -> None:
        self.leases: list[float] = []
        self.pauses: list[float] = []

    def lease(self, units: float) -> float:
        self.leases.append(units)
        return 0.0

    def slow_down(self, pause_s: float) -> None:
        self.pauses.append(pause_s)


def test_leased_units_last_for_many_requests_and_not_for_ever() -> None:
    bucket, clock_s = Asked(), [0.0]
    limiter = LeasingLimiter(bucket, 60_000, lambda: clock_s[0])
    for _ in range(50):
        limiter.acquire(5)
    assert bucket.leases == [250]
    limiter.acquire(1_000)
    assert bucket.leases == [250, 1_000]
    limiter.acquire(5)
    clock_s[0] += LEASE_LIFE_S
    limiter.acquire(5)
    assert bucket.leases == [250, 1_000, 250]
    clock_s[0] += 0.1
    limiter.acquire(5)
    assert bucket.leases == [250, 1_000, 250, 250]


def test_a_rejection_gives_up_what_was_leased_and_is_passed_on() -> None:
    bucket = Asked()
    limiter = LeasingLimiter(bucket, 60_000)
    limiter.acquire(5)
    limiter.slow_down(7)
    limiter.acquire(5)
    assert (bucket.leases, bucket.pauses) == ([250, 250], [7])
