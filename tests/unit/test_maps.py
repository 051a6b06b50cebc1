"""Maps of embeddings: what they keep, what they refuse, and that they do not change from run to run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import DataError
from lib.evaluation.views.maps import FEWEST_POINTS, embedding_maps, map_table, principal_components
from lib.folders.evaluation import KINDS, MAP_SCHEMA


def clusters(count: int, dimensions: int = 16, kinds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Directions around a few centres, of very different lengths; and which centre each belongs to."""
    rng = np.random.default_rng(7)
    of = np.arange(count) % kinds
    directions = rng.normal(size=(kinds, dimensions))[of] + 0.1 * rng.normal(size=(count, dimensions))
    return (directions * rng.uniform(0.1, 100, (count, 1))).astype(np.float32), of


def neighbours_of_the_same_kind(places: np.ndarray, kinds: np.ndarray) -> float:
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return float((kinds[distances.argmin(axis=1)] == kinds).mean())


@pytest.fixture(scope="module")
def three_kinds() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    embeddings, kinds = clusters(60)
    return embeddings, kinds, embedding_maps(embeddings, KINDS, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_keeps_images_together_whose_embeddings_point_the_same_way(three_kinds, kind: str) -> None:
    _, kinds, maps = three_kinds
    assert maps[kind].shape == (60, 2)
    assert maps[kind].dtype == np.float32
    assert neighbours_of_the_same_kind(maps[kind], kinds) == 1


def test_the_same_seed_gives_the_same_maps_and_another_seed_others(three_kinds) -> None:
    embeddings, _, maps = three_kinds
    again, other = embedding_maps(embeddings, KINDS, 0), embedding_maps(embeddings, KINDS, 1)
    for kind in KINDS:
        np.testing.assert_array_equal(maps[kind], again[kind])
    np.testing.assert_array_equal(maps["pca"], other["pca"])
    assert not np.array_equal(maps["umap"], other["umap"])


def test_only_the_direction_of_an_embedding_matters(three_kinds) -> None:
    embeddings, _, maps = three_kinds
    longer = embeddings * np.logspace(-3, 3, len(embeddings), dtype=np.float32)[:, None]
    np.testing.assert_allclose(embedding_maps(longer, ["pca"], 0)["pca"], maps["pca"], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, FEWEST_POINTS - 1])
def test_a_few_images_get_principal_components_and_no_other_map(count: int) -> None:
    maps = embedding_maps(clusters(count)[0], KINDS, 0)
    assert list(maps) == ["pca"]
    assert maps["pca"].shape == (count, 2)
    assert np.isfinite(maps["pca"]).all()


def test_as_many_images_as_needed_get_all_maps() -> None:
    maps = embedding_maps(clusters(FEWEST_POINTS)[0], KINDS, 0)
    assert {kind: np.isfinite(places).all() for kind, places in maps.items()} == dict.fromkeys(KINDS, True)


def test_repeated_embeddings_do_not_count_as_different() -> None:
    nine = np.repeat(clusters(FEWEST_POINTS - 1)[0], 4, axis=0)
    assert list(embedding_maps(nine, KINDS, 0)) == ["pca"]


@pytest.mark.parametrize("same", [np.zeros((20, 4)), np.ones((20, 4)), np.ones((1, 1))])
def test_images_that_are_all_alike_lie_on_one_point(same: np.ndarray) -> None:
    maps = embedding_maps(same, KINDS, 0)
    assert list(maps) == ["pca"]
    assert (maps["pca"] == 0).all()


def test_many_copies_of_few_embeddings_still_have_maps() -> None:
    maps = embedding_maps(np.repeat(np.eye(12), 20, axis=0), KINDS, 0)
    assert all(np.isfinite(places).all() for places in maps.values())
    assert set(maps) == set(KINDS)


def test_embeddings_of_one_dimension_have_a_flat_map() -> None:
    places = embedding_maps(np.array([[1.0], [-1.0], [3.0]]), ["pca"], 0)["pca"]
    np.testing.assert_allclose(np.abs(places), [[2 / 3, 0], [4 / 3, 0], [2 / 3, 0]], atol=1e-6)


@pytest.mark.parametrize("bad", [np.full((3, 4), np.nan), np.array([[np.inf, 1]]), np.zeros((0, 4)), np.zeros(4)])
def test_embeddings_without_a_place_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="maps need finite embeddings"):
        embedding_maps(bad, ["pca"], 0)


@settings(max_examples=30)
@given(count=st.integers(2, 12), dimensions=st.integers(1, 8), seed=st.integers(0, 100))
def test_principal_components_keep_all_distances_where_none_is_dropped(count: int, dimensions: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions))
    reduced = principal_components(vectors, 50, 0)
    variances = reduced.var(axis=0)
    assert (np.diff(variances) <= 1e-12).all()
    between = [np.linalg.norm(values[:, None] - values[None], axis=2) for values in (vectors, reduced)]
    np.testing.assert_allclose(*between, atol=1e-9)


def test_the_table_has_null_for_maps_that_were_not_made() -> None:
    table = map_table(["a", "b"], {"pca": np.array([[1, 2], [3, 4]], np.float32)})
    assert table.schema == MAP_SCHEMA
    assert table.column_names == ["image_id", "pca_x", "pca_y", "tsne_x", "tsne_y", "umap_x", "umap_y"]
    assert table.to_pylist()[1] == {"image_id": "b", "pca_x": 3, "pca_y": 4} | dict.fromkeys(table.column_names[3:])
