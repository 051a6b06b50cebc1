"""Which label and split each listed file has, from its path: `train/<label>/...` and `test/<label>/...`."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib.errors import DataError

LABELLED_SPLITS = ("train", "test")
SPLITS = ("train", "validation", "test")
TIFF_SUFFIXES = (".tif", ".tiff")

EXCLUSIONS = {
    "hidden_file": "a name that starts with a dot, or in a folder with such a name, as left by an operating system",
    "not_tiff_name": "the name does not end in .tif or .tiff",
    "outside_splits": "not below train/ or test/",
    "no_label": "directly in train/ or test/, not in a folder that names its label",
}


@dataclass(frozen=True)
class Placement:
    """Where a file belongs: a label and split, or the code of the reason why it does not count as an image."""

    label: str | None = None
    split: str | None = None
    exclusion: str | None = None


def place_labelled(path: str) -> Placement:
    """Label and split of a file of a training source, by its path relative to the source."""
    if exclusion := _not_an_image(path):
        return Placement(exclusion=exclusion)
    parts = path.split("/")
    if parts[0] not in LABELLED_SPLITS:
        return Placement(exclusion="outside_splits")
    if len(parts) == len(("split", "name")):
        return Placement(exclusion="no_label")
    return Placement(label=parts[1], split=parts[0])


def place_unlabelled(path: str) -> Placement:
    """A file of any folder tree: an image without label and split, or excluded."""
    return Placement(exclusion=_not_an_image(path))


def _not_an_image(path: str) -> str | None:
    if any(part.startswith(".") for part in path.split("/")):
        return "hidden_file"
    return None if path.lower().endswith(TIFF_SUFFIXES) else "not_tiff_name"


def choose_validation(image_ids: Sequence[str], fraction: float, seed: int) -> frozenset[str]:
    """The images of one class that validate instead of train.

    They are the `fraction` with the lowest seeded hashes, so that adding images moves few of the others.

    Args:
        image_ids: The training images of one class, at least two of them unless `fraction` is 0.
        fraction: Share to take, in [0, 1); rounded, but at least one and never all.
        seed: Another seed makes another choice.
    """
    if fraction == 0:
        return frozenset()
    count = min(max(1, round(fraction * len(image_ids))), len(image_ids) - 1)
    return frozenset(sorted(image_ids, key=lambda image_id: _seeded_hash(image_id, seed))[:count])


def _seeded_hash(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), key=seed.to_bytes(8, "big"), digest_size=8).digest()


def check_classes(labelled: Iterable[tuple[str, str]], validation_fraction: float) -> list[str]:
    """The class names in order, if a model can be trained on them.

    Args:
        labelled: Label and split (`train` or `test`) of every image.
        validation_fraction: Whether each class needs an image for validation too.

    Raises:
        DataError: If there are fewer than two classes, a class is only in the test split, or a class is too
            small to be in both train and validation.
    """
    counts = Counter(labelled)
    class_names = sorted({label for label, split in counts if split == "train"})
    only_test = sorted({label for label, split in counts if split == "test"} - set(class_names))
    if only_test:
        raise DataError(f"class {only_test[0]!r} is in test/ but not in train/: no model could ever predict it")
    if len(class_names) == 1:
        raise DataError(f"train/ holds one class, {class_names[0]!r}; a classifier needs at least two")
    needed = 1 if validation_fraction == 0 else 2
    for name in class_names:
        if counts[name, "train"] < needed:
            raise DataError(
                f"class {name!r} has {counts[name, 'train']} training image; at least {needed} are needed, "
                "one to train on and one to validate (or set --validation-fraction 0)"
            )
    return class_names
