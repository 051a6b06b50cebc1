"""One worker's images in memory: filling in any order, padding, refused images, too little memory."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.dataset.memory import MEMORY_SHARE, ExampleCache, memory_for_images, refuse_too_many
from lib.dataset.sampler import PADDING, LaneOrder
from lib.dataset.source import DECODED_SCHEMA
from lib.errors import DataError

SIZE = 16
CLASSES = ["liver", "lung", "skin"]


def picture(position: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(position).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def decoded(*positions: int, refused: tuple[int, ...] = ()) -> pa.Table:
    rows = [
        {
            "position": position,
            "image_id": f"{position:016x}",
            "path": f"train/x/{position}.tif",
            "label": CLASSES[position % 3],
            "image": None if position in refused else picture(position).tobytes(),
            "reason": "truncated" if position in refused else None,
            "detail": "ends at 7" if position in refused else None,
        }
        for position in positions
    ]
    return pa.Table.from_pylist(rows, schema=DECODED_SCHEMA)


def filled(positions: range, *tables: pa.Table) -> ExampleCache:
    cache = ExampleCache.empty(positions, SIZE)
    cache.fill(iter(tables), CLASSES)
    return cache


def test_a_batch_has_the_images_and_labels_of_its_positions_however_they_arrived() -> None:
    cache = filled(range(10, 16), decoded(13, 15), decoded(), decoded(14, 10, 12, 11))
    images, labels = cache.batch(np.array([15, 10, 13]))
    np.testing.assert_array_equal(images, np.stack([picture(15), picture(10), picture(13)]))
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    assert labels.tolist() == [15 % 3, 10 % 3, 13 % 3]


def test_padding_is_marked_in_the_labels_of_a_batch() -> None:
    cache = filled(range(10, 12), decoded(10, 11))
    images, labels = cache.batch(np.array([11, PADDING, PADDING]))
    assert images.shape == (3, SIZE, SIZE, 3)
    np.testing.assert_array_equal(images[0], picture(11))
    assert labels.tolist() == [11 % 3, PADDING, PADDING]


def test_a_refused_image_keeps_its_place_has_no_class_and_is_remembered() -> None:
    cache = filled(range(5, 9), decoded(5, 6, 7, 8, refused=(6,)))
    images, labels = cache.batch(np.array([5, 6, 7, 8]))
    assert labels.tolist() == [2, PADDING, 1, 2]
    np.testing.assert_array_equal(images[2:], np.stack([picture(7), picture(8)]))
    assert [(image.position, image.reason, image.detail) for image in cache.refused] == [(6, "truncated", "ends at 7")]


def test_an_image_that_never_arrived_has_no_class() -> None:
    assert filled(range(3), decoded(0, 2)).batch(np.arange(3))[1].tolist() == [0, PADDING, 2]


def test_a_worker_without_images_still_takes_part_in_every_step() -> None:
    order = LaneOrder(count=1, batch_size=4, rank=0, world_size=4)
    assert len(order.positions) == 0
    cache = filled(order.positions)
    for places in order.epoch(0):
        images, labels = cache.batch(places)
        assert images.shape == (1, SIZE, SIZE, 3)
        assert labels.tolist() == [PADDING]


def test_over_an_epoch_every_image_comes_once() -> None:
    order = LaneOrder(count=11, batch_size=4, seed=3)
    cache = filled(order.positions, decoded(*range(11)))
    batches = list(cache.batches(order.epoch(0)))
    labels = np.concatenate([labels for _, labels in batches])
    assert np.bincount(labels[labels != PADDING]).tolist() == [4, 4, 3]
    images = np.concatenate([images for images, _ in batches])[labels != PADDING]
    assert {image.tobytes() for image in images} == {picture(position).tobytes() for position in range(11)}


def test_more_images_than_memory_are_refused_with_what_to_do() -> None:
    ten_images = 10 * SIZE * SIZE * 3
    refuse_too_many(10, SIZE, ten_images)
    with pytest.raises(DataError, match=r"11 images of 16 px .*--cache none.*--num-workers.*--image-size"):
        refuse_too_many(11, SIZE, ten_images)


def test_the_workers_of_a_machine_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.dataset.memory.free_memory", lambda: 1000)
    assert [memory_for_images(workers) for workers in (1, 4)] == [1000 * MEMORY_SHARE, 250 * MEMORY_SHARE]
