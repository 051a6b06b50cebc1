"""Which image goes into which batch of which worker: the same batches for any number of workers.

A global batch of B images has B lanes. The positions 0 to n-1 of a split are cut into B contiguous runs, one a lane;
batch t of an epoch takes the t-th image of every lane. A lane is shuffled anew every epoch by (seed, epoch, lane): its
chunks of neighbouring images among each other, and the images within each chunk. Chunks are the row groups of shards,
so that each is read by itself, once; those at the ends of a lane are cut, and read by both lanes. A worker owns a
contiguous range of lanes, and so a contiguous range of positions: it reads only its own shards, and yet the batches do
not depend on how many workers there are. Images are listed in an order that is as good as shuffled, so that what a lane
holds is a random sample.

Every image comes once an epoch. Lanes differ in length by at most one, so the last batch may be smaller; its empty
places are padding, marked by `PADDING`, and weigh nothing.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lib.folders.shards import IMAGES_PER_ROW_GROUP

PADDING = -1
FITTING_ROUNDS, TINY = 100, 1e-9
CHUNK = IMAGES_PER_ROW_GROUP
"""Images of a lane that are shuffled among themselves; streaming holds one chunk of each lane at most."""
IMAGE_ORDER = 2
"""Another number wherever the same settings give another order: a run that began with one does not go on with it."""


@dataclass(frozen=True)
class LaneOrder:
    """The order of one worker's images.

    Attributes:
        count: Positions in the split, over all workers.
        batch_size: Images in a global batch; at least `world_size`.
        rank: This worker, from 0.
        world_size: Number of workers.
        seed: Seed of the shuffle.
        shuffle: Whether lanes are shuffled; off for validation.
        shards: Images of each shard, in order; none where any image is read as cheaply alone.
    """

    count: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    shuffle: bool = True
    shards: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size < self.world_size:
            raise ValueError(f"a batch of {self.batch_size} is too small for {self.world_size} workers")

    @property
    def steps(self) -> int:
        """Batches an epoch; the same on every worker."""
        return -(-self.count // self.batch_size)

    @property
    def lanes(self) -> range:
        """The lanes of this worker."""
        share = (
            self.batch_size * self.rank // self.world_size,
            self.batch_size * (self.rank + 1) // self.world_size,
        )
        return range(*share)

    @property
    def positions(self) -> range:
        """The positions of this worker's images."""
        return range(self._start(self.lanes.start), self._start(self.lanes.stop))

    def part_sizes(self, parts: int) -> list[int]:
        """How this worker's lanes are cut when a global batch is cut into `parts`.

        Where the workers cannot share the parts evenly, or there are fewer lanes, each worker has one part.
        """
        parts = min(parts, self.batch_size)
        if parts % self.world_size:
            return [len(self.lanes)]
        each = parts // self.world_size
        cuts = [self.batch_size * part // parts for part in range(self.rank * each, (self.rank + 1) * each + 1)]
        return [stop - start for start, stop in itertools.pairwise(cuts)]

    def epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """The positions of one epoch, from 0: shape (steps, lanes of this worker), `PADDING` where there is none."""
        order = np.full((self.steps, len(self.lanes)), PADDING, np.int64)
        for column, lane in enumerate(self.lanes):
            run = np.concatenate([np.empty(0, np.int64), *self._shuffled(epoch, lane)])
            order[: len(run), column] = run
        return order

    def class_counts(self, labels: npt.NDArray[np.int32], class_count: int) -> npt.NDArray[np.float64]:
        """How many images of each class each lane has: shape (batch_size, class_count), 0 for lanes of other workers.

        Args:
            labels: The class of each position of this worker, `PADDING` for one that is not to be drawn.
            class_count: Number of classes.
        """
        counts = np.zeros((self.batch_size, class_count))
        for lane in self.lanes:
            classes = self._labels_of(lane, labels)
            counts[lane] = np.bincount(classes[classes != PADDING], minlength=class_count)
        return counts

    def balanced_epoch(
        self, epoch: int, labels: npt.NDArray[np.int32], class_weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.int64]:
        """As `epoch`, but each place is drawn from its lane, with replacement.

        Args:
            epoch: From 0.
            labels: The class of each position of this worker, `PADDING` for one that is not to be drawn.
            class_weights: How much more often an image of one class is drawn than of another; see `balancing_weights`.
        """
        order = np.full((self.steps, len(self.lanes)), PADDING, np.int64)
        for column, lane in enumerate(self.lanes):
            run, classes = np.arange(self._start(lane), self._start(lane + 1)), self._labels_of(lane, labels)
            chances = np.where(classes == PADDING, 0, class_weights[classes])
            if chances.sum() > 0:
                generator = np.random.default_rng((self.seed, epoch, lane))
                order[: len(run), column] = generator.choice(run, len(run), p=chances / chances.sum())
        return order

    def _labels_of(self, lane: int, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        first = self.positions.start
        return labels[self._start(lane) - first : self._start(lane + 1) - first]

    def reading(self, epoch: int) -> list[range]:
        """The runs of positions that batches need, in the order in which they do: what to read for an epoch.

        Each chunk comes when the first of its images is needed, so that little must be held at once.
        """
        needed: dict[int, list[range]] = defaultdict(list)
        for lane in self.lanes:
            step = 0
            for chunk in self._shuffled(epoch, lane):
                needed[step].append(range(chunk.min(), chunk.max() + 1))
                step += len(chunk)
        return [run for step in sorted(needed) for run in _merged(needed[step])]

    def _shuffled(self, epoch: int, lane: int) -> list[npt.NDArray[np.int64]]:
        """The chunks of a lane in the order of an epoch."""
        run = np.arange(self._start(lane), self._start(lane + 1))
        if not len(run):
            return []
        chunks = [run]
        if len(run) > CHUNK:
            within = slice(*np.searchsorted(self._row_groups, run[[0, -1]], side="right"))
            chunks = np.split(run, self._row_groups[within] - run[0])
        if self.shuffle:
            generator = np.random.default_rng((self.seed, epoch, lane))
            for chunk in chunks:
                generator.shuffle(chunk)
            chunks = [chunks[index] for index in generator.permutation(len(chunks))]
        return chunks

    @cached_property
    def _row_groups(self) -> npt.NDArray[np.int64]:
        """The first position of each row group."""
        sizes = np.array(self.shards or (self.count,), np.int64)
        groups = -(-sizes // CHUNK)
        place = np.arange(groups.sum()) - np.repeat(np.cumsum(groups) - groups, groups)  # of each in its shard
        return np.asarray(np.repeat(np.cumsum(sizes) - sizes, groups) + CHUNK * place)

    def _start(self, lane: int) -> int:
        return self.count * lane // self.batch_size


def balancing_weights(lane_counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The weights of classes with which all lanes together draw each class as often as any other.

    A lane can only draw what it has, so the inverse of how common a class is would be too little for a rare one: most
    lanes have none of it. Weights are fitted instead, each time by what is missing of the class's share.

    Args:
        lane_counts: See `LaneOrder.class_counts`, summed over all workers.

    Returns:
        One a class, positive, 0 for a class without images. Where a class is in too few lanes, as near as they allow.
    """
    present = lane_counts.sum(axis=0) > 0
    weights = present.astype(np.float64)
    draws = lane_counts.sum(axis=1, keepdims=True)
    goal = draws.sum() / max(present.sum(), 1)
    for _ in range(FITTING_ROUNDS):
        chances = lane_counts * weights
        shares = (draws * chances / np.maximum(chances.sum(axis=1, keepdims=True), TINY)).sum(axis=0)
        weights = np.where(present, weights * goal / np.maximum(shares, TINY), 0)
        weights /= max(weights.max(), TINY)
    return np.asarray(np.maximum(weights, TINY) * present, np.float64)


def _merged(runs: list[range]) -> list[range]:
    """Runs in the order of their positions, those that touch made one."""
    merged: list[range] = []
    for run in sorted(runs, key=lambda run: run.start):
        if merged and merged[-1].stop == run.start:
            merged[-1] = range(merged[-1].start, run.stop)
        else:
            merged.append(run)
    return merged
