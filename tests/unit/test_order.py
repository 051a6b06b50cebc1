"""The order of images: the same batches for any number of workers, every image once an epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dataset.order import PADDING, LaneOrder

SHARINGS = st.tuples(st.integers(0, 150), st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1)).map(
    lambda drawn: (drawn[0], max(drawn[1:3]), min(drawn[1:3]), drawn[3])
)


def ranks(count: int, batch_size: int, world_size: int, seed: int) -> list[LaneOrder]:
    return [LaneOrder(count, batch_size, rank, world_size, seed) for rank in range(world_size)]


@settings(deadline=None, max_examples=60)
@given(SHARINGS)
def test_batches_do_not_depend_on_the_number_of_workers(sharing: tuple[int, int, int, int]) -> None:
    count, batch_size, _, seed = sharing
    alone = LaneOrder(count, batch_size, seed=seed).epoch(3)
    together = np.concatenate([order.epoch(3) for order in ranks(*sharing)], axis=1)
    np.testing.assert_array_equal(together, alone)


@settings(deadline=None, max_examples=60)
@given(SHARINGS)
def test_every_position_comes_once_an_epoch(sharing: tuple[int, int, int, int]) -> None:
    seen = np.concatenate([order.epoch(1).ravel() for order in ranks(*sharing)])
    assert sorted(seen[seen != PADDING]) == list(range(sharing[0]))


@settings(deadline=None, max_examples=60)
@given(SHARINGS)
def test_all_workers_take_equally_many_steps_and_fill_every_batch_but_the_last(
    sharing: tuple[int, int, int, int],
) -> None:
    count, batch_size, _, _ = sharing
    orders = ranks(*sharing)
    assert {order.steps for order in orders} == {int(np.ceil(count / batch_size))}
    for order in orders:
        epoch = order.epoch(0)
        assert epoch.shape == (order.steps, len(order.lanes))
        assert (epoch[:-1] != PADDING).all()


@settings(deadline=None, max_examples=60)
@given(SHARINGS)
def test_the_positions_of_the_workers_follow_on_one_another(sharing: tuple[int, int, int, int]) -> None:
    orders = ranks(*sharing)
    assert [p for order in orders for p in order.positions] == list(range(sharing[0]))
    for order in orders:
        used = order.epoch(2)
        assert sorted(used[used != PADDING]) == list(order.positions)


@settings(deadline=None, max_examples=60)
@given(SHARINGS)
def test_workers_share_evenly(sharing: tuple[int, int, int, int]) -> None:
    orders = ranks(*sharing)
    lanes = [len(order.lanes) for order in orders]
    assert max(lanes) - min(lanes) <= 1
    assert min(lanes) >= 1


def test_training_is_shuffled_anew_every_epoch_and_by_every_seed() -> None:
    order = LaneOrder(200, 4, seed=1)
    epochs = [order.epoch(0), order.epoch(1), LaneOrder(200, 4, seed=2).epoch(0)]
    for one in range(3):
        for other in range(one):
            assert (epochs[one] != epochs[other]).mean() > 0.8
    np.testing.assert_array_equal(order.epoch(1), LaneOrder(200, 4, seed=1).epoch(1))


def test_lanes_are_shuffled_differently() -> None:
    lanes = LaneOrder(400, 4).epoch(0) % 100
    assert (lanes[:, 0] != lanes[:, 1]).mean() > 0.8


def test_validation_keeps_its_order() -> None:
    order = LaneOrder(7, 3, shuffle=False)
    # Lanes start at 0, 7 * 1 // 3 = 2 and 7 * 2 // 3 = 4; two of them are one shorter than the third.
    expected = [[0, 2, 4], [1, 3, 5], [PADDING, PADDING, 6]]
    assert order.epoch(0).tolist() == order.epoch(5).tolist() == expected


def test_a_batch_smaller_than_the_number_of_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 3 cannot be shared by 4 workers"):
        LaneOrder(100, 3, world_size=4)
    LaneOrder(100, 4, world_size=4)
