"""Maps of embeddings in a process of their own: UMAP is imported and compiled there while images are predicted."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lib.evaluation.views.maps import COMPONENTS, FEWEST_POINTS, MapArray, embedding_maps
from lib.folders.evaluation import MapKind

SEED = 0


class _Maps:
    """What the process does."""

    def prepare(self, kinds: Sequence[MapKind]) -> None:
        """Make maps of a few points, so that all is compiled; t-SNE needs no compilation."""
        points = np.random.default_rng(SEED).normal(size=(4 * FEWEST_POINTS, 2 * COMPONENTS))
        embedding_maps(points, [kind for kind in kinds if kind != "tsne"], SEED)

    def make(self, embeddings: npt.NDArray[np.float32], kinds: Sequence[MapKind]) -> dict[MapKind, MapArray]:
        """See `embedding_maps`."""
        return embedding_maps(embeddings, kinds, SEED)


class MapMaker:
    """Makes maps on this machine, beside what this process does meanwhile."""

    def __init__(self, kinds: Sequence[MapKind]) -> None:
        """Begin to prepare; Ray is up."""
        self._kinds = list(kinds)
        self._actor = _actor_on(ray.get_runtime_context().get_node_id())
        self._actor.prepare.remote(self._kinds)

    def begin(self, embeddings: npt.NDArray[np.float32]) -> "PendingMaps":
        """Have maps made of embeddings, shape (n, dimensions)."""
        return PendingMaps(self._actor.make.remote(embeddings, self._kinds))


class PendingMaps:
    """Maps that are being made."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def result(self) -> dict[MapKind, MapArray]:
        """Wait for them.

        Raises:
            DataError: See `embedding_maps`.
        """
        return dict(ray.get(self._answer))


@lru_cache(maxsize=1)
def _actor_on(node_id: str) -> Any:
    """One for all evaluations of this process, so that it compiles once; another where Ray was started anew."""
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3, scheduling_strategy=here)(_Maps).remote()
