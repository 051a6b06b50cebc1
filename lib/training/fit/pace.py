"""How an epoch goes while it goes: images a second, the share of the time spent waiting, and the use of the GPU."""

import time

from lib.runtime.gpu_use import GpuMeter, GpuUse
from lib.training.fit.batches import Batches
from lib.training.workers.messages import Pace

WINDOW_S = 1.0
"""A GPU samples itself at most as slowly, and nobody reads faster."""


class PaceMeter:
    """Measures the steps of one worker, which all workers take together, in windows of `WINDOW_S`."""

    def __init__(self, batches: Batches, gpu: GpuMeter | None = None) -> None:
        """Measure.

        Args:
            batches: Tell how long steps wait for them.
            gpu: Of this worker, if it has one.
        """
        self._batches, self._gpu = batches, gpu
        self._images, self._since, self._waited_s = 0, 0.0, 0.0
        self._is_first = True
        self._uses: list[GpuUse] = []

    def begin(self) -> None:
        """An epoch begins."""
        self._is_first, self._uses = True, []

    def step(self, images: int, epoch: int, epochs: int) -> Pace | None:
        """A step is done.

        Args:
            images: That went through it, of all workers.
            epoch: From 1.
            epochs: At most.

        Returns:
            How the steps of a window went, when it is over. The first step of an epoch, which may have been compiled,
            is in none.
        """
        now, self._images = time.monotonic(), self._images + images
        if not self._is_first and now - self._since < WINDOW_S:
            return None
        pace = None
        if not self._is_first:
            waited_s, took_s = self._batches.waited_s - self._waited_s, now - self._since
            pace = Pace(epoch, epochs, self._images / took_s, min(waited_s / took_s, 1.0), self._read_gpu())
        self._images, self._since, self._waited_s = 0, now, self._batches.waited_s
        self._is_first = False
        return pace

    def end(self) -> GpuUse:
        """The steps of an epoch are done.

        Returns:
            The mean utilisation of the GPU, and the most memory that was taken, as far as they are known.
        """
        if not self._uses:
            self._read_gpu()
        busy = [use.utilisation for use in self._uses if use.utilisation is not None]
        taken = [use.memory_bytes for use in self._uses if use.memory_bytes is not None]
        return GpuUse(sum(busy) / len(busy) if busy else None, max(taken, default=None))

    def _read_gpu(self) -> GpuUse | None:
        if self._gpu is None:
            return None
        self._uses.append(self._gpu.read())
        return self._uses[-1]
