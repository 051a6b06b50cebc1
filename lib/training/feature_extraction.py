"""Features of a frozen base: computed once by a pool of actors, kept as Parquet, and read by the workers that train.

Every epoch of a head reads them instead of running the base again, which is nearly the whole cost of an epoch. They are
in `<key>/<split>/<variant>/part-<first position>.parquet`, where the key stands for all that they depend on. A part
that exists is not computed again.
"""

import hashlib
import json
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.config.fitting import TrainConfig
from lib.dataset.graph import done, run_pool, without_parts
from lib.dataset.sampler import PADDING
from lib.dataset.shard_source import ShardSource
from lib.dataset.source import Decoder, RefusedImage, first_position, stated_checksums
from lib.dataset.tiff_source import TiffSource
from lib.folders.features import FEATURE_SCHEMA, WIDTH_KEY, read_features, read_width, write_features
from lib.models.provenance import weights_digest
from lib.models.spec import ModelSpec
from lib.runtime.counters import count_images
from lib.runtime.environment import ray_is_ours
from lib.runtime.gpus import require_visible_gpu
from lib.runtime.logs import join_stage
from lib.runtime.progress import Progress
from lib.runtime.ray_data import start_ray
from lib.storage.location import FETCH_CONCURRENCY, Location

if TYPE_CHECKING:
    from lib.models.augmentation import Drawn
    from lib.models.inference import Change, Forward

logger = logging.getLogger(__name__)

AUGMENTED_SPLIT = "train"
SPLIT_COLUMN = "features_of"
BATCH_SIZE = 64


