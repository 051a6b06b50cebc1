"""Batches of images in memory, as training takes them: by TensorFlow, and by Python as streamed ones are."""

import os
import statistics
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from lib.dataset.memory import ExampleCache
from lib.dataset.sampler import LaneOrder
from lib.models.augmentation import COLUMNS, Augmentation
from lib.runtime.allocator import keep_freed_memory
from lib.training.fit.batches import Batches, Draws
from lib.training.fit.loader import SplitExamples
from tests.benchmarks.timing import print_row

IMAGES, CHANGED_IMAGES, SIZE = 4096, 256, 224
CHANGES = {"flipped and turned": ("flip", "rotate"), "changed in all ways": tuple(COLUMNS)}


def run(repeats: int) -> None:
    """Images a second, and images for each second that a core is busy; nothing else is computed."""
    keep_freed_memory()  # as a worker does
    cache = ExampleCache.empty(range(IMAGES), SIZE)
    cache.examples[:] = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    cache.labels[:] = 0
    programs = {
        f"batches of {size}, by {way}": (IMAGES, _batches(cache, IMAGES, size, by_tensorflow=way == "TensorFlow"))
        for size in (32, 256)
        for way in ("TensorFlow", "Python")
    } | {
        f"{name}, batches of 32": (CHANGED_IMAGES, _batches(cache, CHANGED_IMAGES, 32, changes))
        for name, changes in CHANGES.items()
    }
    found: dict[str, list[tuple[float, float]]] = {program: [] for program in programs}
    load = os.getloadavg()[0]
    for _ in range(repeats):
        for program, (images, dataset) in programs.items():
            found[program].append(_rates(images, dataset))
    print_row(f"images of {SIZE} px in memory; load before {load:.1f}", "images/s", "images/s of a busy core")
    print_row(*["---"] * 3)
    for program, rates in found.items():
        wall, busy = (statistics.median(values) for values in zip(*rates, strict=True))
        print_row(program, f"{wall:,.0f}", f"{busy:,.0f}")


def _batches(
    cache: ExampleCache, images: int, size: int, changes: Sequence[str] = (), *, by_tensorflow: bool = True
) -> tf.data.Dataset:
    examples = SplitExamples(
        LaneOrder(images, size),
        lambda positions, _: cache.batches(positions),
        (cache.examples.shape[1:], np.uint8),
        [cache] if by_tensorflow else [],
    )
    draws = Draws(0, Augmentation(changes), are_served=False) if changes else None
    return Batches(examples, np.ones(1, np.float32), draws=draws).dataset()


def _rates(images: int, dataset: tf.data.Dataset) -> tuple[float, float]:
    began, busy = time.perf_counter(), time.process_time()
    for _ in dataset:
        pass
    return images / (time.perf_counter() - began), images / (time.process_time() - busy)
