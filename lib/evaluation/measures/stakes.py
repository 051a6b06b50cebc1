"""What a mistake costs: an order of the classes, and a table of costs."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.errors import SettingsError
from lib.models.probabilities import FloatArray
from lib.storage.location import Location
from lib.storage.text_table import SEPARATORS, WrongTable, table_text


@dataclass(frozen=True)
class Stakes:
    """How much worse one mistake is than another.

    Attributes:
        ranks: The place of each class in an order, shape (classes,); None where the classes have no order.
        costs: What an image of a class (row) costs that is predicted as another (column), shape (classes, classes);
            None where that is not known.
    """

    ranks: FloatArray | None = None
    costs: FloatArray | None = None

    @classmethod
    def of(cls, class_names: Sequence[str], ordered: Sequence[str] | None, costs: Location | None) -> "Stakes":
        """What the settings say of the classes.

        Args:
            class_names: The classes as predictions number them.
            ordered: All of them from the lowest to the highest.
            costs: A table of costs; see `read_costs`.

        Raises:
            SettingsError: If the order does not name each class once, or as `read_costs` does.
        """
        ranks = None if ordered is None else _ranks(ordered, class_names)
        return cls(ranks, None if costs is None else read_costs(costs, class_names))


def _ranks(ordered: Sequence[str], class_names: Sequence[str]) -> FloatArray:
    complaints = [f"{name!r} is no class" for name in ordered if name not in class_names]
    complaints += [f"{name!r} is missing" for name in class_names if name not in ordered]
    complaints += [f"{name!r} is named twice" for name in ordered if ordered.count(name) > 1]
    if complaints:
        expected = f"each class once, from the lowest to the highest ({', '.join(class_names)})"
        raise SettingsError(f"--ordered: {complaints[0]}; expected {expected}")
    return np.array([ordered.index(name) for name in class_names], np.float64)


def read_costs(location: Location, class_names: Sequence[str]) -> FloatArray:
    """A CSV table of costs: a row for each true class, which its first cell names, a column for each predicted one.

    Args:
        location: The table; cells on the diagonal may be empty, and then cost nothing.
        class_names: The classes in order.

    Returns:
        Shape (classes, classes), in that order.

    Raises:
        SettingsError: If it is missing or no such table, lacks a class, or a cell is no number.
    """
    if not location.is_file():
        raise SettingsError(f"--costs {location.uri}: there is no such file")
    try:
        return _costs(table_text(location.read_bytes()), class_names)
    except WrongTable as wrong:
        raise SettingsError(f"--costs {location.uri}{wrong}") from wrong


def _costs(text: str, class_names: Sequence[str]) -> FloatArray:
    separator = max(SEPARATORS, key=(text.splitlines() or [""])[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator)]
    (_, *predicted), *by_class = [row for row in rows if any(row)] or [[""]]
    found = {row[0]: dict(zip(predicted, row[1:], strict=False)) for row in by_class}
    for named, where in ((found, "row"), (dict.fromkeys(predicted), "column")):
        if missing := [name for name in class_names if name not in named]:
            raise WrongTable(f" has no {where} {missing[0]!r}; expected a row and a column for each class")
    return np.array([[_cost(found, actual, name) for name in class_names] for actual in class_names])


def _cost(found: dict[str, dict[str, str]], actual: str, predicted: str) -> float:
    cell = found[actual].get(predicted, "")
    try:
        cost = float(cell or ("0" if actual == predicted else ""))
    except ValueError:
        cost = math.nan
    if not math.isfinite(cost):
        raise WrongTable(f", row {actual!r}, column {predicted!r}: {cell!r}; expected a number")
    return cost
