"""How batches reach `fit`: in their order, weighed, read ahead; errors, waiting and unfinished epochs."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lib.dataset.memory import ALIGNMENT_BYTES, ExampleCache, Examples, Positions, aligned_zeros
from lib.dataset.sampler import PADDING, LaneOrder
from lib.errors import StorageError
from lib.models.augmentation import COLUMNS, DRAWS, Augmentation, draw
from lib.training.fit import batches as batches_module
from lib.training.fit.batches import HOST, Batches, Draws, as_tensor, read_ahead
from lib.training.fit.loader import SplitExamples
from tests.fakes.jobs import wait_for

EXAMPLE = ((1,), np.int64)
EQUAL = np.ones(3, np.float32)


def read(positions: Positions, epoch: int) -> Iterator[Examples]:
    """Examples that tell position and epoch; the class is the position modulo 3, and 5 was refused."""
    for row in positions:
        labels = np.where((row == PADDING) | (row == 5), PADDING, row % 3).astype(np.int32)
        yield (100 * epoch + row)[:, None], labels


def streamed(order: LaneOrder, read: Callable[[Positions, int], Iterator[Examples]] = read) -> SplitExamples:
    return SplitExamples(order, read, EXAMPLE)


def in_memory(order: LaneOrder, variants: int = 1) -> SplitExamples:
    """The examples of `read` for the positions of a worker, of which each variant is that of an epoch."""
    caches = []
    for variant in range(variants):
        cache = ExampleCache(order.positions, aligned_zeros((len(order.positions), 1), np.int64), np.zeros(0, np.int32))
        if len(order.positions):
            ((cache.examples[:], cache.labels),) = read(np.array([order.positions]), variant)
        caches.append(cache)
    return SplitExamples(order, unread, EXAMPLE, caches)


def unread(positions: Positions, epoch: int) -> Iterator[Examples]:
    raise AssertionError("examples in memory are taken by TensorFlow")


def served(batches: Batches) -> list[tuple[np.ndarray, ...]]:
    return list(batches.dataset().as_numpy_iterator())


PLACES = pytest.mark.parametrize("examples", [streamed, in_memory])


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_an_epoch_is_served_in_the_order_of_its_positions() -> None:
    order = LaneOrder(11, 4, seed=1)
    batches = Batches(streamed(order), EQUAL)
    for batches.epoch in (0, 2):
        found = np.stack([batch[0][:, 0] for batch in served(batches)])
        np.testing.assert_array_equal(found, 100 * batches.epoch + order.epoch(batches.epoch))


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3)])
def test_examples_in_memory_come_as_those_that_are_read(
    monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int
) -> None:
    monkeypatch.setattr(batches_module, "PLACES_AT_ONCE", 4)  # so that an epoch takes many turns
    order = LaneOrder(22, 6, rank, world_size, seed=1)
    taken, read = (Batches(examples, EQUAL, draws=Draws(3)) for examples in (in_memory(order, 3), streamed(order)))
    for epoch, first_step in ((0, 0), (2, 0), (1, 3)):
        for batches in (taken, read):
            batches.epoch, batches.first_step = epoch, first_step
        assert taken.dataset().element_spec == read.dataset().element_spec
        for found, expected in zip(served(taken), served(read), strict=True):
            is_there = expected[2] > 0
            np.testing.assert_array_equal(found[0][is_there], expected[0][is_there])
            for one, other in zip(found[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(one, other)


def test_epochs_that_follow_each_other_are_read_from_one_data_set_each_in_its_order() -> None:
    order = LaneOrder(11, 4, seed=1)
    batches = Batches(in_memory(order), EQUAL)
    dataset = batches.dataset()
    for batches.epoch in (0, 1):
        found = np.stack([batch[0].numpy()[:, 0] for batch in dataset])
        expected = order.epoch(batches.epoch)
        np.testing.assert_array_equal(found[expected != PADDING], expected[expected != PADDING])


def test_a_worker_without_examples_has_padding_in_every_step() -> None:
    order = LaneOrder(1, 4, rank=0, world_size=4)
    assert not order.positions
    ((found, labels, weights),) = served(Batches(in_memory(order), EQUAL))
    assert (found.tolist(), labels.tolist(), weights.tolist()) == ([[0]], [0], [0])


def test_examples_in_memory_are_not_copied_to_be_served() -> None:
    cache = in_memory(LaneOrder(9, 3)).caches[0]
    assert cache.examples.ctypes.data % ALIGNMENT_BYTES == 0
    tensor = as_tensor(cache)
    cache.examples[4] = 77
    assert tensor[4].numpy().tolist() == [77]
    elsewhere = np.zeros(99, np.int64)[1:]
    unaligned = ExampleCache(range(98), elsewhere[:, None], np.zeros(98, np.int32))
    assert as_tensor(unaligned).shape == (98, 1)


def test_images_are_changed_before_they_are_served_each_as_drawn_for_it() -> None:
    images = np.random.default_rng(0).integers(0, 256, (22, 8, 8, 3), dtype=np.uint8)
    order = LaneOrder(22, 4, seed=1)
    cache, change = ExampleCache(range(22), images, np.zeros(22, np.int32)), Augmentation(tuple(COLUMNS))
    examples = SplitExamples(order, unread, ((8, 8, 3), np.uint8), [cache])
    kept, served_too = (served(Batches(examples, EQUAL, draws=Draws(5, change, told))) for told in (False, True))
    for step, (row, batch) in enumerate(zip(order.epoch(0), served_too, strict=True)):
        draws = draw(5, 0, 4 * step + np.arange(4))
        np.testing.assert_array_equal(batch[3], draws)
        np.testing.assert_array_equal(batch[0], change(images[np.maximum(row, 0)], draws))
        np.testing.assert_array_equal(kept[step][0], batch[0])
        assert len(kept[step]) == 3


def test_batches_are_handed_to_a_device_with_how_many_there_are() -> None:
    order = LaneOrder(22, 4, seed=1)
    here, there = (Batches(in_memory(order), EQUAL, device=device) for device in (None, HOST))
    for batches in (here, there):
        batches.first_step = 2
    assert int(there.dataset().cardinality()) == 4
    for found, expected in zip(served(there), served(here), strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert all(tensor.device.endswith("CPU:0") for batch in there.dataset() for tensor in batch)


@PLACES
def test_the_rest_of_an_epoch_is_its_end(examples: Callable[[LaneOrder], SplitExamples]) -> None:
    batches = Batches(examples(LaneOrder(22, 4, seed=1)), EQUAL, draws=Draws(3))
    whole = served(batches)
    batches.first_step = 4
    assert batches.dataset().cardinality() == 2
    for found, expected in zip(served(batches), whole[4:], strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@PLACES
def test_an_image_weighs_what_its_class_does_and_padding_and_refused_images_nothing(
    examples: Callable[[LaneOrder], SplitExamples],
) -> None:
    weights_by_class, order = np.array([0.5, 2, 3], np.float32), LaneOrder(11, 4)
    for row, (_, labels, weights) in zip(
        order.epoch(0), served(Batches(examples(order), weights_by_class)), strict=True
    ):
        for position, label, weight in zip(row, labels, weights, strict=True):
            is_there = position not in {PADDING, 5}
            assert weight == (weights_by_class[position % 3] if is_there else 0)
            assert label == (position % 3 if is_there else 0)  # a class that exists, also where there is no image


def test_places_may_be_drawn_instead_of_taken_in_order() -> None:
    batches = Batches(streamed(LaneOrder(6, 2)), EQUAL, positions=lambda epoch: np.full((3, 2), epoch))
    batches.epoch = 1
    assert {int(example) for batch in served(batches) for example in batch[0][:, 0]} == {101}


@PLACES
@pytest.mark.parametrize("world_size", [2, 3])
def test_an_image_has_the_same_draws_on_any_number_of_workers(
    examples: Callable[[LaneOrder], SplitExamples], world_size: int
) -> None:
    def draws(rank: int, world_size: int) -> np.ndarray:
        batches = Batches(examples(LaneOrder(22, 6, rank, world_size, seed=1)), EQUAL, draws=Draws(9))
        batches.epoch = 3
        return np.stack([batch[3] for batch in served(batches)])

    alone = draws(0, 1)
    np.testing.assert_array_equal(np.concatenate([draws(rank, world_size) for rank in range(world_size)], 1), alone)
    np.testing.assert_array_equal(alone[1, 2], draw(9, 3, np.array([1 * 6 + 2]))[0])
    assert len({image.tobytes() for image in alone.reshape(-1, DRAWS)}) == 24  # no two of an epoch are the same


def test_waiting_for_a_slow_reader_is_measured_and_for_a_fast_one_is_not() -> None:
    def slowly(positions: Positions, epoch: int) -> Iterator[Examples]:
        for batch in read(positions, epoch):
            time.sleep(0.2)
            yield batch

    slow, fast = Batches(streamed(LaneOrder(20, 4), slowly), EQUAL), Batches(streamed(LaneOrder(20, 4)), EQUAL)
    served(slow)
    assert slow.waited_s > 0.8
    for _ in fast.dataset():
        time.sleep(0.05)
    assert fast.waited_s < slow.waited_s / 2


def test_a_slow_reader_works_while_a_step_does() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    ahead = read_ahead(numbers())
    assert next(ahead) == 0
    wait_for(lambda: len(taken) >= 3, "two more are ready")
    assert len(taken) <= 5  # not all of them: they need memory
    ahead.close()


def test_what_goes_wrong_while_reading_comes_out_as_itself() -> None:
    def failing(positions: Positions, epoch: int) -> Iterator[Examples]:
        yield from read(positions[:2], epoch)
        raise StorageError("gs://lab/part-7 is gone")

    batches = Batches(streamed(LaneOrder(20, 4), failing), EQUAL)
    with pytest.raises(Exception, match=r"gs://lab/part-7 is gone"):
        served(batches)
    assert isinstance(batches.error, StorageError)
    ahead = read_ahead(failing(LaneOrder(20, 4).epoch(0), 0))
    with pytest.raises(StorageError, match=r"gs://lab/part-7 is gone"):
        list(ahead)


def endless() -> Iterator[Examples]:
    while True:
        yield np.zeros((4, 1), np.int64), np.zeros(4, np.int32)


def leave_the_generator() -> None:
    ahead = read_ahead(endless())
    next(ahead)
    ahead.close()


def leave_the_dataset() -> None:
    batches = Batches(streamed(LaneOrder(4000, 4), lambda *_: endless()), EQUAL)
    iterator = iter(batches.dataset())
    next(iterator)


def leave_by_an_error() -> None:
    batches = Batches(streamed(LaneOrder(4000, 4), lambda *_: endless()), EQUAL)
    with pytest.raises(ZeroDivisionError):
        max(batches.dataset(), key=lambda _: 1 / 0)


@pytest.mark.parametrize("leave", [leave_the_generator, leave_the_dataset, leave_by_an_error])
def test_an_epoch_that_is_left_early_ends_its_thread(leave: Callable[[], None]) -> None:
    leave()
    wait_for(lambda: not readers(), "no thread reads ahead")
