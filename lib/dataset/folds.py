"""Which training images are left out together in cross-validation: whole groups, spread evenly over the folds."""

from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lib.dataset.source import ImageSource
from lib.dataset.subset import balanced_subset
from lib.ingest.splits import seeded_hash

FOLDS = 5
NEVER_LEFT_OUT = -1
FOLD_SCHEMA = pa.schema([pa.field("position", pa.int64(), nullable=False), pa.field("fold", pa.int8(), nullable=False)])
"""In memory only, from the driver to the workers."""


def fold_table(source: ImageSource, most: int, seed: int) -> pa.Table:
    """The fold of each training image (`FOLD_SCHEMA`), by position; of some of them, balanced, where there are more.

    Args:
        source: The images.
        most: How many to take at most.
        seed: Another seed makes other folds.

    Raises:
        StorageError: If names of images cannot be read.
    """
    images = balanced_subset(source, "train", most)
    folds = cross_validation_folds(images, seed)
    return pa.table({"position": images["position"], "fold": pa.array(folds)}, schema=FOLD_SCHEMA)


def cross_validation_folds(images: pa.Table, seed: int) -> npt.NDArray[np.int8]:
    """The fold in which each image is left out, from 0 to `FOLDS` - 1, or `NEVER_LEFT_OUT`.

    Groups are dealt out in the order of their seeded hashes, rare classes first, each to the fold that has the fewest
    images of the class. A group is never left out where nothing of one of its classes would be left to learn from.

    Args:
        images: `image_id`, `label` and `group`; an image without a group is one of its own.
        seed: Another seed makes other folds.

    Returns:
        Shape (n,).
    """
    labels = images["label"].to_pylist()
    groups = pc.coalesce(images["group"], images["image_id"]).to_pylist()
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        members[group][label] += 1
    order = sorted(members, key=lambda group: seeded_hash(group, seed))
    fold_of: dict[str, int] = {}
    held: list[Counter[str]] = [Counter() for _ in range(FOLDS)]
    for label, _ in sorted(Counter(labels).items(), key=lambda item: (item[1], item[0])):
        for group in order:
            if label in members[group] and group not in fold_of:
                fold_of[group] = min(range(FOLDS), key=lambda fold: (held[fold][label], held[fold].total()))
                held[fold_of[group]] += members[group]
    total = Counter(labels)
    alone = {(fold, label) for fold, counts in enumerate(held) for label in counts if counts[label] == total[label]}
    kept = {group for group, fold in fold_of.items() if any((fold, label) in alone for label in members[group])}
    return np.array([NEVER_LEFT_OUT if group in kept else fold_of[group] for group in groups], np.int8)
