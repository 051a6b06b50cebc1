"""How an epoch goes while it goes: what is told of its steps, by a clock that a test turns."""

from types import SimpleNamespace
from typing import Any

import pytest

from lib.runtime.gpu_use import GpuUse
from lib.training.fit.pace import PaceMeter
from lib.training.workers.messages import MessageLog, Pace, ProgressWatcher


class Gpu:
    """A GPU that does one thing after the other."""

    def __init__(self, *uses: GpuUse) -> None:
        self._uses = iter(uses)

    def read(self) -> GpuUse:
        return next(self._uses)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=50.0)
    monkeypatch.setattr("lib.training.fit.pace.time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def steps(meter: PaceMeter, clock: SimpleNamespace, batches: SimpleNamespace, count: int) -> list[Pace]:
    """Steps of 0.25 s and 8 images, of which a fifth is waiting."""
    told = []
    for _ in range(count):
        clock.now_s += 0.25
        batches.waited_s += 0.05
        told.append(meter.step(8, epoch=2, epochs=9))
    return [pace for pace in told if pace is not None]


def meter_of(gpu: Any = None) -> tuple[PaceMeter, SimpleNamespace]:
    batches: Any = SimpleNamespace(waited_s=7.0)
    meter = PaceMeter(batches, gpu)
    meter.begin()
    return meter, batches


def test_the_steps_of_each_second_are_told_with_their_share_of_waiting(clock: SimpleNamespace) -> None:
    meter, batches = meter_of()
    clock.now_s += 100  # the first step is compiled, and in no window
    told = steps(meter, clock, batches, 9)
    assert [(pace.images_per_s, pace.gpu) for pace in told] == [(pytest.approx(32), None)] * 2
    assert [pace.wait_share for pace in told] == pytest.approx([0.2, 0.2])
    assert str(told[0]) == "epoch 2 of 9, 32 images/s, 20 % waiting for images"
    assert meter.end() == GpuUse(None, None)


def test_the_use_of_the_gpu_is_told_and_summed_up_for_the_epoch(clock: SimpleNamespace) -> None:
    meter, batches = meter_of(Gpu(GpuUse(0.5, 2**30), GpuUse(0.8, 3 * 2**30), GpuUse(None, None), GpuUse(0.1, 7)))
    told = steps(meter, clock, batches, 13)
    assert str(told[0]).endswith("20 % waiting for images, GPU 50 % busy, 1.0 GiB taken")
    assert str(told[2]).endswith("20 % waiting for images")
    assert meter.end() == GpuUse(pytest.approx(0.65), 3 * 2**30)
    meter.begin()
    assert meter.end() == GpuUse(0.1, 7)  # an epoch shorter than a window is looked at once


class Shown:
    """What a progress is told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, dict[str, float]]] = []

    def describe(self, state: str, numbers: dict[str, float]) -> None:
        self.states.append((state, numbers))


def test_the_last_pace_is_what_the_driver_shows() -> None:
    messages, progress = MessageLog(), Shown()
    watcher = ProgressWatcher(messages, progress)  # type: ignore[arg-type]  # shows no more than this
    with watcher:
        for rate in (10.0, 20.0):
            messages.report(Pace(3, 20, rate, 0.08, GpuUse(0.91, None)))
    text = "epoch 3 of 20, 20 images/s, 8 % waiting for images, GPU 91 % busy"
    assert progress.states[-1] == (text, {"images_per_s": 20.0, "wait_share": 0.08})
