"""Which image goes into which batch of which worker: the same batches for any number of workers.

A global batch of B images has B lanes. The positions 0 to n-1 of a split are cut into B contiguous runs, one a lane;
batch t of an epoch takes the t-th image of every lane, each lane being shuffled anew every epoch by (seed, epoch,
lane). A worker owns a contiguous range of lanes, and so a contiguous range of positions: it reads only its own
shards, and yet the batches do not depend on how many workers there are. Images are listed in an order that is as good
as shuffled, so that what a lane holds is a random sample.

Every image comes once an epoch. Lanes differ in length by at most one, so the last batch may be smaller; its empty
places are padding, marked by `PADDING`, and weigh nothing.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PADDING = -1


@dataclass(frozen=True)
class LaneOrder:
    """The order of one worker's images.

    Attributes:
        count: Positions in the split, over all workers.
        batch_size: Images in a global batch; at least `world_size`.
        rank: This worker, from 0.
        world_size: Number of workers.
        seed: Of the shuffle.
        shuffle: Whether lanes are shuffled; off for validation.
    """

    count: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < self.world_size:
            raise ValueError(f"a batch of {self.batch_size} cannot be shared by {self.world_size} workers")

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
            run = np.arange(self._start(lane), self._start(lane + 1))
            if self.shuffle:
                np.random.default_rng((self.seed, epoch, lane)).shuffle(run)
            order[: len(run), column] = run
        return order

    def _start(self, lane: int) -> int:
        return self.count * lane // self.batch_size
