"""Images with the same bytes: found by size and checksum, made sure of by reading, and dealt with as asked."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lib.errors import DataError
from lib.storage.filesystem import Location, StoredFile

Row = dict[str, Any]


@dataclass(frozen=True)
class Duplicates:
    """Sets of listed images with the same bytes.

    Attributes:
        sets: Rows of the listing, two or more in each set, in the order of their paths.
    """

    sets: list[list[Row]]

    @property
    def across_classes(self) -> list[list[Row]]:
        """The sets that have more than one label."""
        return [rows for rows in self.sets if len({row["label"] for row in rows}) > 1]

    @property
    def across_test(self) -> list[list[Row]]:
        """The sets that are both in the test split and outside it."""
        return [rows for rows in self.sets if len({row["split"] == "test" for row in rows}) > 1]

    def summary(self) -> dict[str, int]:
        """Counts for `dataset.json`."""
        return {
            "sets": len(self.sets),
            "images": sum(len(rows) for rows in self.sets),
            "sets_across_classes": len(self.across_classes),
            "sets_across_test": len(self.across_test),
        }

    def refuse(self, source: Location) -> None:
        """Stop when the same bytes are in two classes, or in the test split and outside it.

        Raises:
            DataError: Naming the first such pair.
            StorageError: If a suspect cannot be read again to make sure.
        """
        found = make_sure([*self.across_classes, *self.across_test], source)
        for sets, where in (
            (found.across_classes, "two classes"),
            (found.across_test, "the test split and in training"),
        ):
            if sets:
                first, second = sets[0][0]["path"], _other(sets[0])["path"]
                raise DataError(
                    f"the same image is in {where}: {first} and {second} ({len(sets)} such images); "
                    "mend it, or choose --duplicates drop or keep"
                )

    def dropped(self) -> dict[str, str]:
        """By `image_id`, the reason of each image to leave out.

        Of a set within one class, one image stays: the first of the test split, or else the first. Of a set with
        several labels none stays, since none of them can be trusted.
        """
        reasons: dict[str, str] = {}
        for rows in self.sets:
            if len({row["label"] for row in rows}) > 1:
                reasons |= {row["image_id"]: "duplicate_conflict" for row in rows}
            else:
                kept = min(rows, key=lambda row: (row["split"] != "test", row["path"]))
                reasons |= {row["image_id"]: "duplicate" for row in rows if row is not kept}
        return reasons


def with_checksums(images: Sequence[Row], source: Location) -> list[Row]:
    """The rows, those that share their size with another having a checksum; files are read only for that.

    Raises:
        StorageError: If a file cannot be read.
    """
    counts = Counter(row["size_bytes"] for row in images)
    return [
        row if row["checksum"] or counts[row["size_bytes"]] == 1 else row | {"checksum": _content(row, source)[1]}
        for row in images
    ]


def find_duplicates(images: Sequence[Row]) -> Duplicates:
    """The images of the same size and checksum; rows without a checksum have no duplicate."""
    return Duplicates(_sets(images, [(row["size_bytes"], row["checksum"]) for row in images]))


def make_sure(suspected: Iterable[list[Row]], source: Location) -> Duplicates:
    """Those of the suspected sets that really are the same bytes.

    CRC-32C has 32 bits and would call strangers equal in a large listing, so suspects are read and compared.

    Raises:
        StorageError: If a file cannot be read.
    """
    rows = [row for suspects in suspected for row in suspects]
    return Duplicates(_sets(rows, [hashlib.sha256(_content(row, source)[0]).digest() for row in rows]))


def _sets(rows: Sequence[Row], keys: Sequence[Any]) -> list[list[Row]]:
    sets: dict[Any, list[Row]] = {}
    for row, key in zip(rows, keys, strict=True):
        if row["checksum"] is not None:
            sets.setdefault(key, []).append(row)
    return [sorted(rows, key=lambda row: str(row["path"])) for rows in sets.values() if len(rows) > 1]


def _content(row: Row, source: Location) -> tuple[bytes, str]:
    [content] = source.read_listed([StoredFile(row["path"], row["size_bytes"], row["checksum"], row["version"])])
    return content


def _other(rows: list[Row]) -> Row:
    """A row of a set that differs from the first in label, or in being in the test split."""
    first = rows[0]
    return next(
        row for row in rows if (row["label"], row["split"] == "test") != (first["label"], first["split"] == "test")
    )
