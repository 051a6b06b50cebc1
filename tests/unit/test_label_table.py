"""Tables of labels as programs and spreadsheets write them: read, or refused by file, row and remedy."""

import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest

from lib.errors import DataError, SettingsError
from lib.folders.columns import read_columns
from lib.ingest.label_table import LabelTable
from lib.ingest.labels import Placement
from lib.storage.location import Location

ROWS = [("path", "label", "split"), ("a.tif", "Präparat", "train"), ("b/c.tif", "lung", "test")]
EXPECTED = {"a.tif": Placement("Präparat", "train"), "b/c.tif": Placement("lung", "test")}


def lines(separator: str = ",", rows: list[tuple[str, ...]] = ROWS, end: str = "\r\n") -> str:
    return end.join(separator.join(row) for row in rows) + end


def table(tmp_path: Path, content: str | bytes, **by: str | None) -> LabelTable:
    (tmp_path / "labels.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return LabelTable.read(Location(str(tmp_path / "labels.csv")), by)


def test_a_table_gives_label_split_and_group(tmp_path: Path) -> None:
    labels = table(tmp_path, "path,label,split,group\na.tif,liver,,s1\nb/c.tif,lung,test,\n")
    assert labels.place("a.tif") == Placement(label="liver", split="train", group="s1")
    assert labels.place("b/c.tif") == Placement(label="lung", split="test", group=None)
    assert labels.place("d.tif") == Placement(exclusion="not_in_table")
    assert labels.place(".x.tif") == Placement(exclusion="hidden_file")
    with pytest.raises(DataError, match=r"names 1 files that are not in the source, for example 'b/c.tif'"):
        labels.refuse_missing_files(pa.array(["a.tif", "z.tif"]))


CONTENTS = {
    "UTF-8": lines().encode(),
    "UTF-8 with its mark": lines().encode("utf-8-sig"),
    "Unicode text of Excel": lines("\t").encode("utf-16"),
    "UTF-16 of a Mac": ("\ufeff" + lines("\t")).encode("utf-16-be"),
    "semicolons": lines(";").encode(),
    "semicolons, stated": ("sep=;\r\n" + lines(";")).encode(),
    "tabs": lines("\t").encode(),
    "lines of an old Mac": lines(end="\r").encode(),
    "a header in any case": lines(rows=[("Path", " LABEL", "Split "), *ROWS[1:]]).encode(),
    "splits in any case": lines(rows=[ROWS[0], ("a.tif", "Präparat", "Train"), ("b/c.tif", "lung", "TEST")]).encode(),
    "spaces around labels": lines(rows=[ROWS[0], ("a.tif", " Präparat ", ""), ("b/c.tif", "lung", "test")]).encode(),
    "dots before paths": lines(rows=[ROWS[0], *((f"./{path}", *rest) for path, *rest in ROWS[1:])]).encode(),
    "empty rows at the end": (lines() + ",,\r\n,,\r\n\r\n").encode(),
    "quotes": lines(rows=[ROWS[0], *(tuple(f'"{cell}"' for cell in row) for row in ROWS[1:])]).encode(),
    "accents apart": unicodedata.normalize("NFD", lines()).encode(),
    "cells left over": lines(rows=[ROWS[0], *((*row, "", "") for row in ROWS[1:])]).encode(),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_spreadsheets_write_is_read(content: bytes, tmp_path: Path) -> None:
    assert table(tmp_path, content).places == EXPECTED


def test_a_path_is_found_whether_its_accents_are_apart_or_not(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "rénal.tif") for form in ("NFC", "NFD"))
    assert composed != apart
    for written, listed in ((composed, apart), (apart, composed)):
        labels = table(tmp_path, f"path,label\n{written},liver\n")
        assert labels.place(listed).label == "liver"
        labels.refuse_missing_files(pa.array([listed]))


def test_a_split_may_have_the_names_of_others(tmp_path: Path) -> None:
    labels = table(tmp_path, "path,label,split\na.tif,liver,val\nb.tif,liver,Validation\n")
    assert {place.split for place in labels.places.values()} == {"validation"}


def test_the_column_of_groups_is_found_in_any_case(tmp_path: Path) -> None:
    for group_by, has_groups in (("Group", True), ("group", True), ("Patient", True), (None, False), ("slide", False)):
        labels = table(tmp_path, "path,label,Group,Patient\na.tif,liver,g1,p1\n", group=group_by)
        assert labels.found == ({"group"} if has_groups else set())
        assert labels.places["a.tif"].group == ("p1" if group_by == "Patient" else "g1")


def test_columns_of_any_name_are_kept_but_for_empty_cells(tmp_path: Path) -> None:
    rows = "path,label,SITE,Färbung,age\na.tif,liver, Kiel ,H&E,\nb.tif,liver,,,7\nc.tif,liver,,,\n"
    labels = table(tmp_path, rows)
    assert [place.site for place in labels.places.values()] == ["Kiel", None, None]
    texts = [place.columns for place in labels.places.values()]
    assert texts[0] == '{"Färbung": "H&E"}'  # as any program reads it
    assert texts[2] is None
    assert read_columns(texts) == {"Färbung": ["H&E", None, None], "age": [None, "7", None]}


def test_a_column_that_names_sites_or_groups_is_not_kept_twice(tmp_path: Path) -> None:
    rows = "path,label,site,Scanner,slide\na.tif,liver,Kiel,A1,s1\n"
    labels = table(tmp_path, rows, site="Scanner", group="slide")
    assert labels.found == {"site", "group"}
    assert labels.places["a.tif"] == Placement("liver", "train", "s1", "A1", '{"site": "Kiel"}')
    assert table(tmp_path, rows, site="hospital-(.)").found == set()  # a pattern, then


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("path,class\na.tif,liver\n", "labels.csv has no column 'label'; .* found path, class"),
        ("", "labels.csv has no column 'path'"),
        ("path,label\na.tif,\n", "line 2: label is empty"),
        ("path,label\na.tif,  \n", "line 2: label is empty"),
        ("path,label\n,liver\n", "line 2: path is empty"),
        ("path,label\na.tif,liver\na.tif,lung\n", "line 3: 'a.tif' is listed twice"),
        ("path,label\na.tif,liver\n./a.tif,lung\n", "line 3: 'a.tif' is listed twice"),
        ("path,label,split\na.tif,liver,tset\n", "line 2: split is 'tset'; expected one of train, validation, test"),
        ("path,label,age,age\na.tif,liver,7,8\n", "has 2 columns 'age'; leave one of them"),
        ("path,label,Label\na.tif,liver,x\n", "has 2 columns 'label'"),
        ("path,label\na.tif,liver, left\n", "line 2: 3 cells where the header has 2; put a cell with ',' in quotes"),
        ('path,label\na.tif,"liver\nb.tif,lung\n', "line 3: unexpected end of data; in Excel"),
        (lines().encode("cp1252"), r"labels.csv, line 2: not UTF-8 \(0xE4 .*Windows-1252 .*'a.tif,Präparat,train'; in"),
        (lines(";").encode("latin-1"), "line 2: not UTF-8 .* in Excel, save it as `CSV UTF-8"),
        (lines().encode("utf-16")[:-1], "begins as UTF-16 and ends in the middle of a letter"),
        (b"PK\x03\x04\x14\x00", "is an Excel workbook, not a CSV table; in Excel, save it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Excel workbook"),
    ],
)
def test_a_wrong_table_is_refused_in_a_line_that_names_the_row(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        table(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--labels {tmp_path}/labels.csv")


def test_paths_of_windows_are_refused_with_the_way_to_write_them(tmp_path: Path) -> None:
    labels = table(tmp_path, "path,label\ntrain\\a.tif,liver\n")
    with pytest.raises(DataError, match="write paths with / instead of"):
        labels.refuse_missing_files(pa.array(["train/a.tif"]))
