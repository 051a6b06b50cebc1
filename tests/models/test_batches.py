"""How batches reach `fit`: in their order, weighed, read ahead; errors, waiting and unfinished epochs."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lib.dataset.memory import Examples, Positions
from lib.dataset.sampler import PADDING, LaneOrder
from lib.errors import StorageError
from lib.models.augmentation import DRAWS, draw
from lib.training.fit.batches import Batches, read_ahead
from tests.fakes.jobs import wait_for

EXAMPLE = ((1,), np.int64)
EQUAL = np.ones(3, np.float32)


def read(positions: Positions, epoch: int) -> Iterator[Examples]:
    """Examples that tell position and epoch; the class is the position modulo 3, and 5 was refused."""
    for row in positions:
        labels = np.where((row == PADDING) | (row == 5), PADDING, row % 3).astype(np.int32)
        yield (100 * epoch + row)[:, None], labels


def served(batches: Batches) -> list[tuple[np.ndarray, ...]]:
    return list(batches.dataset(*EXAMPLE).as_numpy_iterator())


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_an_epoch_is_served_in_the_order_of_its_positions() -> None:
    order = LaneOrder(11, 4, seed=1)
    batches = Batches(read, order, EQUAL)
    for batches.epoch in (0, 2):
        examples = np.stack([batch[0][:, 0] for batch in served(batches)])
        np.testing.assert_array_equal(examples, 100 * batches.epoch + order.epoch(batches.epoch))


def test_the_rest_of_an_epoch_is_its_end() -> None:
    batches = Batches(read, LaneOrder(22, 4, seed=1), EQUAL, draw_seed=3)
    whole = served(batches)
    batches.first_step = 4
    assert batches.dataset(*EXAMPLE).cardinality() == 2
    for found, expected in zip(served(batches), whole[4:], strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_image_weighs_what_its_class_does_and_padding_and_refused_images_nothing() -> None:
    weights_by_class = np.array([0.5, 2, 3], np.float32)
    for examples, labels, weights in served(Batches(read, LaneOrder(11, 4), weights_by_class)):
        for (example,), label, weight in zip(examples, labels, weights, strict=True):
            is_there = example not in {PADDING, 5}
            assert weight == (weights_by_class[example % 3] if is_there else 0)
            assert label == (example % 3 if is_there else 0)  # a class that exists, also where there is no image


def test_places_may_be_drawn_instead_of_taken_in_order() -> None:
    batches = Batches(read, LaneOrder(6, 2), EQUAL, positions=lambda epoch: np.full((3, 2), epoch))
    batches.epoch = 1
    assert {int(example) for batch in served(batches) for example in batch[0][:, 0]} == {101}


@pytest.mark.parametrize("world_size", [2, 3])
def test_an_image_has_the_same_draws_on_any_number_of_workers(world_size: int) -> None:
    def draws(rank: int, world_size: int) -> np.ndarray:
        batches = Batches(read, LaneOrder(22, 6, rank, world_size, seed=1), EQUAL, draw_seed=9)
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

    slow, fast = Batches(slowly, LaneOrder(20, 4), EQUAL), Batches(read, LaneOrder(20, 4), EQUAL)
    served(slow)
    assert slow.waited_s > 0.8
    for _ in fast.dataset(*EXAMPLE):
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

    batches = Batches(failing, LaneOrder(20, 4), EQUAL)
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
    batches = Batches(lambda *_: endless(), LaneOrder(4000, 4), EQUAL)
    iterator = iter(batches.dataset(*EXAMPLE))
    next(iterator)


def leave_by_an_error() -> None:
    batches = Batches(lambda *_: endless(), LaneOrder(4000, 4), EQUAL)
    with pytest.raises(ZeroDivisionError):
        max(batches.dataset(*EXAMPLE), key=lambda _: 1 / 0)


@pytest.mark.parametrize("leave", [leave_the_generator, leave_the_dataset, leave_by_an_error])
def test_an_epoch_that_is_left_early_ends_its_thread(leave: Callable[[], None]) -> None:
    leave()
    wait_for(lambda: not readers(), "no thread reads ahead")
