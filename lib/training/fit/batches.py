"""One worker's batches, as `fit` wants them: read ahead in a thread, so that steps do not wait."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from lib.dataset.memory import Examples, Positions
from lib.dataset.sampler import PADDING, LaneOrder
from lib.models.augmentation import DRAWS, draw

ItemT = TypeVar("ItemT")
Batch = tuple[npt.NDArray[Any], ...]

READ_AHEAD = 2
TO_NOTICE_S = 0.2
TO_STOP_S = 10.0


class Batches:
    """The batches of one epoch after the other: examples, labels, weights and, if examples are changed, draws.

    Attributes:
        epoch: The epoch that the next iteration is of, from 0.
        first_step: The step that it begins with; 0 except after an interrupted epoch.
        waited_s: Seconds that steps have waited for batches since this was last set.
        error: What went wrong while reading; TensorFlow passes on no more than its text.
    """

    def __init__(
        self,
        read: Callable[[Positions, int], Iterator[Examples]],
        order: LaneOrder,
        class_weights: npt.NDArray[np.float32],
        *,
        positions: Callable[[int], Positions] | None = None,
        draw_seed: int | None = None,
    ) -> None:
        """Serve batches.

        Args:
            read: Gives a batch for each row of some positions of an epoch.
            order: Order of this worker's images.
            class_weights: The weight of an image of each class.
            positions: Gives the positions of an epoch, of shape (steps, lanes); those of `order` unless told.
            draw_seed: Seed of the draws; None if there are none.
        """
        self.epoch, self.first_step = 0, 0
        self.waited_s = 0.0
        self.error: BaseException | None = None
        self._read, self._order, self._class_weights = read, order, class_weights
        self._positions, self._draw_seed = positions or order.epoch, draw_seed

    @property
    def steps(self) -> int:
        """Batches in a whole epoch; the same on every worker."""
        return self._order.steps

    @property
    def images(self) -> int:
        """Images in a whole epoch, of all workers together."""
        return self._order.count

    def dataset(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> tf.data.Dataset:
        """What to give to `fit`: as many batches as are left of the epoch, read anew for each epoch.

        Args:
            shape: Shape of one example.
            dtype: Type of one example.
        """
        size = len(self._order.lanes)
        signature = [
            tf.TensorSpec([size, *shape], tf.as_dtype(dtype)),
            tf.TensorSpec([size], tf.int32),
            tf.TensorSpec([size], tf.float32),
        ]
        if self._draw_seed is not None:
            signature.append(tf.TensorSpec([size, DRAWS], tf.float32))
        dataset = tf.data.Dataset.from_generator(self._generate, output_signature=tuple(signature))
        return dataset.apply(tf.data.experimental.assert_cardinality(self.steps - self.first_step))

    def _generate(self) -> Iterator[Batch]:
        batches = read_ahead(self._batches(self.epoch, self.first_step))
        try:
            while True:
                asked = time.monotonic()
                batch = next(batches, None)
                self.waited_s += time.monotonic() - asked
                if batch is None:
                    return
                yield batch
        except Exception as error:
            self.error = error
            raise
        finally:
            batches.close()

    def _batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        order = self._positions(epoch)[first_step:]
        for step, (examples, labels) in enumerate(self._read(order, epoch), first_step):
            weights = np.where(labels == PADDING, 0, self._class_weights[labels]).astype(np.float32)
            batch = (examples, np.maximum(labels, 0).astype(np.int32), weights)
            yield batch if self._draw_seed is None else (*batch, draw(self._draw_seed, epoch, self._places(step)))

    def _places(self, step: int) -> npt.NDArray[np.int64]:
        """A number for each image of a batch that is unique in its epoch, whichever worker has it."""
        return step * self._order.batch_size + np.asarray(self._order.lanes)


@contextmanager
def original_error(batches: Mapping[str, Batches]) -> Iterator[None]:
    """Raise what went wrong while reading batches, instead of what TensorFlow makes of it."""
    try:
        yield
    except Exception as error:
        for some in batches.values():
            if some.error is not None:
                raise some.error from error
        raise


def read_ahead(items: Iterator[ItemT]) -> Generator[ItemT]:
    """The same items, of which a thread takes the next few while one is being used. An error comes in its place."""
    ready: queue.Queue[ItemT | _End] = queue.Queue(READ_AHEAD)
    stop = threading.Event()
    thread = threading.Thread(target=_take, args=(items, ready, stop), name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join(TO_STOP_S)


@dataclass(frozen=True)
class _End:
    """Comes after the last item, with the error that there was instead of another one."""

    error: BaseException | None = None


def _take(items: Iterator[ItemT], ready: "queue.Queue[ItemT | _End]", stop: threading.Event) -> None:
    end = _End()
    try:
        for item in items:
            if not _put(item, ready, stop):
                return
    except BaseException as error:  # noqa: BLE001 - raised where the items are used
        end = _End(error)
    _put(end, ready, stop)


def _put(item: ItemT | _End, ready: "queue.Queue[ItemT | _End]", stop: threading.Event) -> bool:
    """Wait for room, unless nobody wants items any more."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=TO_NOTICE_S)
        except queue.Full:
            continue
        return True
    return False
