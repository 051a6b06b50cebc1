"""Hashes stay when an image changes little, and pairs are found exactly, whichever way an image was turned."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.evaluation.checks.descriptors import colour_histogram, perceptual_hashes
from lib.evaluation.checks.hash_index import HashIndex, different_bits, near_pairs
from lib.evaluation.checks.near_duplicates import (
    NearDuplicates,
    chance_limit,
    nearest_training_images,
    proposed_duplicates,
)
from lib.folders.checks import DESCRIPTOR_SCHEMA, NEAR_DUPLICATE_SCHEMA
from lib.ingest.image import decode_jpeg, encode_jpeg, resize_image
from tests.fakes.textures import CHANGES, Image, textured_image

SEEDS = st.integers(0, 2**32 - 1)


def hashes_of(image: Image) -> npt.NDArray[np.uint64]:
    hashes = perceptual_hashes(image)
    assert hashes is not None
    return hashes


def bits_between(one: Image, other: Image) -> int:
    return int(different_bits(hashes_of(one)[:1], hashes_of(other)[:1])[0])


@given(seed=SEEDS, quality=st.integers(30, 100))
def test_compression_changes_few_bits(seed: int, quality: int) -> None:
    image = textured_image(seed)
    assert bits_between(image, decode_jpeg(encode_jpeg(image, quality))) <= 8


@given(seed=SEEDS, size=st.integers(48, 200))
def test_another_size_changes_few_bits(seed: int, size: int) -> None:
    image = textured_image(seed)
    assert bits_between(image, resize_image(image, size)) <= 8


@given(seed=SEEDS, factor=st.floats(0.8, 1.1))
def test_another_brightness_changes_few_bits(seed: int, factor: float) -> None:
    image = textured_image(seed)
    assert bits_between(image, np.clip(image * factor, 0, 255).astype(np.uint8)) <= 8


@given(seed=st.integers(0, 10_000))
def test_other_images_have_other_hashes_in_all_their_views(seed: int) -> None:
    one, other = hashes_of(textured_image(seed)), hashes_of(textured_image(seed + 10_001))
    assert different_bits(one, other[:1]).min() > 8


@given(seed=SEEDS, turns=st.integers(0, 3), mirrored=st.booleans())
def test_one_of_the_views_has_the_hash_of_a_turned_or_mirrored_copy(seed: int, turns: int, mirrored: bool) -> None:
    image = textured_image(seed)
    copy = np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns))
    assert different_bits(hashes_of(image), hashes_of(copy)[:1]).min() <= 2


def test_the_views_are_eight_different_ones() -> None:
    assert len(set(hashes_of(textured_image(1)).tolist())) == 8


def test_each_of_the_63_bits_tells_something_and_31_are_set() -> None:
    hashes = np.concatenate([hashes_of(textured_image(seed)) for seed in range(30)])
    assert set(np.bitwise_count(hashes).tolist()) == {31}
    assert int(np.bitwise_or.reduce(hashes)) == (1 << 63) - 1
    assert int(np.bitwise_and.reduce(hashes)) == 0


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_of_one_colour_has_no_hash(level: int) -> None:
    noise = np.random.default_rng(0).integers(-2, 3, (96, 96, 3))
    assert perceptual_hashes(np.clip(level + noise, 0, 255).astype(np.uint8)) is None


def test_a_histogram_counts_the_levels_of_each_channel() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = (255, 8, 7)
    histogram = colour_histogram(image).reshape(3, 32)
    expected = np.zeros((3, 32))
    expected[0, [0, 31]], expected[1, [0, 1]], expected[2, 0] = (3, 1), (3, 1), 4
    np.testing.assert_allclose(histogram, expected / 12, rtol=1e-6)


def similar_hashes(seed: int, count: int, other_count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Hashes of which many are near others, at all distances from 0 to about 20 bits."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**64, 3, dtype=np.uint64)

    def near(number: int) -> npt.NDArray[np.uint64]:
        bits = random.random((number, 64)) < random.uniform(0, 0.2, (number, 1))
        return np.asarray(random.choice(centres, number) ^ np.packbits(bits, axis=1).view(np.uint64)[:, 0], np.uint64)

    return near(count), near(other_count)


@given(seed=SEEDS, limit=st.integers(0, 15), count=st.integers(0, 40), other_count=st.integers(0, 60))
def test_the_index_finds_just_the_pairs_that_comparing_all_finds(
    seed: int, limit: int, count: int, other_count: int
) -> None:
    queries, hashes = similar_hashes(seed, count, other_count)
    one, other, bits = HashIndex(hashes, limit).find(queries)
    every = different_bits(queries[:, None], hashes)
    assert set(zip(one.tolist(), other.tolist(), strict=True)) == set(
        zip(*map(list, np.nonzero(every <= limit)), strict=True)
    )
    np.testing.assert_array_equal(bits, every[one, other])


def test_queries_with_too_many_candidates_are_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, hashes = similar_hashes(7, 50, 300)
    whole = HashIndex(hashes, 8).find(queries)
    monkeypatch.setattr("lib.evaluation.checks.hash_index.MOST_CANDIDATES", 100)
    parts = HashIndex(hashes, 8).find(queries)
    np.testing.assert_array_equal(np.array(whole), np.array(parts))


@given(seed=SEEDS, limit=st.integers(0, 12), most=st.integers(1, 5))
def test_of_each_image_the_closest_others_are_kept_once_over_all_views(seed: int, limit: int, most: int) -> None:
    flat, hashes = similar_hashes(seed, 8 * 9, 50)
    views = flat.reshape(9, 8)
    bits = different_bits(views[:, :, None], hashes).min(axis=1)
    expected = []
    for image, row in enumerate(bits):
        closest = sorted((distance, other) for other, distance in enumerate(row.tolist()) if distance <= limit)
        expected += [(image, other, distance) for distance, other in closest[:most]]
    found = near_pairs(views, hashes, limit, most)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected


def test_images_of_later_blocks_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    flat, hashes = similar_hashes(3, 8 * 10, 40)
    whole = near_pairs(flat.reshape(10, 8), hashes, 8, 10)
    monkeypatch.setattr("lib.evaluation.checks.hash_index.IMAGES_AT_ONCE", 3)
    np.testing.assert_array_equal(np.array(near_pairs(flat.reshape(10, 8), hashes, 8, 10)), np.array(whole))


def test_the_limit_is_stricter_the_more_is_compared() -> None:
    # C(31, j) C(32, j) summed to j = 5 over C(63, 31) is 3.84e-8, so 2.6e7 comparisons give one pair by chance.
    assert [chance_limit(10**power) for power in (0, 7, 8, 9, 11, 30)] == [10, 10, 8, 6, 4, 2]


def described(images: dict[str, tuple[str, Image]]) -> pa.Table:
    """Descriptors by `image_id`, of a split and an image each."""
    rows = []
    for image_id, (split, image) in images.items():
        hashes = perceptual_hashes(image)
        rows.append({
            "image_id": image_id, "path": f"{split}/{image_id}.tif", "split": split, "label": image_id[:4],
            "perceptual_hash": None if hashes is None else hashes[0], "view_hashes": hashes,
            "histogram": colour_histogram(image),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=DESCRIPTOR_SCHEMA)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("split", "other"), [("test", "train"), ("test", "validation"), ("validation", "train")])
def test_a_changed_copy_in_another_split_is_found(change: str, split: str, other: str) -> None:
    splits = ("train", "validation", "test")
    images = {f"image{n}": (splits[n % 3], textured_image(n)) for n in range(30)}
    images |= {"original": (other, textured_image(99)), "copy": (split, CHANGES[change](textured_image(99)))}
    found = NearDuplicates.among(described(images))
    assert found.most_different_bits == 10
    (pair,) = found.pairs.to_pylist()
    assert pair.pop("hamming") <= 10
    assert pair == {
        "image_id": "copy", "path": f"{split}/copy.tif", "label": "copy", "split": split,
        "other_image_id": "original", "other_path": f"{other}/original.tif", "other_label": "orig",
        "other_split": other,
    }  # fmt: skip


def test_copies_within_a_split_and_blank_images_are_no_pairs() -> None:
    blank = np.full((96, 96, 3), 240, np.uint8)
    images = {"one1": ("train", textured_image(1)), "one2": ("train", textured_image(1)), "two": ("test", blank),
              "three": ("train", blank)}  # fmt: skip
    assert NearDuplicates.among(described(images)).pairs.equals(NEAR_DUPLICATE_SCHEMA.empty_table())


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_a_model_proposes_copies_that_differ_too_much_for_a_search_of_all() -> None:
    random = np.random.default_rng(5)
    images = [textured_image(seed) for seed in range(40)]
    reference = unit(random.normal(size=(40, 16)))
    cropped = [np.ascontiguousarray(image[6:-6, 6:-6]) for image in images[:10]]
    views, hashes = (np.stack([hashes_of(image) for image in group]) for group in (cropped, images))
    embeddings = unit(reference[:10] + 0.01 * random.normal(size=(10, 16)))
    one, other, bits = nearest_training_images(embeddings, views, reference, hashes[:, 0])
    np.testing.assert_array_equal(one, other)
    assert bits.max() > 10
    assert len(one) >= 5
    far, _, _ = nearest_training_images(-embeddings, views, reference, hashes[:, 0])
    assert not len(far)


def test_proposals_name_images_of_the_data_set_that_have_structure() -> None:
    blank = np.full((96, 96, 3), 240, np.uint8)
    images = {"original": ("train", textured_image(1)), "blank": ("train", blank), "white": ("test", blank),
              "copy": ("test", CHANGES["turned"](textured_image(1)))}  # fmt: skip
    alike = unit(np.ones((3, 4)))
    found = proposed_duplicates(
        described(images), ["copy", "white", "gone"], alike, ["elsewhere", "blank", "original"], alike
    )
    assert [(row["image_id"], row["other_image_id"]) for row in found.to_pylist()] == [("copy", "original")]
    nothing = proposed_duplicates(described(images), ["white"], alike[:1], ["original"], alike[:1])
    assert nothing.equals(NEAR_DUPLICATE_SCHEMA.empty_table())
