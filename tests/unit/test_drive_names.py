"""Paths for files whose names repeat or cannot stand in a path: every file has one path, every path means one file."""

import re

from hypothesis import given
from hypothesis import strategies as st

from lib.storage.drive.names import FOLDER_TYPE, Item, id_in, named, needs_suffix, oldest, suffixed

ID = "1AbCdEfGhIjKlMnOpQrStUv"


def item(name: str, file_id: str = ID, created: str = "2026-01-01T00:00:00.000Z") -> Item:
    return Item(file_id, name, "image/tiff", 1, "0" * 32, created, ("parent",), None)


def test_the_oldest_keeps_its_name_and_the_others_carry_their_id() -> None:
    items = [item("a.tif", ID + letter, f"2026-01-0{day}") for letter, day in (("x", 2), ("y", 1), ("z", 3))]
    assert {path: found.id for path, found in named(items).items()} == {
        "a.tif": ID + "y",
        f"a ({ID}x).tif": ID + "x",
        f"a ({ID}z).tif": ID + "z",
    }


def test_of_two_made_in_the_same_moment_the_smaller_id_is_the_oldest() -> None:
    assert named([item("a", ID + "b"), item("a", ID + "a")])["a"].id == ID + "a"
    assert oldest([]) is None


def test_names_that_cannot_stand_in_a_path_carry_the_id() -> None:
    for name, path in {
        "a/b.tif": f"a_b ({ID}).tif",
        "": f" ({ID})",
        "..": f".. ({ID})",
        "line\nbreak": f"line_break ({ID})",
        f"x ({ID[:-1]}).tif": f"x ({ID[:-1]}) ({ID}).tif",
        f"x ({ID[:-1]})": f"x ({ID[:-1]}) ({ID})",
        f"a.b ({ID[:-1]})": f"a.b ({ID[:-1]}) ({ID})",
    }.items():
        assert list(named([item(name)])) == [path]
        assert id_in(path) == ID


def test_usual_names_stand_for_themselves() -> None:
    for name in ("a.tif", "slide (1).tif", "Kopie von a (2).tif", "ä é.tif", ".hidden", "a.b.c", "trailing "):
        assert not needs_suffix(name)
        assert list(named([item(name)])) == [name]


IDS = st.text(st.sampled_from("ABCabc012_-"), min_size=16, max_size=24)
PIECES = st.sampled_from(["a", ".tif", ".", "/", " ", "(", ")", " (", "\n", "ä", ".tar", f" ({ID})", f" ({ID}).tif"])
NAMES = st.lists(PIECES, max_size=5).map("".join) | st.text(max_size=6)


@given(st.lists(st.tuples(NAMES, st.integers(0, 2)), max_size=12), st.lists(IDS, min_size=12, max_size=12, unique=True))
def test_every_item_has_one_path_and_every_path_means_one_item(names: list[tuple[str, int]], ids: list[str]) -> None:
    items = [item(name, ids[index], f"2026-01-0{day + 1}") for index, (name, day) in enumerate(names)]
    paths = named(items)
    assert len(paths) == len(items)
    assert {found.id for found in paths.values()} == {each.id for each in items}
    for path, found in paths.items():
        assert not re.search(r"[/\x00-\x1f]", path)
        assert path not in {"", ".", ".."}
        if id_in(path) is None:  # then it is found by its name, as the oldest of that name
            assert path == found.name
            assert found is oldest(each for each in items if each.name == path)
        else:  # then it is found by the id that the path names
            assert id_in(path) == found.id
            assert suffixed(found) == path


@given(NAMES, NAMES)
def test_a_path_does_not_change_when_a_younger_file_is_added(name: str, other: str) -> None:
    first = item(name, ID, "2026-01-01")
    (path,) = named([first])
    assert named([first, item(other, ID + "2", "2026-01-02")])[path] is first


def test_folders_shortcuts_and_google_documents_are_told_apart() -> None:
    kinds = {
        FOLDER_TYPE: (True, False, False),
        "application/vnd.google-apps.shortcut": (False, True, False),
        "application/vnd.google-apps.document": (False, False, True),
        "application/vnd.google-apps.spreadsheet": (False, False, True),
        "image/tiff": (False, False, False),
    }
    for mime_type, expected in kinds.items():
        kind = Item(ID, "x", mime_type, 0, None, "", (), None)
        assert (kind.is_folder, kind.is_shortcut, kind.is_google_document) == expected
