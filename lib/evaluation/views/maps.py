"""Maps of embeddings: images that the network sees as alike lie close to each other, in two dimensions.

Distances are those between embeddings of unit length, reduced to their first 50 principal components.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lib.errors import DataError
from lib.folders.evaluation import KINDS, MAP_SCHEMA, MapKind
from lib.projector import unit_length

MapArray = npt.NDArray[np.float32]
Layout = Callable[[npt.NDArray[np.float64], int], npt.NDArray[Any]]

FEWEST_POINTS = 10
"""Different embeddings that t-SNE and UMAP need, since they place a point by its neighbours. With fewer the map is not
made; principal components under their name would be another map."""
COMPONENTS = 50
PERPLEXITY = 30.0
NEIGHBOURS = 15


def embedding_maps(
    embeddings: npt.NDArray[np.floating[Any]], kinds: Sequence[MapKind], seed: int
) -> dict[MapKind, MapArray]:
    """Places of images on maps; the same for the same embeddings and seed, whatever the number of cores.

    At 5,000 images t-SNE took a minute and UMAP ten seconds on a busy core; in every process UMAP's import and
    compilation cost eight seconds of one core besides (see `map_maker`).

    Args:
        embeddings: Shape (n, dimensions), n at least 1, finite.
        kinds: The maps to make.
        seed: Seed of t-SNE and UMAP, at least 0.

    Returns:
        By kind, shape (n, 2), in no unit. `tsne` and `umap` are left out if fewer than `FEWEST_POINTS` embeddings are
        different.

    Raises:
        DataError: If there is no embedding, or one is not finite.

    Source:
        van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008; McInnes et al., UMAP, arXiv:1802.03426.
    """
    reduced = reduce_embeddings(embeddings, seed)
    maps = {kind: reduced.map(kind, seed) for kind in kinds}
    return {kind: made for kind, made in maps.items() if made is not None}


@dataclass(frozen=True)
class ReducedEmbeddings:
    """What all maps are made from.

    Attributes:
        components: Coordinates along the first `COMPONENTS` directions at most, shape (n, k).
        different: How many of the embeddings differ in more than their length.
    """

    components: npt.NDArray[np.float64]
    different: int

    def map(self, kind: MapKind, seed: int) -> MapArray | None:
        """Places on a map, shape (n, 2); None where too few embeddings are different."""
        from threadpoolctl import threadpool_limits

        if kind != "pca" and self.different < FEWEST_POINTS:
            return None
        layouts: dict[MapKind, Layout] = {"pca": _pca, "tsne": _tsne, "umap": _umap}
        with threadpool_limits(1):  # since sums over several differ in their last bits, which t-SNE and UMAP amplify
            return np.asarray(layouts[kind](self.components, seed), np.float32)


def reduce_embeddings(embeddings: npt.NDArray[np.floating[Any]], seed: int) -> ReducedEmbeddings:
    """The first principal components of embeddings at unit length; arguments and errors as of `embedding_maps`."""
    from threadpoolctl import threadpool_limits

    if embeddings.ndim != 2 or not embeddings.size or not np.isfinite(embeddings).all():  # noqa: PLR2004 - a matrix
        raise DataError(f"maps need finite embeddings, not {embeddings.dtype} of shape {embeddings.shape}")
    with threadpool_limits(1):
        vectors = unit_length(embeddings)
        components = principal_components(vectors, COMPONENTS, seed)
        return ReducedEmbeddings(components, len(np.unique(vectors, axis=0)))


def principal_components(vectors: npt.NDArray[np.floating[Any]], most: int, seed: int) -> npt.NDArray[np.float64]:
    """Coordinates along the directions of largest variance, largest first.

    Args:
        vectors: Shape (n, dimensions), n at least 1.
        most: How many directions to keep at most.
        seed: Seed of the randomized solver, which is used for more than 500 vectors and dimensions.

    Returns:
        Shape (n, k) with k = min(most, n, dimensions); zeros if all vectors are the same.
    """
    from sklearn.decomposition import PCA

    values = np.asarray(vectors, np.float64)
    count = min(most, *values.shape)
    if (values == values[0]).all():
        return np.zeros((len(values), count))
    return np.asarray(PCA(count, random_state=seed).fit_transform(values), np.float64)


def _pca(reduced: npt.NDArray[np.float64], seed: int) -> npt.NDArray[Any]:
    return np.pad(reduced[:, :2], ((0, 0), (0, max(0, 2 - reduced.shape[1]))))


def _tsne(reduced: npt.NDArray[np.float64], seed: int) -> npt.NDArray[Any]:
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(reduced) - 1) / 3)  # it looks at three times as many neighbours
    start = _pca(reduced, seed)
    start = start / start[:, 0].std() * 1e-4  # as init="pca" does, without computing it again
    return np.asarray(
        TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=seed).fit_transform(reduced)
    )


def _umap(reduced: npt.NDArray[np.float64], seed: int) -> npt.NDArray[Any]:
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(NEIGHBOURS, len(reduced) - 1)
    # Exact neighbours: at up to 5,000 points faster than the approximate ones, whose program takes 20 s to compile.
    nearest = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(reduced)
    distances, indices = nearest.kneighbors(reduced)
    with warnings.catch_warnings():
        # About what it imports, and that it could not place further points, which is true.
        warnings.simplefilter("ignore")
        from umap import UMAP

        layout = UMAP(
            n_neighbors=neighbours,
            precomputed_knn=(indices, distances.astype(np.float32)),
            force_approximation_algorithm=True,  # or it ignores the neighbours it is given
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(layout.fit_transform(reduced.astype(np.float32)))


def map_table(image_ids: Sequence[str], maps: Mapping[MapKind, MapArray]) -> pa.Table:
    """Rows of `MAP_SCHEMA`; null in the columns of maps that were not made.

    Args:
        image_ids: Ids of the n images.
        maps: By kind, shape (n, 2), as `embedding_maps` makes them.
    """
    columns = {"image_id": pa.array(image_ids, pa.string())}
    for kind in KINDS:
        for number, axis in enumerate("xy"):
            made = maps.get(kind)
            empty = pa.nulls(len(image_ids), pa.float32())
            columns[f"{kind}_{axis}"] = empty if made is None else pa.array(made[:, number], pa.float32())
    return pa.table(columns, schema=MAP_SCHEMA)
