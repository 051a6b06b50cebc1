"""Pictures that are drawn in processes beside the job's, which meanwhile checks the data."""

import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray

from lib.plots import Picture
from lib.runtime.beside import process_beside
from lib.runtime.logs import join_stage

Drawing = Callable[[], Picture]
"""A picture that is not drawn yet; it can be pickled."""
CPUS_A_PROCESS, MOST_PROCESSES = 2, 6


class _Drawer:
    """What a process does. Its module brings Matplotlib, which takes seconds to import."""

    def draw(self, drawing: Drawing) -> Picture:
        join_stage("draw")
        return drawing()


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


def prepare_drawing() -> list[Any]:
    """The processes that draw, started if they are not there: they import Matplotlib while images are predicted.

    On the machine of this process, since another may have other fonts; one for every two CPUs. Ray is up.
    """
    count = min(max((os.cpu_count() or 1) // CPUS_A_PROCESS, 1), MOST_PROCESSES)
    return [process_beside(_Drawer, number) for number in range(count)]


def begin_drawing(drawings: Mapping[str, Drawing]) -> PendingPictures:
    """Draw pictures beside what this process does meanwhile; in this one where there is no Ray."""
    if not ray.is_initialized():
        return PendingPictures({name: draw() for name, draw in drawings.items()})
    turns = itertools.cycle(prepare_drawing())
    return PendingPictures({name: next(turns).draw.remote(draw) for name, draw in drawings.items()})
