"""The order of images: the same batches for any number of workers, every image once an epoch, each shard read once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dataset.sampler import CHUNK, PADDING, LaneOrder, balancing_weights

SHARINGS = st.tuples(st.integers(0, 150), st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1)).map(
    lambda drawn: (drawn[0], max(drawn[1:3]), min(drawn[1:3]), drawn[3])
)


LARGER = st.tuples(st.integers(0, 2500), st.integers(4, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
"""Lanes of many chunks."""


def ranks(count: int, batch_size: int, world_size: int, seed: int) -> list[LaneOrder]:
    """The orders of some workers; with an odd seed, the images are in shards of many sizes."""
    shards = shards_of(count, seed) if seed % 2 else ()
    return [LaneOrder(count, batch_size, rank, world_size, seed, shards=shards) for rank in range(world_size)]


def shards_of(count: int, seed: int, least: int = 1, most: int = 512) -> tuple[int, ...]:
    """Sizes of shards that lost some of their images when they were made."""
    sizes, generator = [], np.random.default_rng(seed)
    while sum(sizes) < count:
        sizes.append(min(int(generator.integers(least, most + 1)), count - sum(sizes)))
    return tuple(sizes)


@settings(max_examples=60)
@given(SHARINGS)
def test_batches_do_not_depend_on_the_number_of_workers(sharing: tuple[int, int, int, int]) -> None:
    count, batch_size, _, seed = sharing
    (alone,) = ranks(count, batch_size, 1, seed)
    together = np.concatenate([order.epoch(3) for order in ranks(*sharing)], axis=1)
    np.testing.assert_array_equal(together, alone.epoch(3))


@settings(max_examples=60)
@given(SHARINGS)
def test_every_position_comes_once_an_epoch(sharing: tuple[int, int, int, int]) -> None:
    seen = np.concatenate([order.epoch(1).ravel() for order in ranks(*sharing)])
    assert sorted(seen[seen != PADDING]) == list(range(sharing[0]))


@settings(max_examples=60)
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


@settings(max_examples=60)
@given(SHARINGS)
def test_the_positions_of_the_workers_follow_on_one_another(sharing: tuple[int, int, int, int]) -> None:
    orders = ranks(*sharing)
    assert [p for order in orders for p in order.positions] == list(range(sharing[0]))
    for order in orders:
        used = order.epoch(2)
        assert sorted(used[used != PADDING]) == list(order.positions)


@settings(max_examples=60)
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
    with pytest.raises(ValueError, match="a batch of 3 is too small for 4 workers"):
        LaneOrder(100, 3, world_size=4)
    LaneOrder(100, 4, world_size=4)


@settings(max_examples=40)
@given(LARGER)
def test_what_is_read_for_an_epoch_is_what_the_worker_has_and_each_position_once(
    sharing: tuple[int, int, int, int],
) -> None:
    for order in ranks(*sharing):
        assert sorted(position for run in order.reading(4) for position in run) == list(order.positions)


def most_held(order: LaneOrder, epoch: int) -> int:
    """Images that wait at once when runs are read one after the other, each as late as it is needed."""
    reading, waiting, most = iter(order.reading(epoch)), set[int](), 0
    for row in order.epoch(epoch).tolist():
        wanted = {position for position in row if position != PADDING}
        while not wanted <= waiting:
            waiting |= set(next(reading))
            most = max(most, len(waiting))
        waiting -= wanted
    return most


@settings(max_examples=40)
@given(LARGER)
def test_reading_ahead_holds_no_more_than_a_chunk_of_each_lane(sharing: tuple[int, int, int, int]) -> None:
    for order in ranks(*sharing):
        assert most_held(order, 2) <= CHUNK * len(order.lanes)


def test_validation_is_read_from_its_beginning_to_its_end_in_each_lane() -> None:
    # Lanes of 66 images in shards of 100 and 32: the first has chunks of 64 and 2, the second of 34 and 32.
    order = LaneOrder(132, 2, shuffle=False, shards=(100, 32))
    assert order.reading(0) == [range(64), range(66, 100), range(100, 132), range(64, 66)]


def images_read(order: LaneOrder, epoch: int) -> int:
    """Images in the row groups that an epoch reads, each counted as often as it is read."""
    groups = np.concatenate([[min(CHUNK, size - row) for row in range(0, size, CHUNK)] for size in order.shards])
    starts = np.cumsum(groups) - groups
    ends = [(run.start, run.stop - 1) for run in order.reading(epoch)]
    first, last = np.searchsorted(starts, np.array(ends).T, side="right") - 1
    return int(sum(groups[one : other + 1].sum() for one, other in zip(first, last, strict=True)))


@settings(max_examples=15)
@given(st.integers(1, 32), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_an_epoch_of_lanes_of_many_row_groups_reads_at_most_a_tenth_more_than_there_is(
    batch_size: int, workers: int, seed: int
) -> None:
    count, workers = 700 * batch_size, min(workers, batch_size)
    shards = shards_of(count, seed, least=400)
    orders = [LaneOrder(count, batch_size, rank, workers, seed, shards=shards) for rank in range(workers)]
    assert count <= sum(images_read(order, 1) for order in orders) <= 1.1 * count


@pytest.mark.parametrize(("batch_size", "most"), [(32, 1.004), (256, 1.02)])
def test_an_epoch_of_a_million_images_reads_each_shard_once(batch_size: int, most: float) -> None:
    order = LaneOrder(1_000_000, batch_size, seed=1, shards=shards_of(1_000_000, 1, least=500))
    assert images_read(order, 0) / order.count < most  # 9 where chunks are cut at no row groups


def test_short_lanes_that_lie_side_by_side_are_read_together() -> None:
    assert LaneOrder(CHUNK * 8, 8, seed=1, shards=(300, 212)).reading(0) == [range(CHUNK * 8)]


@pytest.fixture(scope="module")
def steps_by_epoch() -> np.ndarray:
    """The step that each of 32,000 images comes in, in six epochs; batches have 32."""
    order = LaneOrder(32_000, 32, seed=3, shards=shards_of(32_000, 3, least=480))
    steps = np.empty((6, 32_000), np.int64)
    for epoch, places in enumerate(steps):
        positions = order.epoch(epoch)
        places[positions] = np.arange(len(positions))[:, None]
    return steps


def test_when_an_image_comes_says_nothing_of_when_it_comes_in_the_next_epoch(steps_by_epoch: np.ndarray) -> None:
    # Images come in runs of a chunk: the deviation of such a number is 1 / sqrt(500 chunks) = 0.045.
    between = np.corrcoef(steps_by_epoch)[np.triu_indices(6, 1)]
    assert np.abs(between).max() < 0.15
    assert np.abs(between.mean()) < 0.04


def test_images_of_a_batch_meet_again_as_rarely_as_after_a_perfect_shuffle(steps_by_epoch: np.ndarray) -> None:
    pairs, again = 32_000 * 31 / 2, []
    for one, other in itertools.pairwise(steps_by_epoch):
        _, together = np.unique(one * 1000 + other, return_counts=True)
        again.append((together * (together - 1) / 2).sum())
    assert np.mean(again) == pytest.approx(pairs * 31 / 31_999, rel=0.1)  # 480 of 496,000 pairs


def unequal(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three classes, 6 : 3 : 1, and how many there are of each."""
    labels = np.random.default_rng(seed).choice(3, count, p=[0.6, 0.3, 0.1]).astype(np.int32)
    return labels, np.bincount(labels, minlength=3)


