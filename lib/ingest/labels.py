"""Which label, split and group each listed file has: from its path, `train/<label>/...`, or from a table."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import DataError, SettingsError
from lib.folders.manifest import SPLITS
from lib.storage.location import Location

LABELLED_SPLITS = ("train", "test")
TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a file belongs: a label and split, or the code of the reason why it does not count as an image."""

    label: str | None = None
    split: str | None = None
    group: str | None = None
    exclusion: str | None = None


Place = Callable[[str], Placement]
"""From a path relative to the source to where it belongs."""


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


def with_groups(place: Place, pattern: str) -> Place:
    """Places as before, each image in the group that a regular expression finds in its path, None where it does not."""
    expression = re.compile(pattern)
    part = 1 if expression.groups else 0

    def placed(path: str) -> Placement:
        placement = place(path)
        if placement.exclusion:
            return placement
        match = expression.search(path)
        return replace(placement, group=match.group(part) if match else None)

    return placed


def _not_an_image(path: str) -> str | None:
    if any(part.startswith(".") for part in path.split("/")):
        return "hidden_file"
    return None if path.lower().endswith(TIFF_SUFFIXES) else "not_tiff_name"


def check_classes(counts: Mapping[tuple[str, str], int], validation_fraction: float) -> list[str]:
    """The class names in order, if a model can be trained on them.

    Args:
        counts: How many images have a label and split (`train` or `test`).
        validation_fraction: Whether each class needs an image for validation too.

    Raises:
        DataError: If there are fewer than two classes, a class is only in the test split, or a class is too
            small to be in both train and validation.
    """
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


@dataclass(frozen=True)
class LabelTable:
    """A CSV table with a row an image: columns `path` and `label`, and if wanted `split`, `group` and others.

    Attributes:
        uri: Where it is from, for messages.
        places: Label, split and group by path, relative to the source; one object for all rows that agree in them.
        has_groups: Whether the column was there that groups were asked to be taken from.
    """

    uri: str
    places: dict[str, Placement]
    has_groups: bool

    @classmethod
    def read(cls, location: Location, group_by: str | None = None) -> "LabelTable":
        """Read a table.

        Args:
            group_by: The column of the groups; `group` if there is none of that name.

        Raises:
            SettingsError: If it is missing, has no `path` or `label` column, an empty cell in one of them, an unknown
                split, or two rows for one path.
        """
        if not location.is_file():
            raise SettingsError(f"--labels {location.uri}: there is no such file")
        reader = csv.DictReader(io.TextIOWrapper(io.BytesIO(location.read_bytes()), "utf-8-sig", newline=""))
        columns = set(reader.fieldnames or [])
        missing = sorted({"path", "label"} - columns)
        if missing:
            raise SettingsError(f"--labels {location.uri} has no column {missing[0]!r}; expected at least path,label")
        group_column = group_by if group_by in columns else "group"
        places: dict[str, Placement] = {}
        shared: dict[Placement, Placement] = {}
        for row in reader:
            problem = _row_problem(row, places)
            if problem:
                raise SettingsError(f"--labels {location.uri}, line {reader.line_num}: {problem}")
            place = Placement(row["label"], row.get("split") or "train", row.get(group_column) or None)
            places[row["path"]] = shared.setdefault(place, place)
        return cls(location.uri, places, group_by in columns)

    def place(self, path: str) -> Placement:
        """Label, split (train unless stated) and group of a file."""
        if exclusion := _not_an_image(path):
            return Placement(exclusion=exclusion)
        return self.places.get(path) or Placement(exclusion="not_in_table")

    def refuse_missing_files(self, listed: pa.Array | pa.ChunkedArray) -> None:
        """Stop when the table names files that are not in the source.

        Raises:
            DataError: Naming the first one.
        """
        named = pa.array(self.places, pa.string())
        missing = sorted(named.filter(pc.invert(pc.is_in(named, listed))).to_pylist())
        if missing:
            raise DataError(
                f"--labels {self.uri} names {len(missing)} files that are not in the source, for example {missing[0]!r}"
            )


def _row_problem(row: dict[str, str], earlier: Mapping[str, Placement]) -> str | None:
    empty = [name for name in ("path", "label") if not row[name]]
    if empty:
        return f"{empty[0]} is empty"
    if row.get("split") and row["split"] not in SPLITS:
        return f"split is {row['split']!r}; expected one of {', '.join(SPLITS)}"
    return f"{row['path']!r} is listed twice" if row["path"] in earlier else None


def label_typos(class_names: Sequence[str]) -> list[str]:
    """A sentence for each set of labels that differ only in case, outer spaces or Unicode form."""
    alike: dict[str, list[str]] = {}
    for name in class_names:
        alike.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), []).append(name)
    return [f"labels {', '.join(map(repr, names))} look like the same class" for names in alike.values() if names[1:]]
