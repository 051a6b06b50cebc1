"""Some training images of a dataset folder as a data set of their own, without validation and without test images."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.resources import DecodeConfig
from lib.dataset.shard_source import ShardSource
from lib.dataset.source import RefusedImage, TrainedImages


@dataclass(frozen=True)
class TrainingPart(ShardSource):
    """Some images of the split `train`, numbered anew from 0 in their order; no other split has any.

    Attributes:
        images: Their names (`lib.dataset.source.NAMES`) in the whole data set, by position.
    """

    images: pa.Table

    @classmethod
    def of(cls, whole: ShardSource, images: pa.Table) -> Self:
        """Take some images of a data set, ordered by position."""
        return cls(whole.folder, whole.record, images)

    @property
    def content_hash(self) -> str:
        """Of the whole, and of which images are taken."""
        names = "\n".join([super().content_hash, *self.images["image_id"].to_pylist()])
        return hashlib.sha256(names.encode()).hexdigest()

    def trained_on(
        self,
        splits: Sequence[str],
        _refused: Mapping[str, Sequence[RefusedImage]],
        _checksums: pa.Table,
        _decode: DecodeConfig,
    ) -> TrainedImages:
        """These images."""
        known, mine = self.checksums(splits), self.images["image_id"].combine_chunks()
        return TrainedImages(known.filter(pc.is_in(known["image_id"], mine)))

    def count(self, split: str | None) -> int:
        return self.images.num_rows if split == "train" else 0

    def shards(self, _split: str) -> tuple[int, ...]:
        return ()  # its images lie here and there in them

    def class_counts(self, split: str) -> list[int]:
        """Images of each class in a split."""
        labels = self.images["label"].to_pylist() if split == "train" else []
        return [labels.count(name) for name in self.class_names]

    def units(self, split: str | None) -> list[pa.Table]:
        """What is taken of each shard, with the new positions."""
        taken, first = [], 0
        mine = self.images["position"].combine_chunks()
        for unit in super().units(split) if split == "train" else []:
            part = unit.filter(pc.is_in(unit["position"], mine))
            places = pa.array(np.arange(first, first + part.num_rows))
            taken.append(part.set_column(part.schema.get_field_index("position"), "position", places))
            first += part.num_rows
        return [unit for unit in taken if unit.num_rows]
