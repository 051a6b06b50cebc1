"""Maps of embeddings in a process of their own: UMAP is imported and compiled there while images are predicted."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lib.evaluation.views.maps import (
    COMPONENTS,
    FEWEST_POINTS,
    MapArray,
    ReducedEmbeddings,
    embedding_maps,
    reduce_embeddings,
)
from lib.folders.evaluation import MapKind

SEED = 0
SLOWEST: MapKind = "tsne"


class _Maps:
    """What a process does."""

    def prepare(self, kind: MapKind) -> None:
        """Make a map of a few points, so that all is imported and compiled."""
        points = np.random.default_rng(SEED).normal(size=(4 * FEWEST_POINTS, 2 * COMPONENTS))
        embedding_maps(points, [kind], SEED)

    def reduce(self, embeddings: npt.NDArray[np.float32]) -> ReducedEmbeddings:
        """See `reduce_embeddings`."""
        return reduce_embeddings(embeddings, SEED)

    def make(self, reduced: ReducedEmbeddings, kind: MapKind) -> MapArray | None:
        """See `ReducedEmbeddings.map`."""
        return reduced.map(kind, SEED)


class MapMaker:
    """Makes maps on this machine, beside what this process does meanwhile.

    t-SNE has a process of its own: of 4,000 images it takes as long as all else, and need not wait for UMAP.
    """

    def __init__(self, kinds: Sequence[MapKind]) -> None:
        """Begin to prepare; Ray is up."""
        here = ray.get_runtime_context().get_node_id()
        # t-SNE's first: nothing is compiled there, so it is ready to reduce embeddings long before UMAP is.
        self._actors = {
            kind: _actor_on(here, kind == SLOWEST) for kind in sorted(kinds, key=lambda kind: kind != SLOWEST)
        }
        for kind, actor in self._actors.items():
            actor.prepare.remote(kind)

    def begin(self, embeddings: npt.NDArray[np.float32]) -> "PendingMaps":
        """Have maps made of embeddings, shape (n, dimensions)."""
        if not self._actors:
            return PendingMaps({})
        reduced = next(iter(self._actors.values())).reduce.remote(embeddings)
        return PendingMaps({kind: actor.make.remote(reduced, kind) for kind, actor in self._actors.items()})


class PendingMaps:
    """Maps that are being made."""

    def __init__(self, answers: Mapping[MapKind, Any]) -> None:
        self._answers = answers

    def result(self) -> dict[MapKind, MapArray]:
        """Wait for them.

        Raises:
            DataError: See `embedding_maps`.
        """
        maps = {kind: ray.get(answer) for kind, answer in self._answers.items()}
        return {kind: made for kind, made in maps.items() if made is not None}


@lru_cache(maxsize=2)
def _actor_on(node_id: str, is_slowest: bool) -> Any:
    """One for all evaluations of this process, so that it compiles once; another where Ray was started anew."""
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3, scheduling_strategy=here)(_Maps).remote()
