"""A table of labels, and of what else is known of each file: CSV as programs and spreadsheets write it."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lib.errors import DataError, SettingsError
from lib.folders.columns import columns_text
from lib.folders.manifest import SPLITS
from lib.ingest.labels import FOUND, VALIDATION_FOLDERS, Found, Placement, exclusion_by_name, one_spelling
from lib.storage.location import Location
from lib.storage.text_table import REMEDY, SEPARATORS, WrongTable, table_text

NEEDED = ("path", "label")
KNOWN = (*NEEDED, "split", *FOUND)


@dataclass(frozen=True)
class LabelTable:
    """A CSV table with a row an image: columns `path` and `label`, and if wanted `split`, `group`, `site` and others.

    Attributes:
        uri: Where it is from, for messages.
        places: What each row says by path, relative to the source; one object for all rows that agree in it.
        found: What was asked for by the name of a column that is there.
    """

    uri: str
    places: dict[str, Placement]
    found: frozenset[Found]

    @classmethod
    def read(cls, location: Location, by: Mapping[Found, str | None] | None = None) -> "LabelTable":
        """Read a table: in UTF-8 or UTF-16, with commas, semicolons or tabs.

        Args:
            by: The columns of the groups and of the sites; `group` and `site` where there is none of that name.

        Raises:
            SettingsError: If it is missing or is no such table, has no `path` or `label` column, an empty cell in one
                of them, an unknown split, or two rows for one path.
        """
        if not location.is_file():
            raise SettingsError(f"--labels {location.uri}: there is no such file")
        try:
            text = table_text(location.read_bytes())
            columns, rows = _parted(text)
            wanted = {name: _known_name(column) for name, column in (by or {}).items() if column}
            found = frozenset(name for name, column in wanted.items() if column in columns)
            named: dict[Found, str] = {name: wanted[name] if name in found else name for name in FOUND}
            return cls(location.uri, _places(rows, named), found)
        except WrongTable as wrong:
            raise SettingsError(f"--labels {location.uri}{wrong}") from wrong

    def place(self, path: str) -> Placement:
        """What the table says of a file; the split is train unless stated."""
        if exclusion := exclusion_by_name(path):
            return Placement(exclusion=exclusion)
        return self.places.get(one_spelling(path)) or Placement(exclusion="not_in_table")

    def refuse_missing_files(self, listed: pa.Array | pa.ChunkedArray) -> None:
        """Stop when the table names files that are not in the source.

        Raises:
            DataError: Naming the first one.
        """
        named = pa.array(self.places, pa.string())
        missing = sorted(named.filter(pc.invert(pc.is_in(named, pc.utf8_normalize(listed, "NFC")))).to_pylist())
        if missing:
            advice = "; write paths with / instead of \\" if "\\" in missing[0] else "; paths are relative to --source"
            raise DataError(
                f"--labels {self.uri} names {len(missing)} files that are not in the source, "
                f"for example {missing[0]!r}{advice}"
            )


def _parted(text: str) -> tuple[Sequence[str], Iterator[tuple[int, dict[str, str]]]]:
    """The columns of a table, and its rows by column, each with the number of its line."""
    stated = re.match(r"sep=(.)\r?\n", text)  # as Excel writes and reads it
    lines = io.StringIO(text[stated.end() :] if stated else text, newline="")
    header = lines.readline()
    for separator in (stated[1],) if stated else SEPARATORS:
        columns = [_known_name(cell) for cell in next(csv.reader([header], delimiter=separator), [])]
        if set(NEEDED) <= set(columns):
            break
    else:
        columns = max(([_known_name(cell) for cell in header.split(separator)] for separator in SEPARATORS), key=len)
        lacking = next(name for name in NEEDED if name not in columns)
        raise WrongTable(f" has no column {lacking!r}; expected at least path,label, found {', '.join(columns)[:200]}")
    if doubled := [name for name in columns if name and columns.count(name) > 1]:
        raise WrongTable(f" has {columns.count(doubled[0])} columns {doubled[0]!r}; leave one of them")
    return columns, _rows(lines, columns, separator, 2 if stated else 1)


def _known_name(cell: str) -> str:
    """The columns that we know in any case; others as they are."""
    name = cell.strip()
    return name.casefold() if name.casefold() in KNOWN else name


def _rows(lines: io.StringIO, columns: list[str], separator: str, first: int) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for cells in reader:
            if len(cells) > len(columns) and any(cells[len(columns) :]):
                found = f"{len(cells)} cells where the header has {len(columns)}"
                raise WrongTable(f", line {first + reader.line_num}: {found}; put a cell with {separator!r} in quotes")
            if any(cell.strip() for cell in cells):
                row = dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))
                yield first + reader.line_num, row
    except csv.Error as error:
        raise WrongTable(f", line {first + reader.line_num}: {error}; {REMEDY}") from error


def _places(rows: Iterator[tuple[int, dict[str, str]]], named: Mapping[Found, str]) -> dict[str, Placement]:
    """By path, with group and site from the columns so named, and what the columns say that have no other use."""
    used = {*NEEDED, "split", "", *named.values()}
    places: dict[str, Placement] = {}
    shared: dict[Placement, Placement] = {}
    for line, row in rows:
        path, label, split = one_spelling(row["path"].removeprefix("./")), row["label"].strip(), _split(row)
        if problem := _problem(path, label, split, places):
            raise WrongTable(f", line {line}: {problem}")
        group, site = (row.get(named[name], "").strip() or None for name in FOUND)
        others = columns_text({name: one_spelling(cell.strip()) for name, cell in row.items() if name not in used})
        place = Placement(one_spelling(label), split, group, site and one_spelling(site), others)
        places[path] = shared.setdefault(place, place)
    return places


def _split(row: Mapping[str, str]) -> str:
    """The split in any case, by any of its usual names; `train` unless stated."""
    split = row.get("split", "").strip().casefold()
    return "validation" if split in VALIDATION_FOLDERS else split or "train"


def _problem(path: str, label: str, split: str, earlier: Mapping[str, Placement]) -> str | None:
    if not path.strip() or not label:
        return f"{'label' if path.strip() else 'path'} is empty"
    if split not in SPLITS:
        return f"split is {split!r}; expected one of {', '.join(SPLITS)}"
    return f"{path!r} is listed twice" if path in earlier else None
