"""Loads a worker's examples, and refuses to go on when too many images are bad or a class has none left."""

from typing import Any

import numpy as np

from lib.dataset.sampler import LaneOrder
from lib.errors import DataError, TooManyBadImagesError
from lib.training.fit.loader import FITTED_SPLITS, SplitExamples, load_features, load_images, split_order
from lib.training.workers.peers import COUNTS_KEY, Peers, TrainTask
from lib.training.workers.watchdog import Heartbeat


class ExampleLoader:
    """Loads examples of one worker, and keeps account of the images that were refused."""

    def __init__(self, task: TrainTask, peers: Peers, heartbeat: Heartbeat) -> None:
        """Load nothing yet."""
        self._task, self._peers, self._heartbeat = task, peers, heartbeat
        self._refused: dict[tuple[str, int], dict[str, Any]] = {}

    def load(self, on_features: bool) -> dict[str, SplitExamples]:
        """This worker's examples of each split that has any.

        Args:
            on_features: Whether features of the frozen base are wanted instead of images.

        Raises:
            TooManyBadImagesError: If more images were refused than allowed.
            DataError: If images are to be kept in memory and do not fit.
        """
        task = self._task
        orders = {split: self._order(split) for split in FITTED_SPLITS if task.source.count(split)}
        if on_features and task.features is not None:
            return {split: load_features(task.features, split, order, self._hear) for split, order in orders.items()}
        return load_images(task.source, orders, task.config, self._hear)

    def _order(self, split: str) -> LaneOrder:
        config, peers, count = self._task.config, self._peers, self._task.source.count(split)
        return split_order(count, split, config, config.seed, peers.rank, peers.world_size)

    def _hear(self, split: str, refused: list[dict[str, Any]], checksums: dict[str, str]) -> None:
        """Remember and pass on which images were refused, and stop when they are too many already."""
        self._heartbeat.move(patient=True)
        new = {(split, row["position"]): row | {"split": split} for row in refused}
        new = {place: row for place, row in new.items() if place not in self._refused}
        self._refused |= new
        if new:
            self._task.board.tell("add_refused", list(new.values()))
        if checksums:
            self._task.board.tell("add_checksums", checksums)
        self._refuse_too_many(len(self._refused))

    def _refuse_too_many(self, refused: float) -> None:
        allowed, source = self._task.config.max_bad_fraction, self._task.source
        images = sum(source.count(split) for split in FITTED_SPLITS)
        if refused / images > allowed:
            raise TooManyBadImagesError(
                f"{refused:.0f} of {images} images are bad; --max-bad-fraction {allowed:g} does not "
                "allow that (`convert` lists them with their reasons)"
            )

    def check(self, examples: dict[str, SplitExamples]) -> None:
        """Count images over all workers, so that all of them refuse together.

        Raises:
            TooManyBadImagesError: If more images were refused than allowed.
            DataError: If a class has no usable training image.
        """
        names, cache = self._task.source.class_names, examples["train"].cache
        labels = np.empty(0, np.int32) if cache is None else cache.labels
        here = np.bincount(labels[labels >= 0], minlength=len(names))
        counts = self._peers.sum([*here, len(self._refused), float(cache is None)], COUNTS_KEY)
        *usable, refused, streaming = counts
        self._refuse_too_many(refused)
        for name, count in zip(names, usable, strict=True):
            if not count and not streaming:
                raise DataError(f"class {name!r} has no usable training image left")