class Features(NamedTuple):
    """What is known of a range of images.

    Attributes:
        features: float32 (n, d); zeros for a refused image.
        labels: int32 (n,), the number of the class; `PADDING` for a refused image.
        refused: The images that could not be decoded.
        checksums: Of the images that came straight from their files (`lib.folders.model.SEEN_SCHEMA`).
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    refused: list[RefusedImage]
    checksums: list[pa.Table]


@dataclass(frozen=True)
class FeatureFolder:
    """Where the features of each split are, in variants that differ in how the images were changed.

    Attributes:
        location: The folder of one key.
        augmented: Variants of the training images; None if they are taken as they are.
    """

    location: Location
    augmented: int | None

    def is_augmented(self, split: str) -> bool:
        """Whether images of a split are changed."""
        return self.augmented is not None and split == AUGMENTED_SPLIT

    def variants(self, split: str) -> range:
        """The variants of a split; one where images are taken as they are."""
        return range(self.augmented if self.augmented and self.is_augmented(split) else 1)

    def of(self, split: str, variant: int) -> Location:
        """The folder of the parts."""
        return self.location / split / str(variant)

    def missing(self, split: str, units: list[pa.Table]) -> list[pa.Table]:
        """The units of a split that are not done: their last variant, which is written last, is not there."""
        return without_parts(units, self.of(split, self.variants(split)[-1]))


@dataclass(frozen=True)
class FeatureSource:
    """Features that are all there. Cheap to send to a worker.

    Attributes:
        folder: Where they are.
        class_names: The classes in order.
        width: Features of an image.
        starts: The first position of each part of each split, in order.
    """

    folder: FeatureFolder
    class_names: list[str]
    width: int
    starts: Mapping[str, Sequence[int]]

    def read(self, split: str, positions: range, variant: int = 0) -> Features:
        """The features at some positions of a split; only parts that have some of them are read.

        Raises:
            StorageError: If a part cannot be read.
        """
        labels = np.full(len(positions), PADDING, np.int32)
        found = Features(np.zeros((len(positions), self.width), np.float32), labels, [], [])
        for part in self._parts(split, positions, variant):
            place = pc.subtract(part["position"], positions.start)
            inside = pc.and_(pc.greater_equal(place, 0), pc.less(place, len(positions)))
            self._take(found, part.append_column("place", place).filter(inside))
        return found

    def _parts(self, split: str, positions: range, variant: int) -> Iterator[pa.Table]:
        if not positions:
            return
        starts, folder = self.starts[split], self.folder.of(split, variant)
        wanted = starts[bisect_right(starts, positions.start) - 1 : bisect_left(starts, positions.stop)]
        with ThreadPoolExecutor(1 if folder.is_local else FETCH_CONCURRENCY) as threads:
            yield from threads.map(lambda start: read_features(folder, start), wanted)

    def _take(self, found: Features, rows: pa.Table) -> None:
        usable = rows.filter(pc.is_valid(rows["features"]))
        places = usable["place"].to_numpy()
        found.features[places] = pc.list_flatten(usable["features"]).to_numpy().reshape(-1, self.width)
        found.labels[places] = pc.index_in(usable["label"], pa.array(self.class_names, pa.string())).to_numpy()
        found.refused.extend(RefusedImage.among(rows))
        found.checksums.append(stated_checksums(usable))


@dataclass(frozen=True)
class FeatureTask:
    """Everything that an actor needs to know.

    Attributes:
        spec: A model with a frozen base.
        image_size: Side of the images in pixels.
        config: Has precision, augmentation and seed.
        folder: Where to write.
    """

    spec: ModelSpec
    image_size: int
    config: TrainConfig
    folder: FeatureFolder


def compute_features(
    source: ShardSource | TiffSource,
    spec: ModelSpec,
    config: TrainConfig,
    folder: Location,
    splits: Sequence[str],
    only: npt.NDArray[np.int64] | None = None,
) -> FeatureSource:
    """Compute the features of every image of some splits, except those that are there.

    With `--augment`, training images have `augmented_features` variants, each image changed in another way in each; an
    image is decoded once for all of them.

    Args:
        spec: A model with a frozen base.
        config: Has precision, augmentation, seed and resources.
        folder: Where features are kept, of any number of bases and data sets.
        splits: Which splits; those without images are left out.
        only: Positions of training images that are all that is asked for now, shape (n,). Their units are computed, and
            found again when all are asked for.

    Raises:
        TissueError: If the base cannot be had or does not fit.
        StorageError: If images cannot be read or features not written.
    """
    units = {split: source.units(split) for split in splits if source.count(split)}
    augmented = config.augmented_features if config.changes(from_scratch=False) else None
    kept = FeatureFolder(folder / _key(source, spec, config, units), augmented)
    if only is not None:
        units = {"train": [unit for unit in units["train"] if np.isin(only, unit["position"].to_numpy()).any()]}
    missing = {split: kept.missing(split, of_split) for split, of_split in units.items()}
    if any(missing.values()):
        _compute(units, missing, source.decoder, FeatureTask(spec, source.image_size, config, kept))
    else:
        logger.info("features: all are in %s already", kept.location.uri)
    starts = {split: [first_position(unit) for unit in of_split] for split, of_split in units.items()}
    return FeatureSource(kept, source.class_names, _width(kept, starts), starts)


def _key(
    source: ShardSource | TiffSource, spec: ModelSpec, config: TrainConfig, units: Mapping[str, list[pa.Table]]
) -> str:
    """Sixteen hexadecimal digits for what features depend on: images, base, and how each image is changed."""
    changes = config.changes(from_scratch=False)
    depends_on = {
        "images": [source.content_hash, source.image_size, source.image_policy.model_dump(mode="json")],
        "parts": {split: [unit.slice(0, 1).to_pylist() for unit in of_split] for split, of_split in units.items()},
        "base": [spec.name, spec.changes_of_features, weights_digest(spec, source.image_size), config.precision],
        "changes": [sorted(changes), config.seed] if changes else [],
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _compute(
    units: Mapping[str, list[pa.Table]], missing: Mapping[str, list[pa.Table]], decoder: Decoder, task: FeatureTask
) -> None:
    """One graph for all splits, so that each actor loads the base once."""
    start_ray(task.config)
    marked = [_of_split(unit, split) for split, of_split in missing.items() for unit in of_split]
    total, left = (
        sum(unit.num_rows * len(task.folder.variants(split)) for split in some for unit in some[split])
        for some in (units, missing)
    )
    # On one machine, TensorFlow's own threads have its cores busy already.
    actors = 1 if ray_is_ours() and not task.config.use_gpu else task.config.num_workers.most
    with Progress("features", total) as progress:
        progress.advance(total - left)
        decode = partial(_decode, decoder=decoder)
        for images, quarantined in run_pool(marked, decode, FeatureWriter, {"task": task}, actors, task.config):
            progress.advance(images)
            count_images("features", images - quarantined, quarantined)


def _of_split(table: pa.Table, split: str) -> pa.Table:
    return table.append_column(SPLIT_COLUMN, pa.array([split] * table.num_rows, pa.string()))


def _decode(unit: pa.Table, decoder: Decoder) -> pa.Table:
    return _of_split(decoder(unit), unit[SPLIT_COLUMN][0].as_py())


def _width(folder: FeatureFolder, starts: Mapping[str, Sequence[int]]) -> int:
    split = next(iter(starts))
    return read_width(folder.of(split, 0), starts[split][0])


class FeatureWriter:
    """Holds a base, and writes the features of one decoded unit after the other."""

    def __init__(self, task: FeatureTask) -> None:
        """Begin to load the base, while the first unit is being decoded.

        What goes wrong then is raised by the first call, since an error in a constructor reaches the driver as text.
        """
        join_stage("features")
        self._task = task
        self._loading = ThreadPoolExecutor(max_workers=1).submit(self._load)

    def _load(self) -> "tuple[Forward, Drawn]":
        import keras

        from lib.models.augmentation import Augmentation, in_a_graph
        from lib.models.inference import Forward
        from lib.models.registry import build_base

        require_visible_gpu(self._task.config)
        keras.config.set_dtype_policy(self._task.config.precision)
        base = build_base(self._task.spec, self._task.image_size)
        augmentation = Augmentation(self._task.config.changes(from_scratch=False))
        return Forward(base, BATCH_SIZE), in_a_graph(augmentation, self._task.image_size)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Compute the features of a unit (`DECODED_SCHEMA` and its split) and write a part for each variant."""
        join_stage("features")  # decoding may have been done by this process
        split, images = decoded[SPLIT_COLUMN][0].as_py(), decoded.filter(pc.is_valid(decoded["image"]))
        folder, (forward, _) = self._task.folder, self._loading.result()
        for variant in folder.variants(split):
            change = self._change(variant) if folder.is_augmented(split) else None
            (features,) = forward(images, change)
            write_features(feature_table(decoded, features), folder.of(split, variant), first_position(decoded))
        variants = len(folder.variants(split))
        return done(decoded.num_rows * variants, (decoded.num_rows - images.num_rows) * variants)

    def _change(self, variant: int) -> "Change":
        from lib.models.augmentation import draw

        _, changed = self._loading.result()
        seed = self._task.config.seed
        return lambda images, positions: changed(images, draw(seed, variant, positions))


def feature_table(decoded: pa.Table, features: npt.NDArray[np.float32]) -> pa.Table:
    """Rows of `FEATURE_SCHEMA`, one for each decoded image and each refused one.

    Args:
        decoded: Rows of `DECODED_SCHEMA`.
        features: Features of the images that were not refused, in their order, shape (n, d).
    """
    valid = np.asarray(pc.is_valid(decoded["image"]))
    ends = np.cumsum(valid) * features.shape[1]
    lists = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], ends]), pa.int32()), pa.array(features.ravel()), mask=pa.array(~valid)
    )
    columns = {name: lists if name == "features" else decoded[name] for name in FEATURE_SCHEMA.names}
    width = {WIDTH_KEY: str(features.shape[1]).encode()}
    return pa.table(columns, schema=FEATURE_SCHEMA.with_metadata(width))
