"""When an elastic group takes in machines that have come: not for each of them."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from lib.training.workers.ray_train import StayingWorkers

MINUTE_S = 60.0


class PolicyHere(StayingWorkers):
    """Asks no actor of Ray what is reserved: machines without GPUs are counted by another call."""

    def _maybe_send_resource_request(self) -> None:
        pass

    def _get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return {}


class Cluster:
    """Machines that come and go while a group trains; the policy looks once a minute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machines: int, most: int = 16) -> None:
        self.machines, self.leaving, self.now_s = machines, 0, 1000.0
        monkeypatch.setattr("ray.nodes", self._nodes)
        monkeypatch.setattr("lib.training.workers.ray_train.cluster_state.get_draining_nodes", self._draining)
        config = ScalingConfig(num_workers=(1, most), elastic_resize_monitor_interval_s=0)
        self._policy = PolicyHere(config, clock=lambda: self.now_s)
        first = self._policy.make_decision_for_non_running_worker_group()
        assert isinstance(first, ResizeDecision)
        self.workers = first.num_workers

    def _nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": str(number), "Alive": True, "Resources": {"CPU": 4.0}} for number in range(self.machines)]

    def _draining(self) -> dict[str, int]:
        return {str(number): 0 for number in range(self.leaving)}

    def after(self, minutes: float, machines: int | None = None) -> int:
        """The workers, once so many minutes have gone by in which no machine came or went until the last moment."""
        self.now_s += minutes * MINUTE_S
        self.machines = self.machines if machines is None else machines
        state: Any = SimpleNamespace(start_time=0.0, num_workers=self.workers)
        decision = self._policy.make_decision_for_running_worker_group(state, None)
        if isinstance(decision, ResizeDecision):
            self.workers = decision.num_workers
        return self.workers


def test_a_machine_among_eight_is_taken_in_after_five_quiet_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, machines=8)
    assert [cluster.after(1, machines=9), *(cluster.after(1) for _ in range(6))] == [8, 8, 8, 8, 8, 9, 9]


def test_each_machine_that_comes_begins_the_wait_anew_until_they_are_a_quarter_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch, machines=12)
    assert [cluster.after(4, machines=machines) for machines in (13, 14, 15, 16)] == [12, 12, 15, 15]
    assert [cluster.after(4), cluster.after(2)] == [15, 16]


def test_a_small_group_grows_with_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, machines=1)
    assert [cluster.after(1, machines=machines) for machines in (2, 3, 4, 5)] == [2, 3, 4, 5]


def test_a_machine_that_comes_and_goes_restarts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, machines=8)
    assert [cluster.after(4, machines=machines) for machines in (9, 8, 9, 8, 9)] == [8] * 5


def test_a_group_shrinks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, machines=8)
    cluster.leaving = 1
    assert cluster.after(0.1) == 7


def test_a_group_never_exceeds_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, machines=4, most=5)
    assert cluster.after(1, machines=9) == 5
