"""An `ImageSource` in memory, and the graph that decodes it without Ray."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.config.resources import DecodeConfig
from lib.dataset.folds import fold_table
from lib.dataset.source import DECODED_SCHEMA, NAMES, Decoder
from lib.dataset.subset import balanced_subset
from lib.training.workers.lane_shards import packed
from tests.fakes.sources import striped_image

CLASS_NAMES = ["liver", "lung", "skin"]


@dataclass
class FakeSource:
    """Striped images whose class follows from their position.

    Attributes:
        counts: Positions of each split.
        refused: Positions of the training split that cannot be decoded.
        image_size: Side in pixels.
        unit: Images in a unit.
        confused: Every so-manyth image shows another class than it is labelled as; 0 for none.
        decoded: Positions that have been decoded, in order, of all splits.
    """

    counts: dict[str, int]
    refused: frozenset[int] = frozenset()
    image_size: int = 16
    unit: int = 5
    confused: int = 0
    decoded: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=lambda: list(CLASS_NAMES))
    content_hash: str = "fake"

    def count(self, split: str | None) -> int:
        return self.counts.get(str(split), 0)

    def class_counts(self, split: str) -> list[int]:
        return np.bincount(np.arange(self.count(split)) % len(self.class_names), minlength=3).tolist()

    def shards(self, _split: str) -> tuple[int, ...]:
        return ()

    def units(self, split: str | None) -> list[pa.Table]:
        count = self.count(split)
        ranges = [range(start, min(start + self.unit, count)) for start in range(0, count, self.unit)]
        return [pa.table({"position": some, "split": [split] * len(some)}) for some in ranges]

    def names(self, unit: pa.Table) -> pa.Table:
        return self._rows(unit).select(NAMES)

    @property
    def decoder(self) -> Decoder:
        return self._decode

    def _decode(self, unit: pa.Table) -> pa.Table:
        self.decoded.extend(unit["position"].to_pylist())
        return self._rows(unit)

    def _rows(self, unit: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._row(**row) for row in unit.to_pylist()], schema=DECODED_SCHEMA)

    def _row(self, position: int, split: str) -> dict[str, Any]:
        number = position % len(self.class_names)
        row = {"position": position, "image_id": f"{split}-{position}", "path": str(position)}
        if split == "train" and position in self.refused:
            return row | {"label": self.class_names[number], "reason": "truncated", "detail": "ends at 7"}
        seed = position + 10_000 * (split != "train")
        shown = (number + 1) % len(self.class_names) if self.confused and position % self.confused == 0 else number
        image = striped_image(shown, len(self.class_names), self.image_size, seed)
        return row | {"label": self.class_names[number], "image": image.tobytes()}


class DatasetHere:
    """Units that are decoded here, one when it is asked for; in order only if that is asked for, as Ray Data does."""

    def __init__(self, units: list[pa.Table], decoder: Decoder = lambda unit: unit, *_: DecodeConfig) -> None:
        self._units, self._decoder = units, decoder
        self.context = SimpleNamespace(execution_options=SimpleNamespace(preserve_order=False))

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        in_order = self.context.execution_options.preserve_order
        return map(self._decoder, self._units if in_order else reversed(self._units))


def decode_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have images decoded in this process."""
    for module in ("lib.dataset.stream", "lib.training.fit.loader"):
        monkeypatch.setattr(f"{module}.decoded_dataset", DatasetHere)


def hand_out_without_ray(monkeypatch: pytest.MonkeyPatch, source: FakeSource, fold_images: int = 10_000) -> None:
    """Have the only worker, which is this process, get all of a source from Ray Train."""
    units = {split: packed(source.units(split)) for split in source.counts if source.count(split)}
    units["reference"] = [balanced_subset(source, "train", 10_000)]
    units["folds"] = [fold_table(source, fold_images, seed=0)]
    monkeypatch.setattr("ray.train.get_dataset_shard", lambda name: DatasetHere(units[name]))
