"""Pictures that are drawn in other processes."""

import os
from functools import partial

import numpy as np
import pytest

from lib.evaluation.views import drawing
from lib.evaluation.views.drawing import Drawing, begin_drawing
from lib.plots import Picture, predicted_swarm

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def enough_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "FEWEST_CPUS", 1)


def drawn_by() -> Drawing:
    """Tells the process; it goes to another with its code, since that cannot import this file."""
    return lambda: Picture(str(os.getpid()).encode(), b"")


@pytest.mark.usefixtures("enough_cpus")
def test_pictures_drawn_in_other_processes_are_those_drawn_here_to_the_last_byte() -> None:
    actual = np.arange(40) % 2
    swarm = partial(predicted_swarm, actual, actual, np.full((40, 2), 0.5), ["liver", "lung"])
    pictures = begin_drawing({"swarm": swarm, "process": drawn_by()}).result()
    assert pictures["swarm"] == swarm()
    assert int(pictures["process"].png) != os.getpid()


def test_with_few_cpus_pictures_are_drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "FEWEST_CPUS", 10_000)
    assert int(begin_drawing({"process": drawn_by()}).result()["process"].png) == os.getpid()


@pytest.mark.usefixtures("enough_cpus")
def test_as_a_job_of_a_cluster_whose_machines_may_have_other_fonts_pictures_are_drawn_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert int(begin_drawing({"process": drawn_by()}).result()["process"].png) == os.getpid()
