"""Class names in any script: drawn by a font that has the letters, by number with a key where none has them."""

import csv
import io
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from lib import plots
from lib.evaluation.views.figures import PendingPlots
from lib.folders.predictions import ScoredPredictions
from lib.plots import canvas, letters, per_class
from lib.plots.letters import drawn_names, fewest_fonts, own_letters, shortened
from lib.storage.location import Location
from tests.fakes.evaluations import Lab
from tests.fakes.fonts import font_of

LIVER, KIDNEY, THAI = "肝臓", "腎臓", "ตับ"
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """A machine with Matplotlib's own fonts alone, and a way to install others on it."""
    own = [entry for entry in fontManager.ttflist if entry.name.startswith(("DejaVu Sans", "Last Resort"))]
    monkeypatch.setattr(fontManager, "ttflist", own)
    files: list[str] = []
    monkeypatch.setattr(letters, "findSystemFonts", lambda: list(files))

    def install_font(having: str, family: str, weight: int = 400) -> None:
        files.append(str(font_of(having, family, tmp_path / f"{family}.ttf", weight)))
        letters.letters_by_font.cache_clear()

    letters.letters_by_font.cache_clear()
    yield install_font
    letters.letters_by_font.cache_clear()


def bars(names: list[str]) -> plots.Picture:
    rows = [{"class_name": name, "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 5} for name in names]
    return plots.per_class_bars(rows)


def has_square(png: bytes) -> bool:
    """Whether a letter of a made font is in the picture: black over 8 by 8 pixels, in the colour of text."""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    dark = cv2.inRange(picture, np.array(30), np.array(45))  # INK
    return bool(cv2.erode(dark, np.ones((8, 8), np.uint8)).any())


def texts(svg: bytes) -> list[str]:
    root = xml.etree.ElementTree.fromstring(svg)
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_font_that_has_the_letters_draws_them_and_the_svg_has_them_as_text(install: Install) -> None:
    install(LIVER + KIDNEY, "Made Sans")
    picture = bars([LIVER, KIDNEY, "tongue"])
    assert has_square(picture.png)
    assert {f"{LIVER} (5)", f"{KIDNEY} (5)", "tongue (5)"} <= set(texts(picture.svg))
    assert b"'DejaVu Sans', 'Made Sans', 'Verdana', sans-serif" in picture.svg
    assert plots.lettering([LIVER]).key == {}


def test_where_no_font_has_them_a_number_is_drawn_and_the_svg_still_has_the_name(install: Install) -> None:
    del install
    written = plots.lettering(["tongue", LIVER])
    assert written.names == ("tongue", "class no. 2")
    assert written.key == {"class no. 2": LIVER}
    assert written.without_font == ("class no. 2",)
    picture = bars(["tongue", LIVER])
    assert not has_square(picture.png)
    assert {"tongue (5)", f"{LIVER} (5)"} <= set(texts(picture.svg))


def test_the_raster_shows_the_number(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    del install
    figures: list[Figure] = []

    def keep(figure: Figure, *written: plots.Lettering) -> plots.Picture:
        figures.append(figure)
        return canvas.to_picture(figure, *written)

    monkeypatch.setattr(per_class, "to_picture", keep)
    bars(["tongue", LIVER])
    shown = {text.get_text() for text in figures[0].findobj(Text) if isinstance(text, Text)}
    assert "class no. 2 (5)" in shown
    assert not any(LIVER in text for text in shown)


def test_a_name_that_is_wider_than_its_number_is_made_to_fit_in_the_svg(install: Install) -> None:
    del install
    assert b"font-size: 100%" in bars([LIVER]).svg
    assert b"font-size: 33%" in bars([LIVER * 10]).svg, "11 letters of 0.6 em for 20 of 1 em"


def test_a_name_behind_a_number_cannot_leave_its_place_in_the_svg(install: Install) -> None:
    del install
    name = f"{LIVER}</text><script>&"
    assert f"{name} (5)" in texts(bars([name]).svg)


def test_as_few_fonts_as_have_the_letters_are_taken(install: Install) -> None:
    install(LIVER, "Half Sans")
    install(KIDNEY + LIVER, "Whole Sans")
    install(THAI, "Thai Sans")
    assert plots.lettering([LIVER, KIDNEY]).fonts == ("DejaVu Sans", "Whole Sans", "sans-serif")
    assert plots.lettering([LIVER, KIDNEY, THAI]).fonts == ("DejaVu Sans", "Thai Sans", "Whole Sans", "sans-serif")


def test_a_font_helps_only_names_that_it_completes(install: Install) -> None:
    install("肝", "Half Sans")
    written = plots.lettering([LIVER, "肝"])
    assert written.names == ("class no. 1", "肝")
    assert written.fonts == ("DejaVu Sans", "Half Sans", "sans-serif")


def test_forms_of_letters_are_those_of_the_language_that_is_written() -> None:
    all_three = frozenset(map(ord, "肝あ한"))
    families = dict.fromkeys(
        ("Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK SC", "Noto Serif CJK JP"), all_three
    )
    for label, region in (("肝", "SC"), ("肝あ", "JP"), ("肝한", "KR")):
        assert fewest_fonts(frozenset(map(ord, label)), families) == (f"Noto Sans CJK {region}",)


def test_beside_a_name_from_right_to_left_the_number_stays_on_its_side(install: Install) -> None:
    del install
    lines = [name for name in texts(bars(["כבד", "tongue"]).svg) if "(5)" in name]
    assert lines == ["\u200eכבד\u200e (5)", "tongue (5)"]


def test_ordinary_names_are_drawn_without_a_look_at_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "letters_by_font", lambda _: pytest.fail("all fonts were opened"))
    names = ["liver", "Säugetier_ß", "ткань", "ιστός", "כבד", "كبد", "\n"]
    written = plots.lettering(names)
    assert [name.strip("\u200e") for name in written.names] == [*names[:-1], "class no. 7"]
    assert written.fonts == letters.PLAIN_FONTS
    assert written.without_font == (), "a line break is no text that a font could have"


def test_a_font_of_another_weight_is_taken_without_a_warning(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(LIVER, "Strong Sans", weight=500)
    assert has_square(bars([LIVER]).png)
    assert caplog.messages == []


def test_a_broken_font_of_the_machine_is_passed_over(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del install
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(letters, "findSystemFonts", lambda: [str(tmp_path / "broken.ttf")])
    assert plots.lettering([LIVER]).names == ("class no. 1",)


@pytest.mark.parametrize("name", [r"$\nothing$", "$a$", "_a"])
def test_names_in_legends_are_taken_as_they_are(name: str) -> None:
    actual, names = np.arange(20) % 2, [name, "tongue"]
    probabilities = np.eye(2)[actual]
    for picture in (
        plots.roc_curves(actual, probabilities, names),
        plots.embedding_map(np.random.default_rng(0).normal(size=(20, 2)), actual, actual == 0, names, "UMAP"),
    ):
        assert any(name in text for text in texts(picture.svg))


FOREIGN = "肝臓腎ตับ"
NAMES = st.lists(
    st.one_of(
        st.text(f"ab {FOREIGN}\n", max_size=4),
        st.text("a肝", min_size=28, max_size=40),
        st.sampled_from(["class no. 1", "class no. 2", "a class no. 12", "…"]),
    ),
    unique=True,
    min_size=1,
    max_size=6,
)
FONTS = st.dictionaries(
    st.sampled_from(["A Sans", "B Mono", "C"]), st.frozensets(st.sampled_from([ord(letter) for letter in FOREIGN]))
)


@given(names=NAMES, fonts=FONTS)
def test_only_letters_of_the_chosen_fonts_are_drawn_and_each_name_is_known_again(
    names: list[str], fonts: dict[str, frozenset[int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters, "letters_by_font", lambda sought: {name: fonts[name] & sought for name in fonts})
        patch.setattr(letters, "offer_in_usual_weight", lambda _: None)
        written = plots.lettering(names)
    had = own_letters().union(*(fonts.get(font, frozenset()) for font in written.fonts))
    assert all(ord(letter) in had for name in written.names for letter in name)
    assert len(set(written.names)) == len(names)
    for drawn, name in zip(written.names, names, strict=True):
        assert written.key.get(drawn) == (None if drawn == shortened(name) else name)
    assert set(written.key) <= set(written.names)
    assert set(written.without_font) <= set(written.key)


def test_long_names_keep_both_ends_unless_these_are_alike() -> None:
    alike = ["a" * 20 + middle + "b" * 20 for middle in ("x", "y")]
    assert drawn_names([*alike, "a" * 30 + "_end"], [True] * 3) == [
        "class no. 1",
        "class no. 2",
        f"{'a' * 14}…{'a' * 9}_end",
    ]


@pytest.mark.parametrize("has_font", [True, False])
def test_an_evaluation_tells_the_names_it_cannot_draw_once_and_keeps_their_key_beside_the_plots(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture, has_font: bool
) -> None:
    names = [LIVER, "tongue"]
    if has_font:
        install(LIVER, "Made Sans")
    lab = Lab(tmp_path, images=12, class_names=names)
    probabilities = lab.probabilities({1})
    predictions = lab.predictions(probabilities).append_column("probabilities", [probabilities.tolist()])
    scored, folder = ScoredPredictions(predictions, names, {}, None), Location(str(tmp_path / "evaluation"))
    key = PendingPlots(scored, lab.metrics(probabilities), folder).write()
    file = tmp_path / "evaluation/plots/key.csv"
    if has_font:
        assert (key, caplog.messages, file.exists()) == ({}, [], False)
    else:
        (line,) = caplog.messages
        assert f"{LIVER} is 'class no. 1'" in line
        assert "install a font" in line
        assert list(csv.reader(io.StringIO(file.read_text("utf-8-sig")))) == [
            ["drawn_as", "class_name"],
            ["class no. 1", LIVER],
        ]
        assert key == {"class no. 1": LIVER}
