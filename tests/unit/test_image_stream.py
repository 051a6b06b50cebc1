"""Images streamed anew in each epoch: the same batches as from memory, and little held at once."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.dataset import stream as stream_module
from lib.dataset.memory import ExampleCache
from lib.dataset.sampler import CHUNK, PADDING, LaneOrder
from lib.dataset.source import DatasetInfo, RefusedImage, Units, image_array
from lib.dataset.stream import ImageStream, WaitingImages
from tests.fakes.images import DatasetHere, FakeSource, decode_without_ray

Told = list[RefusedImage]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_without_ray(monkeypatch)


def stream(source: FakeSource, order: LaneOrder, told: Told | None = None) -> ImageStream:
    units, info = Units(source.units("train")), DatasetInfo.of(source, ["train"])
    return ImageStream(units, info, order, lambda refused, _: (told if told is not None else []).extend(refused))


def cached(source: FakeSource, order: LaneOrder) -> ExampleCache:
    cache = ExampleCache.empty(order.positions, source.image_size)
    units = Units(source.units("train")).between(order.positions.start, order.positions.stop)
    cache.fill(map(source.decoder, units), source.class_names)
    return cache


@pytest.mark.parametrize("first_step", [0, 1, 30, 46])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3)])
def test_a_stream_gives_the_batches_of_a_cache_from_any_step(rank: int, world_size: int, first_step: int) -> None:
    source = FakeSource({"train": 280}, refused=frozenset({3, 100, 101, 279}), image_size=4)
    order = LaneOrder(280, 6, rank, world_size, seed=1)
    rows = order.epoch(2)[first_step:]
    batches = list(stream(source, order).batches(rows, 2))
    assert len(batches) == len(rows) == 47 - first_step
    for (images, labels), (expected, expected_labels) in zip(batches, cached(source, order).batches(rows), strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images[labels != PADDING], expected[labels != PADDING])


def test_a_worker_without_images_streams_padding() -> None:
    order = LaneOrder(1, 4, rank=0, world_size=4)
    ((images, labels),) = stream(FakeSource({"train": 1}), order).batches(order.epoch(0), 0)
    assert (images.shape, labels.tolist()) == ((1, 16, 16, 3), [PADDING])


def test_each_refused_image_is_told_once_an_epoch() -> None:
    source, order = FakeSource({"train": 90}, refused=frozenset({7, 50}), image_size=4), LaneOrder(90, 4)
    told: Told = []
    for epoch in range(2):
        list(stream(source, order, told).batches(order.epoch(epoch), epoch))
    assert sorted((image.position, image.reason) for image in told) == [(7, "truncated")] * 2 + [(50, "truncated")] * 2


def test_a_stream_decodes_each_image_once_and_holds_a_chunk_of_each_lane_at_most() -> None:
    source, order = FakeSource({"train": 1280}, image_size=2, unit=16), LaneOrder(1280, 4, seed=2)
    used, most_held = 0, 0
    for _, labels in stream(source, order).batches(order.epoch(1), 1):
        most_held = max(most_held, len(source.decoded) - used)
        used += len(labels)
    assert sorted(source.decoded) == list(range(1280))
    assert most_held <= (CHUNK + 1) * 4  # the images of the batch that is being served are let go only then


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many units each graph has, as it is planned; with at most three in one."""
    units: list[int] = []

    def counted(some: list[pa.Table], *more: Any) -> DatasetHere:
        units.append(len(some))
        return DatasetHere(some, *more)

    monkeypatch.setattr(stream_module, "PLANNED_UNITS", 3)
    monkeypatch.setattr(stream_module, "decoded_dataset", counted)
    return units


def test_an_epoch_is_planned_bit_by_bit_and_gives_the_same_batches(planned: list[int]) -> None:
    source, order = FakeSource({"train": 1280}, image_size=2, unit=16), LaneOrder(1280, 4, seed=2)
    rows = order.epoch(1)
    batches = stream(source, order).batches(rows, 1)
    found = [next(batches)]
    assert sum(planned) < 30  # of at least 80
    found.extend(batches)
    assert sum(planned) >= 80
    assert max(planned) == 3
    for (images, labels), (expected, expected_labels) in zip(found, cached(source, order).batches(rows), strict=True):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(images, expected)


def test_validation_is_planned_once_and_read_in_every_epoch(planned: list[int]) -> None:
    source, order = FakeSource({"train": 90}, image_size=4), LaneOrder(90, 4, shuffle=False)
    validation = stream(source, order)
    first, second = (list(validation.batches(order.epoch(epoch), epoch)) for epoch in range(2))
    assert sum(planned) == len(
        [unit for run in order.reading(0) for unit in validation.units.between(run.start, run.stop)]
    )
    for (images, labels), (again, labels_again) in zip(first, second, strict=True):
        np.testing.assert_array_equal(labels, labels_again)
        np.testing.assert_array_equal(images, again)
    assert sorted(source.decoded) == sorted([*range(90), *range(90)])


def test_the_rest_of_an_epoch_is_streamed_without_decoding_what_is_done() -> None:
    source, order = FakeSource({"train": 1280}, image_size=2, unit=16), LaneOrder(1280, 4, seed=2)
    list(stream(source, order).batches(order.epoch(1)[256:], 1))
    assert len(source.decoded) <= (64 + CHUNK) * 4


def test_places_of_used_images_are_taken_by_later_ones() -> None:
    source, waiting = FakeSource({"train": 64}, image_size=2, unit=8), WaitingImages(2)
    for unit in source.units("train"):
        positions, table = unit["position"].to_numpy(), source.decoder(unit)
        waiting.add(table, source.class_names, set(positions.tolist()))
        images, labels = waiting.take(positions[::-1])
        np.testing.assert_array_equal(images, image_array(table, 2)[::-1])
        assert labels.tolist() == [position % 3 for position in positions[::-1]]
    assert len(waiting._images) == 8
