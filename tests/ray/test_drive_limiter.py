"""One budget of Drive requests for all processes of a cluster, held by a Ray actor that takes no CPU."""

import time

import pytest

from lib.storage.drive.limiter import ACTOR_NAMESPACE, ClusterBucket, LeasingLimiter, SharedLimiter
from tests.fakes.jobs import wait_for

UNITS_A_MINUTE = 60_000  # 1,000 a second, 10,000 saved up

pytestmark = pytest.mark.usefixtures("local_ray")


def limiter(name: str) -> LeasingLimiter:
    return LeasingLimiter(ClusterBucket(name, UNITS_A_MINUTE), UNITS_A_MINUTE)


def actors() -> set[str]:
    import ray

    return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}


def test_processes_share_one_budget_and_seldom_ask_for_it() -> None:
    import ray

    def spend(name: str, requests: int, units: int) -> tuple[float, int]:
        """When the last request of this process could be made, and how often it asked the actor."""
        bucket = ClusterBucket(name, UNITS_A_MINUTE)
        limiter = LeasingLimiter(bucket, UNITS_A_MINUTE)
        for _ in range(requests):
            limiter.acquire(units)
        return time.time(), bucket.round_trips

    worker = ray.remote(spend)
    ray.get([worker.remote("shared", 1, 5) for _ in range(2)])  # so that the time to start a worker is not measured
    began = time.time()
    results = ray.get([worker.remote("shared", 120, 50) for _ in range(2)])
    ended, round_trips = zip(*results, strict=True)
    assert max(ended) - began > 1.4  # 12,000 units, of which 10,000 were saved up
    assert sum(round_trips) <= 2 * 120 * 50 / 250 + 4  # a lease is a quarter of a second's worth
    assert "shared" in actors()
    wait_for(lambda: ray.cluster_resources()["CPU"] == ray.available_resources().get("CPU"), "it takes no CPU")


def test_a_rejection_that_one_limiter_sees_slows_all_of_them() -> None:
    import ray

    here, elsewhere = (limiter("shared") for _ in range(2))
    here.acquire(5)
    elsewhere.slow_down(0.5)
    actor = ray.get_actor("shared", namespace=ACTOR_NAMESPACE)
    assert 30_000 <= ray.get(actor.units_per_minute.remote()) < UNITS_A_MINUTE  # half, and more again with time
    began = time.monotonic()
    here.acquire(300)  # more than what is left of its lease
    assert time.monotonic() - began > 0.5


def test_the_actor_ends_when_it_is_idle_and_is_begun_again_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.storage.drive.limiter.IDLE_S", 0.3)
    idle = limiter("idle")
    idle.acquire(5)
    assert "idle" in actors()
    wait_for(lambda: "idle" not in actors(), "the actor has ended")
    idle.acquire(5_000)


def test_the_cluster_is_asked_where_ray_runs() -> None:
    SharedLimiter("chosen", UNITS_A_MINUTE).acquire(5)
    assert "chosen" in actors()