def balanced(order: LaneOrder, epoch: int, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    everywhere = LaneOrder(order.count, order.batch_size)
    chances = balancing_weights(everywhere.class_counts(labels, len(counts)))
    return order.balanced_epoch(epoch, labels[order.positions.start : order.positions.stop], chances)


def test_a_balanced_epoch_draws_each_class_as_often_as_any_other() -> None:
    labels, counts = unequal(12_000)
    drawn = labels[balanced(LaneOrder(12_000, 8, seed=3), 1, labels, counts)]
    # The deviation of such a share is 0.0043.
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / 12_000, [1 / 3] * 3, atol=0.02)


@pytest.mark.parametrize(("count", "rare"), [(300, 60), (1000, 92), (10_000, 191)])
def test_a_rare_class_is_drawn_as_often_as_a_common_one_however_short_lanes_are(count: int, rare: int) -> None:
    labels = np.zeros(count, np.int32)
    labels[np.random.default_rng(1).choice(count, rare, replace=False)] = 1
    counts = np.array([count - rare, rare])
    order = LaneOrder(count, 32, seed=3)
    drawn = np.concatenate([labels[balanced(order, epoch, labels, counts).ravel()] for epoch in range(20)])
    assert drawn[drawn != PADDING].mean() == pytest.approx(0.5, abs=0.03)


def test_a_balanced_epoch_draws_the_images_of_a_class_equally_often() -> None:
    labels, counts = unequal(80)
    order = LaneOrder(80, 1, seed=5)
    drawn = np.concatenate([balanced(order, epoch, labels, counts).ravel() for epoch in range(500)])
    shares = np.bincount(drawn, minlength=80) / len(drawn)
    np.testing.assert_allclose(shares, 1 / (3 * counts[labels]), rtol=0.25)


@settings(max_examples=40)
@given(SHARINGS)
def test_a_balanced_epoch_is_the_same_for_any_number_of_workers(sharing: tuple[int, int, int, int]) -> None:
    count, batch_size, _, seed = sharing
    labels, counts = unequal(count)
    labels[::5] = PADDING
    alone = balanced(LaneOrder(count, batch_size, seed=seed), 3, labels, counts)
    together = [balanced(order, 3, labels, counts) for order in ranks(*sharing)]
    np.testing.assert_array_equal(np.concatenate(together, axis=1), alone)
    for order, epoch in zip(ranks(*sharing), together, strict=True):
        assert set(epoch[epoch != PADDING].tolist()) <= set(order.positions)  # it has no other images


@settings(max_examples=40)
@given(SHARINGS, st.floats(0, 1))
def test_a_balanced_epoch_never_draws_a_refused_image(sharing: tuple[int, int, int, int], share: float) -> None:
    labels, counts = unequal(sharing[0])
    labels[np.random.default_rng(sharing[3]).random(sharing[0]) < share] = PADDING
    for order in ranks(*sharing):
        epoch = balanced(order, 0, labels, counts)
        assert epoch.shape == (order.steps, len(order.lanes))
        assert (labels[epoch[epoch != PADDING]] != PADDING).all()


def test_a_balanced_epoch_is_drawn_anew_each_time() -> None:
    labels, counts = unequal(400)
    order = LaneOrder(400, 4)
    assert (balanced(order, 0, labels, counts) != balanced(order, 1, labels, counts)).mean() > 0.8
