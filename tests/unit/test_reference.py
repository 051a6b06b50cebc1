"""Reference images: how far others are from them, which are taken, and their way into a model folder and back."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import lib.models.reference
from lib.dataset.subset import balanced_subset, even_quotas
from lib.folders.model import REFERENCE_SCHEMA, write_reference
from lib.models.reference import Reference, neighbour_distances, reference_record
from lib.projector import unit_length
from lib.storage.location import Location
from tests.fakes.images import CLASS_NAMES, FakeSource

FloatArray = npt.NDArray[np.float32]


def drawn(count: int, width: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@given(
    images=st.integers(0, 30), known=st.integers(1, 20), width=st.integers(1, 8), k=st.integers(1, 25),
    block=st.sampled_from([1, 64, 1 << 22]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_distances_are_those_of_scipy_whatever_the_block(
    images: int, known: int, width: int, k: int, block: int, seed: int
) -> None:
    embeddings, reference = drawn(images, width, seed), unit_length(drawn(known, width, seed + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib.models.reference, "BLOCK", block)
        found = neighbour_distances(embeddings, reference, k)
    assert found.dtype == np.float32
    assert found.shape == (images,)
    if images:
        expected = np.sort(cdist(embeddings, reference, "cosine"), axis=1)[:, min(k, known) - 1]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_image_at_a_right_angle_is_at_distance_one_and_the_length_does_not_matter() -> None:
    reference = Reference(np.eye(2, dtype=np.float32)[:1], ["lung"], threshold=0.5, neighbours=1)
    embeddings = np.array([[3e30, 0], [0, 1e-3], [-7, 0], [0, 0]], np.float32)
    distances = reference.distances(embeddings)
    np.testing.assert_allclose(distances, [0, 1, 2, 1], atol=1e-6)
    assert reference.unfamiliar(distances).tolist() == [False, True, True, True]


def test_an_image_at_the_threshold_is_familiar() -> None:
    reference = Reference(np.eye(2, dtype=np.float32), ["lung", "skin"], threshold=0.25, neighbours=2)
    assert reference.unfamiliar(np.array([0.25, 0.26], np.float32)).tolist() == [False, True]


def test_a_hundredth_of_the_validation_images_are_beyond_the_threshold() -> None:
    distances = np.random.default_rng(0).permutation(1000).astype(np.float32) / 1000
    record = reference_record(50, distances)
    assert record is not None
    assert (record.images, record.neighbours, record.validation_images) == (50, 5, 1000)
    assert np.count_nonzero(distances > record.threshold) == 10


def test_without_validation_images_there_is_no_threshold() -> None:
    assert reference_record(50, np.zeros(0, np.float32)) is None
    assert reference_record(0, np.zeros(3, np.float32)) is None


@pytest.mark.parametrize("count", [3, 19, 20, 40, 200])
def test_ordinary_images_are_seldom_called_unfamiliar_however_few_draw_the_line(count: int) -> None:
    random, called = np.random.default_rng(count), []
    for _ in range(400):
        record = reference_record(50, random.gamma(3, size=count).astype(np.float32))
        assert record is not None
        assert (record.threshold is None) == (count < 20)
        ordinary = random.gamma(3, size=100)
        called.append(0.0 if record.threshold is None else float(np.mean(ordinary > record.threshold)))
    assert np.mean(called) < 0.06


def write(folder: Path, embeddings: FloatArray, probabilities: FloatArray) -> None:
    rows = range(len(embeddings))
    labels = [CLASS_NAMES[row % 3] for row in rows]
    images = pa.table(
        {"image_id": [f"id-{row}" for row in rows], "path": [f"{row}.tif" for row in rows], "label": labels}
    )
    write_reference(images, CLASS_NAMES, probabilities, embeddings, Location(str(folder)))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    embeddings = unit_length(drawn(4, 6))
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.7, 0.1]], np.float32)
    write(tmp_path, embeddings, probabilities)
    record = reference_record(4, np.repeat([0.1, 0.2], 50).astype(np.float32))
    found = Reference.read(Location(str(tmp_path)), record)
    assert found is not None
    np.testing.assert_array_equal(found.embeddings, embeddings)
    assert found.labels == ["liver", "lung", "skin", "liver"]
    assert (found.threshold, found.neighbours) == (pytest.approx(0.2), 4)
    table = pq.read_table(tmp_path / "reference.parquet")
    assert table.schema == REFERENCE_SCHEMA
    assert table["predicted"].to_pylist() == ["liver", "lung", "skin", "lung"]
    assert table["confidence"].to_pylist() == pytest.approx([0.5, 0.8, 0.4, 0.7])


def test_a_model_that_has_none_has_none(tmp_path: Path) -> None:
    assert Reference.read(Location(str(tmp_path)), None) is None


# -- which images are taken


@given(counts=st.lists(st.integers(0, 300), min_size=1, max_size=12), most=st.integers(12, 500))
def test_quotas_are_as_even_as_the_classes_allow(counts: list[int], most: int) -> None:
    quotas = even_quotas(counts, most)
    assert all(quota <= count for quota, count in zip(quotas, counts, strict=True))
    assert sum(quotas) <= most
    cut = {quota for quota, count in zip(quotas, counts, strict=True) if quota < count}
    assert len(cut) <= 1  # all classes that are not taken whole have the same quota
    if cut:
        assert max(quotas) == min(cut)
        assert sum(quotas) > most - len(counts)
    else:
        assert quotas == counts


@pytest.mark.parametrize("unit", [1, 5, 100])
def test_of_each_class_the_first_images_are_taken_whatever_the_units(unit: int) -> None:
    source = FakeSource({"train": 90}, unit=unit)
    chosen = balanced_subset(source, "train", 20)
    assert chosen["position"].to_pylist() == list(range(18))
    assert chosen["image_id"].to_pylist() == [f"train-{position}" for position in range(18)]
    assert not source.decoded


def test_all_images_are_taken_if_there_are_not_too_many() -> None:
    assert balanced_subset(FakeSource({"train": 22}), "train", 10_000)["position"].to_pylist() == list(range(22))
