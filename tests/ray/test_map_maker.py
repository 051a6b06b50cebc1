"""Maps that are made beside other work."""

import numpy as np
import pytest

from lib.errors import DataError
from lib.evaluation.views.map_maker import SEED, MapMaker
from lib.evaluation.views.maps import embedding_maps
from lib.folders.evaluation import MapKind

KINDS: tuple[MapKind, ...] = ("pca", "tsne")
"""UMAP, which takes long to compile, has the same way but a process of its own."""

pytestmark = pytest.mark.usefixtures("local_ray")


def test_maps_made_in_another_process_are_those_made_here_to_the_last_bit() -> None:
    embeddings = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    made, here = MapMaker(KINDS).begin(embeddings).result(), embedding_maps(embeddings, KINDS, SEED)
    assert made.keys() == here.keys()
    for kind in KINDS:
        np.testing.assert_array_equal(made[kind], here[kind])


def test_too_few_images_have_no_map_by_neighbours_and_no_kind_asked_for_is_none() -> None:
    embeddings = np.eye(4, dtype=np.float32)
    assert MapMaker(KINDS).begin(embeddings).result().keys() == {"pca"}
    assert MapMaker(()).begin(embeddings).result() == {}


def test_embeddings_without_a_place_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="maps need finite embeddings"):
        MapMaker(KINDS).begin(np.full((12, 3), np.nan, np.float32)).result()
