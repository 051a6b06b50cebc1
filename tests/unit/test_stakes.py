"""An order of classes and a table of costs: as they are written, or refused by what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest

from lib.errors import SettingsError
from lib.evaluation.measures.stakes import Stakes, read_costs
from lib.storage.location import Location

CLASSES = ["high", "low", "none"]


def costs(tmp_path: Path, text: str) -> Location:
    (tmp_path / "costs.csv").write_bytes(text.encode("utf-8-sig"))
    return Location(str(tmp_path / "costs.csv"))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_rows_and_columns_are_found_by_their_names(tmp_path: Path, separator: str) -> None:
    table = costs(
        tmp_path, "true,none,low,high\r\nlow,5,0,1\r\nnone,,2,4.5\r\nhigh,100,20,\r\n".replace(",", separator)
    )
    np.testing.assert_array_equal(read_costs(table, CLASSES), [[0, 20, 100], [1, 0, 5], [4.5, 2, 0]])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("true,none,low\nnone,0,1\nlow,1,0\n", "costs.csv has no row 'high'"),
        ("true,none,low\nnone,0,1\nlow,1,0\nhigh,1,1\n", "costs.csv has no column 'high'"),
        ("true,none,low,high\nnone,0,1,2\nlow,1,0,\nhigh,2,1,0\n", "row 'low', column 'high': ''; expected a number"),
        ("true,none,low,high\nnone,0,1,2\nlow,1,0,nan\nhigh,2,1,0\n", "row 'low', column 'high': 'nan'; expected"),
        ("true,none,low,high\nnone,0,1,2\nlow,1,0\nhigh,2,1,0\n", "row 'low', column 'high': ''; expected a number"),
        ("", "has no row 'high'"),
    ],
)
def test_a_table_that_lacks_a_number_is_refused_by_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        read_costs(costs(tmp_path, text), CLASSES)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--costs .*: there is no such file"):
        read_costs(Location(str(tmp_path / "costs.csv")), CLASSES)


def test_an_order_gives_each_class_its_rank() -> None:
    assert Stakes.of(CLASSES, ["none", "low", "high"], None).ranks.tolist() == [2, 1, 0]
    assert Stakes.of(CLASSES, None, None) == Stakes()


@pytest.mark.parametrize(
    ("ordered", "complaint"),
    [
        (["none", "low"], "'high' is missing"),
        (["none", "low", "high", "higher"], "'higher' is no class"),
        (["none", "low", "high", "low"], "'low' is named twice; expected each class once, .* \\(high, low, none\\)"),
    ],
)
def test_an_order_of_other_classes_is_refused(ordered: list[str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        Stakes.of(CLASSES, ordered, None)
