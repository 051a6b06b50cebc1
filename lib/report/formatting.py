"""Numbers, names and paths as people read them."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

NOTHING = "\N{EN DASH}"
"""Stands where there is no number."""
NAMES_SHOWN = 5


def percent(share: float, decimals: int = 1) -> str:
    """A share as `95.0 %`."""
    return f"{100 * share:.{decimals}f} %"


def points(difference: float) -> str:
    """A difference of two shares in hundredths: `+5.0`, with a minus sign in the other direction, or `0.0`."""
    text = f"{100 * difference:+z.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text == "+0.0" else text


def count_of(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `1,200 images`, `2 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def has(number: int) -> str:
    """The verb after `count_of`: `1 image has`, `2 images have`."""
    return "has" if number == 1 else "have"


def was(number: int) -> str:
    """The verb after `count_of`: `1 image was`, `2 images were`."""
    return "was" if number == 1 else "were"


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def setting(value: Any) -> str:
    """The value of a setting as it is given on the command line; `none` for an empty list."""
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def breakable(text: str) -> Markup:
    """Escaped text that may break after `_` and `/`, where long names and paths are easiest to read on."""
    return Markup("").join(escape(part) + Markup("<wbr>") for part in re.split(r"(?<=[_/])", text))


def unbroken(text: str) -> str:
    """The text with numbers and their percent signs kept on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def or_nothing(formatted: Callable[[float], str]) -> Callable[[float | None], str]:
    """The same formatting for numbers that may be missing or not finite."""

    def shown(value: float | None) -> str:
        return NOTHING if value is None or not math.isfinite(value) else formatted(value)

    return shown


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3 h 5 min`."""
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004


def json_in_page(value: Any) -> Markup:
    """JSON that may stand inside a `script` element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - it holds no sign that HTML gives a meaning
