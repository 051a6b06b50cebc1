"""What a run will take, from what a few images and steps took on this machine."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from lib.config.chain import DoctorConfig
from lib.dataset.folds import FOLDS
from lib.ingest.listing import Listing
from lib.models.spec import ModelSpec
from lib.runs.doctor.storage import Sample

BATCH, REPEATS = 8, 3
BACKWARD = 3
"""A training step takes about as much as so many forward passes."""


@dataclass(frozen=True)
class Estimate:
    """Hours and money.

    Attributes:
        convert_s: Seconds to convert, with all CPUs.
        train_s: Seconds to train and evaluate all models, with all workers.
        cost: In the currency of the prices.
    """

    convert_s: float
    train_s: float
    cost: float

    def __str__(self) -> str:
        return f"convert {_time(self.convert_s)}, train and evaluate {_time(self.train_s)}, cost about {self.cost:,.2f}"


def estimate(config: DoctorConfig, listing: Listing, sample: Sample, plan: dict[str, ModelSpec], cpus: int) -> Estimate:
    """The time and the price of a pipeline, starting machines not included.

    Args:
        sample: What a few of them took.
        cpus: That convert side by side.
    """
    count = listing.images.num_rows
    convert_s = count * max(sample.convert_s, sample.fetch_s) / cpus
    splits = {row["values"]: row["counts"] for row in pc.value_counts(listing.images["split"]).to_pylist()}
    forward_s = {
        name: seconds_an_image(spec, config.image_size, len(listing.class_names)) for name, spec in plan.items()
    }
    per_model = [_passes(spec, config, splits) * forward_s[name] for name, spec in plan.items()]
    workers = config.num_workers.fewest
    train_s = (max(per_model) if config.chooses else sum(per_model)) / workers
    if config.chooses:  # one worker tries all, and the slowest may be chosen
        train_s += sum(_passes_to_try(spec, config, splits) * forward_s[name] for name, spec in plan.items())
    train_s /= config.gpu_speedup if config.use_gpu else 1
    trainer_price = config.price_per_gpu_hour if config.use_gpu else config.price_per_cpu_hour * cpus
    cost = (convert_s * cpus * config.price_per_cpu_hour + train_s * workers * trainer_price) / 3600
    return Estimate(convert_s, train_s, cost)


def _passes(spec: ModelSpec, config: DoctorConfig, splits: dict[str, int]) -> float:
    """Images that a network is run on in all epochs of a model and its evaluation, a training step counting more."""
    training, test = splits.get("train", 0), splits.get("test", 0)
    validation = splits.get("validation", 0)
    if not spec.has_frozen_base:
        passes = config.epochs * (BACKWARD * training + validation)
    else:
        passes = _copies(config) * training + validation + config.fine_tune_epochs * (BACKWARD * training + validation)
    return passes + test


def _passes_to_try(spec: ModelSpec, config: DoctorConfig, splits: dict[str, int]) -> float:
    """The same of a candidate that is tried on training images."""
    tried = min(config.choice_images, splits.get("train", 0))
    if spec.has_frozen_base:
        return _copies(config) * tried
    return tried + config.epochs * BACKWARD * (FOLDS - 1) * tried


def _copies(config: DoctorConfig) -> int:
    return config.augmented_features if config.changes(from_scratch=False) else 1


def seconds_an_image(spec: ModelSpec, image_size: int, classes: int) -> float:
    """How long this machine takes to run a network on one image, in a batch."""
    import tensorflow as tf

    from lib.models.registry import build_network

    network = build_network(spec, classes, image_size, seed=0).model
    run = tf.function(lambda images: network(images, training=False))
    images = np.zeros((BATCH, image_size, image_size, 3), np.uint8)
    run(images)
    started = time.perf_counter()
    for _ in range(REPEATS):
        run(images).numpy()
    return (time.perf_counter() - started) / (REPEATS * BATCH)


def _time(seconds: float) -> str:
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours
