"""Class names in any script: the installed fonts that have their letters, and what is drawn where no font has them.

Letters are joined, stacked and ordered as their script wants it by libraqm, which Matplotlib has inside from 3.11 on:
Thai, Devanagari, and Arabic and Hebrew, whose names go from right to left in lines that go from left to right.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from xml.sax.saxutils import escape

from matplotlib.font_manager import (
    FontEntry,
    FontProperties,
    findfont,
    findSystemFonts,
    fontManager,
    get_font,
    weight_dict,
)
from matplotlib.ft2font import FaceFlags, FT2Font

Letters = frozenset[int]
"""Unicode code points."""

OWN_FONT, PLAIN_FONTS = "DejaVu Sans", ("sans-serif",)
"""What Matplotlib brings, and what it takes unless told otherwise: the same."""
LONGEST_NAME = 28
NO_LETTERS = ("Cc", "Cs", "Cn")
"""Categories of Unicode that no font draws: control characters, halves of characters, what is not assigned."""
LAST_RESORT = "lastresort"
"""Fonts of this name have a box for every letter."""
USUAL_WEIGHT = 400
KANA, HANGUL = range(0x3040, 0x3100), range(0xAC00, 0xD7A4)
LEFT_TO_RIGHT = "\u200e"
"""An unseen letter of that direction."""
LETTER_EM, WIDE_LETTER_EM = 0.6, 1.0
"""About as wide is a letter of `OWN_FONT`, and one of East Asia."""


@dataclass(frozen=True)
class Lettering:
    """How the names of classes are drawn.

    Attributes:
        names: What is drawn for each class, in their order: its name, cut in the middle if it is long, or a stand-in.
            Different names are drawn differently. A name from right to left is between marks that are not seen.
        fonts: Families that have all letters of it, Matplotlib's own first.
        key: The class name behind each stand-in.
        without_font: Those stand-ins whose class name is text, in letters that no installed font has.
    """

    names: tuple[str, ...]
    fonts: tuple[str, ...] = PLAIN_FONTS
    key: Mapping[str, str] = field(default_factory=dict)
    without_font: tuple[str, ...] = ()


def lettering(class_names: Sequence[str]) -> Lettering:
    """How to draw these names with as few of the installed fonts as have their letters.

    Other fonts than Matplotlib's own are looked at only where that lacks a letter.

    Args:
        class_names: In the order of their indices; any text, each once.
    """
    lacking = [frozenset(map(ord, name)) - own_letters() for name in class_names]
    sought = frozenset(letter for letters in lacking for letter in letters if _is_letter(letter))
    installed = letters_by_font(sought) if sought else {}
    had = _all_of(installed.values())
    others = fewest_fonts(_all_of(letters for letters in lacking if letters <= had), installed)
    for family in others:
        offer_in_usual_weight(family)
    names = drawn_names(class_names, [letters <= had for letters in lacking])
    key = {drawn: name for drawn, name in zip(names, class_names, strict=True) if drawn != shortened(name)}
    text = [bool(letters - had) and letters <= sought for letters in lacking]
    return Lettering(
        names=tuple(map(_in_line, names)),
        fonts=(OWN_FONT, *others, *PLAIN_FONTS) if others else PLAIN_FONTS,
        key=key,
        without_font=tuple(drawn for drawn, is_text in zip(names, text, strict=True) if is_text),
    )


def drawn_names(class_names: Sequence[str], drawable: Sequence[bool]) -> list[str]:
    """Each name, cut in the middle if it is long, or a stand-in, such that different names are drawn differently.

    Args:
        class_names: In the order of their indices; each once.
        drawable: Whether fonts have all letters of a name.
    """
    short = [shortened(name) for name in class_names]
    times = Counter(short)
    numbered = {
        index
        for index, name in enumerate(short)
        if not drawable[index] or not name.strip() or times[name] > 1  # two long names with the same ends
    }
    while taken := {
        index
        for index, name in enumerate(short)
        if index not in numbered and any(stand_in(other + 1) in name for other in numbered)
    }:
        numbered |= taken
    return [stand_in(index + 1) if index in numbered else name for index, name in enumerate(short)]


def stand_in(number: int | str) -> str:
    """What is drawn for a class whose name cannot be, by its number, which counts from 1."""
    return f"class no. {number}"


def shortened(name: str) -> str:
    """At most `LONGEST_NAME` letters of a name, from both of its ends."""
    if len(name) <= LONGEST_NAME:
        return name
    kept = LONGEST_NAME - 1
    return f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


def _in_line(name: str) -> str:
    """A name from right to left between marks, so that a number beside it stays on its side."""
    backwards = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name)
    return f"{LEFT_TO_RIGHT}{name}{LEFT_TO_RIGHT}" if backwards else name


def fewest_fonts(sought: Letters, installed: Mapping[str, Letters]) -> tuple[str, ...]:
    """Families that together have some letters: again and again the one that has most of those still sought.

    Of families with as many, one without serifs comes first, and of Chinese, Japanese and Korean forms of one font that
    which the letters speak for.

    Args:
        sought: Each of them is in some family.
        installed: The letters of each family.
    """
    chosen: list[str] = []
    region = "JP" if sought & set(KANA) else "KR" if sought & set(HANGUL) else "SC"

    def rank(family: str) -> tuple[int, bool, bool, bool, str]:
        other_kind = "mono" in family.lower(), "sans" not in family.lower(), not family.endswith(region)
        return (-len(installed[family] & sought), *other_kind, family)

    while sought:
        chosen.append(min(installed, key=rank))
        sought -= installed[chosen[-1]]
    return tuple(chosen)


@lru_cache(maxsize=1)
def own_letters() -> Letters:
    """What `OWN_FONT` has, bold too."""
    faces = (FontProperties(family=OWN_FONT, weight=weight) for weight in ("normal", "bold"))
    usual, bold = (frozenset(get_font(findfont(face)).get_charmap()) for face in faces)
    return frozenset(letter for letter in usual & bold if _is_letter(letter))


@lru_cache(maxsize=16)
def letters_by_font(sought: Letters) -> Mapping[str, Letters]:
    """Which of some letters each installed family has; families without any are left out.

    A font of every family is opened, of those too that were installed after Matplotlib made its list of fonts.
    """
    for path in sorted(set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}):
        try:
            fontManager.addfont(path)
        except Exception:  # noqa: BLE001, S112 - a broken font of the machine, of which Matplotlib says anything
            continue
    found = {family: _letters_of(entry, sought) for family, entry in _upright_faces().items()}
    return {family: letters for family, letters in found.items() if letters}


def _upright_faces() -> dict[str, FontEntry]:
    """Of each family the upright face that is nearest to the usual weight."""
    faces: dict[str, FontEntry] = {}
    for entry in sorted(fontManager.ttflist, key=lambda entry: abs(_weight(entry) - USUAL_WEIGHT)):
        if entry.style == "normal" and LAST_RESORT not in entry.name.replace(" ", "").lower():
            faces.setdefault(entry.name, entry)
    return faces


def _weight(entry: FontEntry) -> int:
    return weight_dict[entry.weight] if isinstance(entry.weight, str) else entry.weight


def _letters_of(entry: FontEntry, sought: Letters) -> Letters:
    try:
        face = FT2Font(entry.fname, face_index=entry.index)
    except (OSError, RuntimeError):  # not there any more, or of a kind that Matplotlib does not draw
        return frozenset()
    drawn = FaceFlags.SCALABLE in face.face_flags and FaceFlags.COLOR not in face.face_flags
    return frozenset(letter for letter in sought if drawn and face.get_char_index(letter))


def offer_in_usual_weight(family: str) -> None:
    """Have Matplotlib take a family that is a little lighter or bolder than usual without a warning for every text."""
    entry = _upright_faces()[family]
    if _weight(entry) != USUAL_WEIGHT:
        fontManager.ttflist.append(replace(entry, weight=USUAL_WEIGHT))


def _is_letter(letter: int) -> bool:
    return unicodedata.category(chr(letter)) not in NO_LETTERS


def _all_of(parts: Iterable[Letters]) -> Letters:
    return frozenset[int]().union(*parts)


def with_names(svg: str, written: Lettering) -> str:
    """An SVG in which names that no installed font has stand in place of their stand-ins, as text.

    The program that shows it may have a font. A name that is wider than its stand-in is made as small as fits there.
    """
    spans = {drawn: _in_the_room_of(drawn, written.key[drawn]) for drawn in written.without_font}
    return re.sub(stand_in(r"\d+"), lambda found: spans.get(found[0], found[0]), svg)


def _in_the_room_of(drawn: str, name: str) -> str:
    share = min(1, _width_em(drawn) / _width_em(name))
    return f'<tspan style="font-size: {share:.0%}">{escape(name)}</tspan>'


def _width_em(text: str) -> float:
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return wide * WIDE_LETTER_EM + (len(text) - wide) * LETTER_EM
