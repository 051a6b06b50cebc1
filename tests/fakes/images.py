"""An `ImageSource` in memory, and the graph that decodes it without Ray."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.config.resources import DecodeConfig
from lib.dataset.source import DECODED_SCHEMA, NAMES, Decoder
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
        decoded: Positions that have been decoded, in order, of all splits.
    """

    counts: dict[str, int]
    refused: frozenset[int] = frozenset()
    image_size: int = 16
    unit: int = 5
    decoded: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=lambda: list(CLASS_NAMES))
    content_hash: str = "fake"

    def count(self, split: str | None) -> int:
        return self.counts.get(str(split), 0)

    def class_counts(self, split: str) -> list[int]:
        return np.bincount(np.arange(self.count(split)) % len(self.class_names), minlength=3).tolist()

    def units(self, split: str | None, start: int, stop: int) -> list[pa.Table]:
        cuts = sorted({start, *range(0, stop, self.unit), stop})
        pairs = [(low, high) for low, high in itertools.pairwise(cuts) if low >= start]
        return [pa.table({"position": range(*pair), "split": [split] * (pair[1] - pair[0])}) for pair in pairs]

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
        image = striped_image(number, len(self.class_names), self.image_size, seed)
        return row | {"label": self.class_names[number], "image": image.tobytes()}


def decode_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have images decoded here, a unit when it is asked for; in order only if that is asked for, as Ray Data does."""

    def graph(source: FakeSource, split: str, runs: Sequence[range], _: DecodeConfig) -> SimpleNamespace:
        units = [unit for run in runs for unit in source.units(split, run.start, run.stop)]
        options = SimpleNamespace(preserve_order=False)
        return SimpleNamespace(units=units, decoder=source.decoder, context=SimpleNamespace(execution_options=options))

    def tables(dataset: SimpleNamespace) -> Iterator[pa.Table]:
        in_order = dataset.context.execution_options.preserve_order
        return map(dataset.decoder, dataset.units if in_order else reversed(dataset.units))

    for module in ("lib.dataset.stream", "lib.training.fit.loader"):
        monkeypatch.setattr(f"{module}.decoded_dataset", graph)
        monkeypatch.setattr(f"{module}.stream_tables", tables)
