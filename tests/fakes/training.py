"""A training worker in this process, on images in memory and without Ray, that can be stopped at any step."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import pandas as pd
import pytest

from lib.config.fitting import TrainConfig
from lib.dataset.memory import ExampleCache
from lib.dataset.source import DatasetInfo
from lib.models.registry import Network, build_network
from lib.models.spec import parse_spec
from lib.plots import Picture
from lib.training.feature_extraction import Features
from lib.training.fit.worker import load_and_train
from lib.training.workers.lane_shards import FITTED_SPLITS
from lib.training.workers.messages import MessageLog
from lib.training.workers.peers import Peers, TrainTask
from tests.fakes.images import FakeSource, decode_without_ray, hand_out_without_ray

AGREEING = ["epoch", "phase", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
"""Columns of the history that do not depend on the clock."""


class StoppedError(Exception):
    """Ends a training, as the loss of its machine would."""


class CountedSteps:
    """A heartbeat that only counts, and stops before a step."""

    def __init__(self, stop_before: int | None) -> None:
        self.steps, self.stop_before = 0, stop_before

    def step(self, *, patient: bool = False) -> None:
        if self.steps == self.stop_before:
            raise StoppedError
        self.steps += 1

    def move(self, *, patient: bool = False) -> None:
        pass


@dataclass
class Trained:
    """How a training went.

    Attributes:
        steps: Steps of this process alone.
        results: What `model.json` would say of it; empty if it was stopped.
        folder: The model folder.
        messages: What was told.
        network: As it was in this process.
    """

    steps: int
    results: dict[str, Any]
    folder: Path
    messages: MessageLog
    network: Network

    @property
    def model(self) -> keras.Model:
        """The model that was saved."""
        return keras.saving.load_model(self.folder / "model.keras")

    @property
    def reference(self) -> pd.DataFrame:
        """The reference that was saved."""
        return pd.read_parquet(self.folder / "reference.parquet")

    @property
    def history(self) -> pd.DataFrame:
        """The history that was saved."""
        return pd.read_parquet(self.folder / "history.parquet")


class TrainingHere:
    """Trains networks of a test's own in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._built: list[Network] = []
        decode_without_ray(monkeypatch)
        monkeypatch.setattr("lib.training.fit.loop.build_network", self._build)
        monkeypatch.setattr("lib.training.fit.finish.curves", lambda _: Picture(b"", b""))  # a fifth of the time
        self.build: Callable[[int], Network] = lambda size: build_network(parse_spec("cnn"), 3, size, seed=0)

    def _build(self, *arguments: Any, **_: bool) -> Network:
        _, _, image_size, seed, _ = arguments
        self._built.append(self._seeded(image_size, seed))
        return self._built[-1]

    def _seeded(self, image_size: int, seed: int) -> Network:
        keras.utils.set_random_seed(seed)
        return self.build(image_size)

    def use_optimizer(self, create: Callable[[], keras.optimizers.Optimizer]) -> None:
        """Train with another optimizer than Adam."""
        self._monkeypatch.setattr("lib.training.fit.compiled.phase_optimizer", lambda *_: create())

    def use_penalties(self, penalties: tuple[float, ...]) -> None:
        """Solve heads for these penalties alone."""
        self._monkeypatch.setattr("lib.models.softmax_regression.PENALTIES", penalties)

    def run(
        self,
        folder: Path,
        source: FakeSource,
        *,
        spec: str = "cnn",
        stop_before: int | None = None,
        fold_images: int = 10_000,
        **fit: Any,
    ) -> Trained:
        """Train, from the newest checkpoint in the folder if there is one, until the end or before some step.

        Args:
            fold_images: Most images by which the penalty of a head is chosen.
        """
        config = TrainConfig(
            dataset="unused", output=str(folder), model=spec, image_size=source.image_size,
            **{"head": "adam", "cache_gib": 1, "max_bad_fraction": 0.5, "precision": "float32"} | fit,
        )  # fmt: skip
        messages, steps = MessageLog(), CountedSteps(stop_before)
        parsed, self._built = parse_spec(spec), []
        base = self._seeded(source.image_size, config.seed).base
        features: Any = None if base is None else FeaturesHere(source, base)
        hand_out_without_ray(self._monkeypatch, source, fold_images)
        task = TrainTask(config, parsed, DatasetInfo.of(source, FITTED_SPLITS), features, messages)
        results = {}
        with suppress(StoppedError):
            results = load_and_train(task, Peers(0, 1), steps).as_json()  # type: ignore[arg-type]  # counts only
        return Trained(steps.steps, results, folder, messages, self._built[0])


class FeaturesHere:
    """Features of a base, computed at once."""

    def __init__(self, source: FakeSource, base: keras.Model) -> None:
        self.folder = SimpleNamespace(variants=lambda _: [0])
        self.width = base.output_shape[1]
        self._found = {split: _features(source, split, base) for split in source.counts}

    def read(self, split: str, positions: range, _: int) -> Features:
        features, labels, refused, checksums = self._found[split]
        here = slice(positions.start, positions.stop)
        return Features(features[here], labels[here], refused, checksums)


def _features(source: FakeSource, split: str, base: keras.Model) -> Features:
    images = ExampleCache.empty(range(source.count(split)), source.image_size)
    images.fill(map(source.decoder, source.units(split)), source.class_names)
    features = keras.ops.convert_to_numpy(base(images.examples, training=False))
    return Features(features, images.labels, images.refused, images.checksums)
