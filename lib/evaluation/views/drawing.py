"""Pictures that are drawn side by side in processes of their own, where there are CPUs for it."""

import os
from collections.abc import Callable, Mapping

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lib.plots import Picture
from lib.runtime.environment import ray_is_ours
from lib.runtime.logs import join_stage

Drawing = Callable[[], Picture]
"""A picture that is not drawn yet; it can be pickled."""
FEWEST_CPUS = 4
"""With two, maps that are made meanwhile have the other one, and each process has to import Matplotlib first."""


class PendingPictures:
    """Pictures that are being drawn, or are drawn already."""

    def __init__(self, pictures: "Mapping[str, Picture | ray.ObjectRef[Picture]]") -> None:
        self._pictures = pictures

    def result(self) -> dict[str, Picture]:
        """Wait for them; by name."""
        return {
            name: ray.get(picture) if isinstance(picture, ray.ObjectRef) else picture
            for name, picture in self._pictures.items()
        }


def begin_drawing(drawings: Mapping[str, Drawing]) -> PendingPictures:
    """Draw pictures, beside what this process does meanwhile if it is on a machine alone that has some CPUs.

    Never on another machine, which may have other fonts.
    """
    if not (ray_is_ours() and ray.is_initialized() and (os.cpu_count() or 1) >= FEWEST_CPUS):
        return PendingPictures({name: draw() for name, draw in drawings.items()})
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    beside = ray.remote(num_cpus=1, scheduling_strategy=here)(_draw)
    return PendingPictures({name: beside.remote(draw) for name, draw in drawings.items()})


def _draw(draw: Drawing) -> Picture:
    join_stage("draw")
    return draw()
