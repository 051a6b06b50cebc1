"""Which label, split and group each listed file has, by its path: `train/<label>/...`."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lib.errors import DataError

LABELLED_SPLITS = ("train", "test")
VALIDATION_FOLDERS = ("val", "valid", "validation")
"""As data sets of others name the folder beside them whose images validate."""
SPLIT_FOLDERS = {"train": "train", "test": "test"} | dict.fromkeys(VALIDATION_FOLDERS, "validation")
TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a file belongs: a label and split, or the code of the reason why it does not count as an image.

    `columns` is what a table says of it beyond that, as `lib.folders.columns` writes it.
    """

    label: str | None = None
    split: str | None = None
    group: str | None = None
    site: str | None = None
    columns: str | None = None
    exclusion: str | None = None


Place = Callable[[str], Placement]
"""From a path relative to the source to where it belongs."""
Found = Literal["group", "site"]
"""What is named by a column of a table, or found in paths."""
FOUND: tuple[Found, ...] = ("group", "site")


def place_labelled(path: str) -> Placement:
    """Label and split of a file of a training source, by its path relative to the source."""
    if exclusion := exclusion_by_name(path):
        return Placement(exclusion=exclusion)
    parts = path.split("/")
    if parts[0] not in SPLIT_FOLDERS:
        return Placement(exclusion="outside_splits")
    if len(parts) == len(("split", "name")) or not parts[1].strip():
        return Placement(exclusion="no_label")
    return Placement(label=one_spelling(parts[1]), split=SPLIT_FOLDERS[parts[0]])


def place_unlabelled(path: str) -> Placement:
    """A file of any folder tree: an image without label and split, or excluded."""
    return Placement(exclusion=exclusion_by_name(path))


def with_found(place: Place, name: Found, pattern: str) -> Place:
    """Places as before, each image with the group or site that a pattern finds in its path, None where it does not."""
    expression = re.compile(pattern)
    part = 1 if expression.groups else 0

    def placed(path: str) -> Placement:
        placement = place(path)
        if placement.exclusion:
            return placement
        match = expression.search(path)
        found = match.group(part) if match else None
        return replace(placement, group=found) if name == "group" else replace(placement, site=found)

    return placed


def one_spelling(name: str) -> str:
    """A name in composed Unicode: a Mac writes letters and accents apart, other systems together."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def exclusion_by_name(path: str) -> str | None:
    """Why a file cannot be an image, by its name; None if it can."""
    if any(part.startswith(".") for part in path.split("/")):
        return "hidden_file"
    return None if path.lower().endswith(TIFF_SUFFIXES) else "not_tiff_name"


def check_classes(counts: Mapping[tuple[str, str], int], validation_fraction: float) -> list[str]:
    """The class names in order, if a model can be trained on them.

    Args:
        counts: How many images have a label and split (`SPLITS`).
        validation_fraction: Whether each class needs an image for validation too.

    Raises:
        DataError: If there are fewer than two classes, a class is not in the training split, or a class is too
            small to be in both train and validation.
    """
    class_names = sorted({label for label, split in counts if split == "train"})
    strangers = sorted((label, split) for label, split in counts if label not in class_names)
    if strangers:
        label, split = strangers[0]
        same = [name for name in class_names if _folded(name) == _folded(label)]
        advice = f"; {same[0]!r} is: give both one spelling" if same else ""
        raise DataError(f"class {label!r} is in {split}/ but not in train/: no model could ever predict it{advice}")
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


def label_typos(class_names: Sequence[str]) -> list[str]:
    """A sentence for each set of labels that differ only in case, outer spaces or Unicode form."""
    alike: dict[str, list[str]] = {}
    for name in class_names:
        alike.setdefault(_folded(name), []).append(name)
    return [f"labels {', '.join(map(repr, names))} look like the same class" for names in alike.values() if names[1:]]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()
