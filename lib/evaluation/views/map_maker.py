"""Maps of embeddings, made beside the job's process, whose imports and compiling are over when images are predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from lib.evaluation.views.maps import (
    COMPONENTS,
    FEWEST_POINTS,
    MapArray,
    ReducedEmbeddings,
    embedding_maps,
    reduce_embeddings,
)
from lib.folders.evaluation import MapKind
from lib.runtime.beside import process_beside

SEED = 0
COMPILED: MapKind = "umap"


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

    UMAP has a process of its own: it takes long to compile, and the others need not wait for it.
    """

    def __init__(self, kinds: Sequence[MapKind]) -> None:
        """Begin to prepare; Ray is up."""
        # The others first: nothing is compiled there, so they are ready to reduce embeddings long before UMAP is.
        in_order = sorted(kinds, key=lambda kind: kind == COMPILED)
        self._actors = {kind: process_beside(_Maps, int(kind == COMPILED)) for kind in in_order}
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
