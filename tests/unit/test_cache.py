"""One worker's images in memory: filling in any order, padding, refused images, too little memory."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.dataset.cache import MEMORY_SHARE, ImageCache
from lib.dataset.order import PADDING, LaneOrder
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


def filled(positions: range, *tables: pa.Table) -> ImageCache:
    cache = ImageCache.empty(positions, SIZE)
    cache.fill(iter(tables), CLASSES)
    return cache


def test_a_batch_has_the_images_and_labels_of_its_positions_however_they_arrived() -> None:
    cache = filled(range(10, 16), decoded(13, 15), decoded(), decoded(14, 10, 12, 11))
    images, labels, weights = cache.batch(np.array([15, 10, 13]))
    np.testing.assert_array_equal(images, np.stack([picture(15), picture(10), picture(13)]))
    assert (images.dtype, labels.dtype, weights.dtype) == (np.uint8, np.int32, np.float32)
    assert labels.tolist() == [15 % 3, 10 % 3, 13 % 3]
    assert weights.tolist() == [1, 1, 1]


def test_padding_weighs_nothing_and_has_a_label_that_exists() -> None:
    cache = filled(range(10, 12), decoded(10, 11))
    images, labels, weights = cache.batch(np.array([11, PADDING, PADDING]))
    assert images.shape == (3, SIZE, SIZE, 3)
    np.testing.assert_array_equal(images[0], picture(11))
    assert weights.tolist() == [1, 0, 0]
    assert (labels >= 0).all()


def test_a_refused_image_keeps_its_place_weighs_nothing_and_is_remembered() -> None:
    cache = filled(range(5, 9), decoded(5, 6, 7, 8, refused=(6,)))
    images, labels, weights = cache.batch(np.array([5, 6, 7, 8]))
    assert weights.tolist() == [1, 0, 1, 1]
    assert labels.tolist() == [2, 0, 1, 2]
    np.testing.assert_array_equal(images[2:], np.stack([picture(7), picture(8)]))
    assert [(row["position"], row["reason"], row["detail"]) for row in cache.refused] == [(6, "truncated", "ends at 7")]


def test_an_image_that_never_arrived_weighs_nothing() -> None:
    assert filled(range(3), decoded(0, 2)).batch(np.arange(3))[2].tolist() == [1, 0, 1]


def test_a_worker_without_images_still_takes_part_in_every_step() -> None:
    order = LaneOrder(count=1, batch_size=4, rank=0, world_size=4)
    assert len(order.positions) == 0
    cache = filled(order.positions)
    for places in order.epoch(0):
        images, labels, weights = cache.batch(places)
        assert images.shape == (1, SIZE, SIZE, 3)
        assert (labels.tolist(), weights.tolist()) == ([0], [0])


def test_over_an_epoch_every_image_weighs_one() -> None:
    order = LaneOrder(count=11, batch_size=4, seed=3)
    cache = filled(order.positions, decoded(*range(11)))
    batches = [cache.batch(places) for places in order.epoch(0)]
    assert sum(weights.sum() for _, _, weights in batches) == 11
    counted = np.bincount(np.concatenate([labels[weights > 0] for _, labels, weights in batches]))
    assert counted.tolist() == [4, 4, 3]


def test_more_images_than_memory_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    ten_images = 10 * SIZE * SIZE * 3
    free = SimpleNamespace(available=ten_images / MEMORY_SHARE + 1)
    monkeypatch.setattr("lib.dataset.cache.psutil.virtual_memory", lambda: free)
    assert ImageCache.empty(range(90, 100), SIZE).images.shape == (10, SIZE, SIZE, 3)
    with pytest.raises(DataError, match=r"11 images of 16 px .*--num-workers.*--image-size"):
        ImageCache.empty(range(90, 101), SIZE)
