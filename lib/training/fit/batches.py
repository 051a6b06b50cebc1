"""One worker's batches, as `fit` wants them: taken and changed beside the steps, so that these do not wait.

Images in memory are one tensor, of which TensorFlow's own threads take a batch by its places; Python gives them places,
labels, weights and draws of some hundred batches at once. Streamed images are read ahead in a thread. Both are changed
here, on the CPU and in whole numbers, for which a GPU has no kernels (`GatherV2` of uint8).
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from lib.dataset.memory import ALIGNMENT_BYTES, ExampleCache, Positions
from lib.dataset.sampler import PADDING
from lib.models.augmentation import DRAWS, draw
from lib.training.fit.loader import SplitExamples

ItemT = TypeVar("ItemT")
Arrays = tuple[npt.NDArray[Any], ...]
Tensors = tuple[tf.Tensor, ...]

READ_AHEAD = 2
TO_NOTICE_S = 0.2
TO_STOP_S = 10.0
PLACES_AT_ONCE = 8192
"""Images whose places are handed to TensorFlow at one time."""
HOST = "/CPU:0"


class Draws(NamedTuple):
    """What is drawn for each image of a batch, and who takes it.

    Attributes:
        seed: Of the draws.
        change: Called with examples and draws, to change the examples.
        are_served: Whether batches have the draws as their last tensor.
    """

    seed: int
    change: keras.layers.Layer | None = None
    are_served: bool = True


class Batches:
    """The batches of one epoch after the other: examples, labels, weights and, if they are asked for, draws.

    Attributes:
        epoch: The epoch that the next iteration is of, from 0.
        first_step: The step that it begins with; 0 except after an interrupted epoch.
        waited_s: Seconds that steps have waited for batches since this was last set.
        error: What went wrong while reading; TensorFlow passes on no more than its text.
    """

    def __init__(
        self,
        examples: SplitExamples,
        class_weights: npt.NDArray[np.float32],
        *,
        positions: Callable[[int], Positions] | None = None,
        draws: Draws | None = None,
        device: str | None = None,
    ) -> None:
        """Serve batches.

        Args:
            examples: This worker's.
            class_weights: The weight of an image of each class.
            positions: Gives the positions of an epoch, of shape (steps, lanes); those of the order unless told.
            draws: What is drawn; None if nothing is.
            device: Of TensorFlow, to which batches are copied while the step before is computed; None to leave that to
                the step.
        """
        self.epoch, self.first_step = 0, 0
        self.waited_s = 0.0
        self.error: BaseException | None = None
        self._examples, self._order, self._class_weights = examples, examples.order, class_weights
        self._positions, self._draws, self._device = positions or self._order.epoch, draws, device

    @property
    def steps(self) -> int:
        """Batches in a whole epoch; the same on every worker."""
        return self._order.steps

    @property
    def steps_left(self) -> int:
        """Batches that the next iteration gives."""
        return self.steps - self.first_step

    @property
    def images(self) -> int:
        """Images in a whole epoch, of all workers together."""
        return self._order.count

    def dataset(self) -> tf.data.Dataset:
        """What to give to `fit`: as many batches as are left of the epoch, read anew for each epoch."""
        batches = self._from_memory() if self._examples.caches else self._streamed()
        if self._draws is not None:
            batches = changed(batches, self._draws)
        batches = batches.prefetch(READ_AHEAD)
        if self._device is not None:
            batches = batches.apply(tf.data.experimental.prefetch_to_device(self._device, READ_AHEAD))
        return ServedDataset(batches, self.steps_left, self._wait)

    def _wait(self, seconds: float) -> None:
        self.waited_s += seconds

    def _from_memory(self) -> tf.data.Dataset:
        """Batches of examples in memory, which TensorFlow takes by their places."""
        variants = [as_tensor(cache) for cache in self._examples.caches]

        def take(variant: tf.Tensor, places: tf.Tensor, *columns: tf.Tensor) -> Tensors:
            ways = [partial(tf.gather, some, places) for some in variants]
            return (ways[0]() if len(ways) == 1 else tf.switch_case(variant, ways), *columns)

        places = tf.TensorSpec([None, len(self._order.lanes)], tf.int64)
        signature = (tf.TensorSpec([None], tf.int32), places, *self._signature(None))
        dataset = tf.data.Dataset.from_generator(lambda: self._told(self._places()), output_signature=signature)
        return dataset.unbatch().map(take, num_parallel_calls=tf.data.AUTOTUNE)

    def _streamed(self) -> tf.data.Dataset:
        """Batches that Python hands over one by one."""
        shape, dtype = self._examples.shape
        signature = (tf.TensorSpec([len(self._order.lanes), *shape], tf.as_dtype(dtype)), *self._signature())
        return tf.data.Dataset.from_generator(
            lambda: self._told(read_ahead(self._read(self.epoch, self.first_step))), output_signature=signature
        )

    def _signature(self, *outer: int | None) -> tuple[tf.TensorSpec, ...]:
        """Of the labels, weights and draws of a batch, or of more than one."""
        shape = [*outer, len(self._order.lanes)]
        draws = () if self._draws is None else (tf.TensorSpec([*shape, DRAWS], tf.float32),)
        return tf.TensorSpec(shape, tf.int32), tf.TensorSpec(shape, tf.float32), *draws

    def _told(self, items: Iterator[Arrays]) -> Iterator[Arrays]:
        try:
            yield from items
        except Exception as error:
            self.error = error
            raise

    def _places(self) -> Iterator[Arrays]:
        """For some batches at a time: of which variant they are, their places in it, labels, weights and draws."""
        epoch, first_step = self.epoch, self.first_step
        variant = epoch % len(self._examples.caches)
        order = self._positions(epoch)[first_step:]
        at_once = max(PLACES_AT_ONCE // len(self._order.lanes), 1)
        for start in range(0, len(order), at_once):
            places, labels = self._examples.caches[variant].places(order[start : start + at_once])
            columns = self._columns(labels, epoch, first_step + start)
            yield np.full(len(places), variant, np.int32), places, *columns

    def _read(self, epoch: int, first_step: int) -> Iterator[Arrays]:
        order = self._positions(epoch)[first_step:]
        for step, (examples, labels) in enumerate(self._examples.read(order, epoch), first_step):
            yield examples, *(column[0] for column in self._columns(labels[None], epoch, step))

    def _columns(self, labels: npt.NDArray[np.int32], epoch: int, first_step: int) -> Arrays:
        """Labels, weights and draws of some batches that follow each other; labels have the shape (steps, lanes)."""
        weights = np.where(labels == PADDING, 0, self._class_weights[labels]).astype(np.float32)
        columns = np.maximum(labels, 0).astype(np.int32), weights
        if self._draws is None:
            return columns
        steps = np.arange(first_step, first_step + len(labels))[:, None]
        numbers = steps * self._order.batch_size + np.asarray(self._order.lanes)  # unique in their epoch
        return *columns, draw(self._draws.seed, epoch, numbers.ravel()).reshape(*labels.shape, DRAWS)


def as_tensor(cache: ExampleCache) -> tf.Tensor:
    """All examples of a cache, in its own memory where that is aligned; one of zeros for padding if there are none."""
    examples = cache.examples if len(cache.examples) else np.zeros((1, *cache.examples.shape[1:]), cache.examples.dtype)
    if examples.ctypes.data % ALIGNMENT_BYTES:
        with tf.device(HOST):
            return tf.constant(examples)
    return tf.experimental.dlpack.from_dlpack(examples.__dlpack__())


def changed(batches: tf.data.Dataset, draws: Draws) -> tf.data.Dataset:
    """Batches whose examples are changed as was drawn for them."""

    def change(examples: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, drawn: tf.Tensor) -> Tensors:
        examples = examples if draws.change is None else draws.change(examples, drawn)
        return (examples, labels, weights, drawn) if draws.are_served else (examples, labels, weights)

    return batches.map(change, num_parallel_calls=tf.data.AUTOTUNE)


class ServedDataset(tf.data.Dataset):
    """Batches as they are, with how many there are and a clock that runs while one is waited for.

    Keras takes each by `next`, outside the graph of its step. What hands batches to a device cannot say their number.
    """

    def __init__(self, batches: tf.data.Dataset, steps: int, on_wait: Callable[[float], None]) -> None:
        """Serve batches.

        Args:
            batches: At least as many as there are steps.
            steps: How many are served.
            on_wait: Called with the seconds that each was waited for.
        """
        self._batches, self._steps, self._on_wait = batches, steps, on_wait
        super().__init__(batches._variant_tensor)

    def __iter__(self) -> Iterator[Tensors]:
        batches = iter(self._batches)
        for _ in range(self._steps):
            asked = time.monotonic()
            batch = next(batches)
            self._on_wait(time.monotonic() - asked)
            yield batch

    def cardinality(self) -> tf.Tensor:
        """How many there are."""
        return tf.constant(self._steps, tf.int64)

    @property
    def element_spec(self) -> tuple[tf.TensorSpec, ...]:
        """Of a batch."""
        return self._batches.element_spec  # type: ignore[no-any-return]

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._batches]


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
