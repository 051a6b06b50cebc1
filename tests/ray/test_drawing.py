"""Pictures that are drawn in other processes."""

import os
from collections import Counter
from functools import partial

import numpy as np
import pytest

from lib.evaluation.views import drawing
from lib.evaluation.views.drawing import Drawing, begin_drawing
from lib.plots import Picture, predicted_swarm

pytestmark = pytest.mark.usefixtures("local_ray")


def drawn_by() -> Drawing:
    """Tells the process; it goes to another with its code, since that cannot import this file."""
    return lambda: Picture(str(os.getpid()).encode(), b"")


def test_pictures_drawn_in_other_processes_are_those_drawn_here_to_the_last_byte() -> None:
    actual = np.arange(40) % 2
    swarm = partial(predicted_swarm, actual, actual, np.full((40, 2), 0.5), ["liver", "lung"])
    assert begin_drawing({"swarm": swarm}).result()["swarm"] == swarm()


def test_the_same_few_processes_draw_all_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert drawing.CPUS_A_PROCESS == 2
    drawn = Counter(int(picture.png) for _ in range(2) for picture in begin_drawing(pictures()).result().values())
    assert sorted(drawn.values()) == [6, 6]
    assert os.getpid() not in drawn


def pictures() -> dict[str, Drawing]:
    return {str(number): drawn_by() for number in range(6)}
