"""How well a class is told by its files alone, without a look at any pixel: a floor that says where images are from.

Where one class was scanned, compressed or named differently from another, a network can learn that instead of the
tissue.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.tree import DecisionTreeClassifier

from lib.dataset.folds import NEVER_LEFT_OUT, cross_validation_folds
from lib.evaluation.measures.intervals import Interval, Units, percentile_interval, resampled_sums, unless_certain
from lib.folders.checks import SIZE_OF_FILE, FilePropertiesRecord, PropertyRecord
from lib.folders.manifest import read_manifest
from lib.models.probabilities import FloatArray, IntArray
from lib.storage.location import Location

logger = logging.getLogger(__name__)

MOST_IMAGES = 5000
"""That are looked at, evenly from the classes: the intervals are then narrow, and the trees grown in seconds."""
FEWEST_LEFT_OUT = 10
MOST_VALUES = 20
"""Of a text: those that are frequent; others count as one."""
PROPERTIES = {
    SIZE_OF_FILE: ("size_bytes",),
    "size in pixels": ("width", "height"),
    "compression": ("compression", "jpeg_tables"),
    "tags and software": ("tags", "software"),
    "bits": ("sample_type",),
    "pages": ("pages",),
    "resolution": ("micrometres",),
    "pattern of the name": ("name",),
}
"""Columns of the manifest (and `name`, made from the path), by what people call them."""
TREES = 50
RESAMPLES = 2000
COLUMNS = [
    *("image_id", "path", "label", "split", "group", "verdict", "size_bytes", "width", "height", "compression"),
    *("jpeg_tables", "tags", "software", "sample_type", "pages", "micrometres"),
]


def file_properties(manifest: pa.Table, seed: int = 0) -> FilePropertiesRecord | None:
    """How well trees tell the class of training images by what is known of their files, and by each property alone.

    Every image is judged by trees that have not seen its group. Validation images count as training images here, test
    images are not looked at. What counts as chance is the share of the most frequent class.

    Args:
        manifest: The columns `COLUMNS`; those of what decoding finds may be null.
        seed: Another seed takes other images and folds.

    Returns:
        None where fewer than two classes, or hardly any images, could be left out in turn.
    """
    images = _some_of(manifest, seed)
    folds = cross_validation_folds(images, seed) if images.num_rows else np.zeros(0, np.int8)
    judged = folds != NEVER_LEFT_OUT
    labels = images["label"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    if judged.sum() < FEWEST_LEFT_OUT or len(np.unique(labels)) < 2:  # noqa: PLR2004
        return None
    task = _Task(labels.astype(np.int64), folds, images["group"].to_pylist())
    known = {name: encoded for name in PROPERTIES if (encoded := _encoded(images, PROPERTIES[name])) is not None}
    alone = {
        name: task.accuracy(features, DecisionTreeClassifier(min_samples_leaf=2, random_state=seed))
        for name, features in known.items()
    }
    together = ExtraTreesClassifier(TREES, min_samples_leaf=2, random_state=seed)
    accuracy, interval = task.accuracy(np.concatenate([*known.values(), np.zeros((len(labels), 1))], axis=1), together)
    return FilePropertiesRecord(
        images=int(judged.sum()),
        chance=float(np.bincount(task.labels[judged]).max() / judged.sum()),
        accuracy=accuracy,
        interval=interval,
        properties=[
            PropertyRecord(name=name, accuracy=share, interval=found)
            for name, (share, found) in sorted(alone.items(), key=lambda item: -item[1][0])
        ],
    )


def read_file_properties(dataset: Location) -> FilePropertiesRecord | None:
    """As `file_properties`, of a dataset folder."""
    return file_properties(read_manifest(dataset, COLUMNS))


def tell_file_properties(found: FilePropertiesRecord | None) -> None:
    """Say so where files give classes away."""
    if found is not None and found.beats_chance:
        logger.warning("%s", in_words(found))


def in_words(found: FilePropertiesRecord) -> str:
    """What a person is told of files that give classes away."""
    telling = ", ".join(f"the {one.name} ({100 * one.accuracy:.0f} %)" for one in found.telling)
    return (
        f"the files give the class away: without a look at any pixel, {100 * found.accuracy:.0f} % of "
        f"{found.images:,} training images are told right (chance: {100 * found.chance:.0f} %)"
        + (f", by {telling}" if telling else "")
        + "; a network may learn where images are from instead of the tissue"
        + ("" if found.telling_beside_size else " (but the size of a compressed file also depends on what it shows)")
    )


def _some_of(manifest: pa.Table, seed: int) -> pa.Table:
    """The accepted images for training, at most `MOST_IMAGES`, as many of each class as far as it has them."""
    wanted = pc.and_(
        pc.equal(manifest["verdict"], "accepted"), pc.is_in(manifest["split"], pa.array(["train", "validation"]))
    )
    images = manifest.filter(wanted).sort_by("image_id").combine_chunks()
    shuffled = images.take(np.random.default_rng(seed).permutation(images.num_rows))
    labels = shuffled["label"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    by_class = np.argsort(labels, kind="stable")
    turns = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
    return shuffled.take(by_class[np.argsort(turns, kind="stable")[:MOST_IMAGES]]).combine_chunks()


@dataclass(frozen=True)
class _Task:
    """Labels to tell: classes as numbers, folds and groups of n images."""

    labels: IntArray
    folds: npt.NDArray[np.int8]
    groups: Sequence[str | None]

    def accuracy(
        self, features: FloatArray, model: DecisionTreeClassifier | ExtraTreesClassifier
    ) -> tuple[float, Interval | None]:
        """The share of images that are told right by a model that was fitted without their fold."""
        judged, right = self.folds != NEVER_LEFT_OUT, np.zeros(len(self.labels))
        for fold in np.unique(self.folds[judged]):
            out = self.folds == fold
            right[out] = model.fit(features[~out], self.labels[~out]).predict(features[out]) == self.labels[out]
        counted = right[judged]
        units = Units.of(len(counted), [self.groups[place] for place in np.flatnonzero(judged).tolist()])
        sums = resampled_sums(np.stack([counted, np.ones(len(counted))]), units, RESAMPLES, seed=0)
        interval = unless_certain(percentile_interval(sums[:, 0] / sums[:, 1], units.count), units.count)
        return float(counted.mean()), interval


def _encoded(images: pa.Table, columns: Sequence[str]) -> FloatArray | None:
    """Numbers, -1 where unknown; of texts a column for each frequent value; None where all images are alike."""
    encoded = [_column(images, name) for name in columns]
    features = np.concatenate(encoded, axis=1)
    return features if len(features) and (features != features[0]).any() else None


def _column(images: pa.Table, name: str) -> FloatArray:
    values = name_patterns(images) if name == "name" else images[name].combine_chunks()
    if not pa.types.is_string(values.type):
        return np.asarray(pc.fill_null(values.cast(pa.float64()), -1.0).to_numpy(zero_copy_only=False))[:, None]
    texts = np.array(pc.fill_null(values, "").to_pylist(), object)
    known, counts = np.unique(texts, return_counts=True)
    frequent = known[np.argsort(-counts, kind="stable")[:MOST_VALUES]]
    return np.asarray(texts[:, None] == frequent[None, :], np.float64)


def name_patterns(images: pa.Table) -> pa.Array:
    """The shape of each file's name: its label taken out, letters as `a`, each digit as `0`.

    A name that says the label tells a person nothing that he would not know; a scanner's way of naming does.
    """
    rows = zip(images["path"].to_pylist(), images["label"].to_pylist(), strict=True)
    return pa.array([_pattern(path.rpartition("/")[2], label) for path, label in rows], pa.string())


def _pattern(name: str, label: str) -> str:
    without = re.sub(re.escape(label), "", name.rpartition(".")[0], flags=re.IGNORECASE)
    return re.sub(r"\d", "0", re.sub(r"[^\W\d_]+", "a", without))
