"""What each worker does: load its images while TensorFlow starts, fit, and, on rank 0, write the model folder."""

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray.train

from lib.config import TrainConfig
from lib.dataset.cache import ImageCache
from lib.dataset.order import LaneOrder
from lib.errors import DataError, TissueError, TooManyBadImagesError
from lib.models.folder import CURVES_FILE, HISTORY_FILE, NETWORK_FILE
from lib.models.spec import ModelSpec
from lib.plots import curves
from lib.ray_data import prepare_context, stream_tables
from lib.storage.filesystem import Location
from lib.storage.tables import write_table
from lib.training.board import BoardClient
from lib.training.shards import FITTED_SPLITS, split_order

if TYPE_CHECKING:
    import keras

    from lib.training.synchronous import SynchronousModel

HISTORY_SCHEMA = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("accuracy", pa.float64(), nullable=False),
        pa.field("val_loss", pa.float64()),
        pa.field("val_accuracy", pa.float64()),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("images_per_s", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class TrainTask:
    """Everything a worker needs to know.

    Attributes:
        config: The settings of the run.
        spec: What to train.
        class_names: The classes in order.
        image_size: Side of the images in pixels.
        counts: Positions in each split.
        board: Where to report.
    """

    config: TrainConfig
    spec: ModelSpec
    class_names: list[str]
    image_size: int
    counts: Mapping[str, int]
    board: BoardClient


def train_on_worker(loop_config: dict[str, TrainTask]) -> dict[str, Any]:
    """Train on this worker, in step with the others.

    Args:
        loop_config: The `task`, in the dictionary that Ray Train insists on.

    Returns:
        What `model.json` says of the training; the same on every worker.

    Raises:
        TooManyBadImagesError: If more images were refused than allowed.
        DataError: If a class has no usable training image.
        TissueError: If the loss never was a number.
    """
    task, context = loop_config["task"], ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    prepare_context(task.config.verbose)
    with ThreadPoolExecutor(max_workers=1) as loader:
        loading = loader.submit(_load, task, rank, world_size)
        model = _start_model(task, rank, world_size)
        caches = loading.result()
    _check_images(caches, task, world_size)
    return _fit(model, caches, task, rank)


def _load(task: TrainTask, rank: int, world_size: int) -> dict[str, ImageCache]:
    """This worker's images of each split."""
    caches = {}
    for split in (split for split in FITTED_SPLITS if task.counts[split]):
        positions = _order(task, split, rank, world_size).positions
        caches[split] = ImageCache.empty(positions, task.image_size)
        caches[split].fill(stream_tables(ray.train.get_dataset_shard(split)), task.class_names)
        task.board.tell("add_refused", [row | {"split": split} for row in caches[split].refused])
        task.board.tell("add_checksums", caches[split].checksums)
    return caches


def _order(task: TrainTask, split: str, rank: int, world_size: int) -> LaneOrder:
    return split_order(task.counts[split], split, task.config, task.config.seed, rank, world_size)


def _start_model(task: TrainTask, rank: int, world_size: int) -> "SynchronousModel":
    """Import TensorFlow and build the model: the slow part of starting, so done while images load."""
    import keras

    from lib.models.registry import build_network
    from lib.training.synchronous import SynchronousModel, start_collectives

    if world_size > 1:
        start_collectives()
    network = build_network(task.spec, len(task.class_names), task.image_size, task.config.seed)
    parts = _order(task, "train", rank, world_size).part_sizes(task.config.gradient_parts)
    model = SynchronousModel(network, world_size, parts)
    rate = task.config.learning_rate or task.spec.learning_rate
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=False)
    return model


def _check_images(caches: dict[str, ImageCache], task: TrainTask, world_size: int) -> None:
    """Count usable images over all workers, so that all of them refuse together."""
    import tensorflow as tf

    from lib.training.synchronous import SynchronousModel, all_reduce_sum

    labels = caches["train"].labels
    usable = np.bincount(labels[labels >= 0], minlength=len(task.class_names))
    refused = sum(len(cache.refused) for cache in caches.values())
    counts = tf.constant([*usable, refused], tf.float32)
    *usable, refused = all_reduce_sum([counts], world_size, SynchronousModel.COUNTS_KEY)[0].numpy()
    images = sum(task.counts.values())
    if refused / images > task.config.max_bad_fraction:
        raise TooManyBadImagesError(
            f"{refused:.0f} of {images} images are bad; --max-bad-fraction {task.config.max_bad_fraction:g} does not "
            "allow that (`convert` lists them with their reasons)"
        )
    for name, count in zip(task.class_names, usable, strict=True):
        if not count:
            raise DataError(f"class {name!r} has no usable training image left")


def _fit(model: "SynchronousModel", caches: dict[str, ImageCache], task: TrainTask, rank: int) -> dict[str, Any]:
    import keras

    from lib.training.batches import CachedBatches
    from lib.training.callbacks import AverageStatistics, History, KeepBest

    output = Location(task.config.output)
    batches = {
        split: CachedBatches(cache, _order(task, split, rank, model.world_size)) for split, cache in caches.items()
    }
    history = History(task.counts["train"], task.config.epochs, rank, task.board)

    def keep_checkpoint() -> None:
        if rank == 0:
            _save(model.network, output / "checkpoints" / NETWORK_FILE)

    best = KeepBest(model.network, task.config.patience, keep_checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [AverageStatistics(model), history, best]
        if rank == 0:
            callbacks.append(keras.callbacks.TensorBoard(folder, write_graph=False))
        model.fit(
            batches["train"],
            validation_data=batches.get("validation"),
            epochs=task.config.epochs,
            callbacks=callbacks,
            shuffle=False,  # the order is ours
            verbose=0,
        )
        if not best.best_epoch:
            raise TissueError(f"the loss of {task.spec.text} was never a number; try a lower --learning-rate")
        if rank == 0:
            (output / "tensorboard").upload_folder(Path(folder))
    if rank == 0:
        _write_results(model.network, history.rows, output)
    return _results(model, history.rows, best.best_epoch) | {"images": task.counts["train"]}


def _write_results(network: "keras.Model", rows: list[dict[str, Any]], output: Location) -> None:
    _save(network, output / NETWORK_FILE)
    write_table(pa.Table.from_pylist(rows, schema=HISTORY_SCHEMA), output / HISTORY_FILE)
    (output / CURVES_FILE).write_bytes(curves(pd.DataFrame(rows)))


def _save(network: "keras.Model", location: Location) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / location.name
        network.save(file)
        location.write_bytes(file.read_bytes())


def _results(model: "SynchronousModel", rows: list[dict[str, Any]], best_epoch: int) -> dict[str, Any]:
    best = rows[best_epoch - 1]
    return {
        "world_size": model.world_size,
        "parameters": int(model.network.count_params()),
        "metrics": {
            "best_epoch": best_epoch,
            "epochs": len(rows),
            **{name: best[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")},
        },
        "fit_seconds": round(sum(row["seconds"] for row in rows), 3),
        "images_per_s": round(float(np.median([row["images_per_s"] for row in rows])), 1),
    }
