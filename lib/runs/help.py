"""The `--help` of a job: its settings under headings, the most needed first, without importing what does the work."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.text import Text

from lib.config.base import Group, Settings

WIDEST, INDENT = 100, 6
"""Columns: longer lines are hard to read on a wide terminal."""
WORDS = {int: "INT", float: "FLOAT", str: "TEXT"}


def print_help(kind: type[Settings], program: str, recipe: Mapping[str, object], footer: str) -> None:
    """Print every setting of a job, with its unit and default, to stdout.

    Args:
        kind: The settings.
        program: What is typed to run the job.
        recipe: Values that stand for the defaults.
        footer: What is said at the end.
    """
    console = Console(soft_wrap=True, highlight=False)
    width = min(console.width, WIDEST)
    needed = [name for name, field in kind.model_fields.items() if _is_needed(name, field, recipe)]
    usage = " ".join([program, *(f"{flag_of(name)} {_value(kind.model_fields[name])}" for name in needed), "[...]"])
    console.print(f"usage: {usage}\n", markup=False)
    console.print(textwrap.fill(" ".join((kind.__doc__ or "").split()), width), markup=False)
    for group, names in grouped(kind).items():
        console.print(Text(f"\n{group}", style="bold"))
        for name in names:
            for line in _lines(name, kind.model_fields[name], recipe, width):
                console.print(line)
    console.print(f"\n{textwrap.fill(footer, width)}", markup=False)


def grouped(kind: type[Settings]) -> dict[Group, list[str]]:
    """The names of the settings by heading: first what must be given, then what belongs to this job alone."""
    lineage = list(kind.__mro__)

    def place(name: str) -> tuple[bool, int]:
        return not kind.model_fields[name].is_required(), lineage.index(kind.owner_of(name))

    groups = {group: [name for name in kind.model_fields if kind.group_of(name) is group] for group in Group}
    return {group: sorted(names, key=place) for group, names in groups.items() if names}


def flag_of(name: str) -> str:
    """A setting as it is written on the command line."""
    return "--" + name.replace("_", "-")


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The words that a setting may be; empty where it is none of a few."""
    return tuple(word for part in _parts(field.annotation) if get_origin(part) is Literal for word in get_args(part))


def _lines(name: str, field: FieldInfo, recipe: Mapping[str, object], width: int) -> Iterator[Text]:
    flag = f"{flag_of(name)}, --no-{flag_of(name)[2:]}" if field.annotation is bool else flag_of(name)
    head = Text.assemble("  ", (flag, "cyan"))
    if value := _value(field):
        head.append(f" {value}")
    if _is_needed(name, field, recipe):
        head.append("  (required)", "red")
    elif default := _written(recipe.get(name, field.default)):
        head.append(f"  (default: {default})", "dim")
    yield head
    text = " ".join((field.description or "").split())
    for line in textwrap.wrap(text, width - INDENT, break_on_hyphens=False):
        yield Text(" " * INDENT + line)


def _is_needed(name: str, field: FieldInfo, recipe: Mapping[str, object]) -> bool:
    return field.is_required() and name not in recipe


def _parts(annotation: Any) -> Iterator[Any]:
    """The types that a setting may have, without None, and those of the items of a list."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in {Union, UnionType, tuple}:
        for part in get_args(annotation):
            yield from _parts(part)
    elif annotation not in {NoneType, Ellipsis}:
        yield annotation


def _value(field: FieldInfo) -> str:
    """What stands behind a flag: its kind of value, or the words to choose from; nothing for a switch."""
    if field.annotation is bool:
        return ""
    words = choices_of(field)
    kinds = [f"{{{','.join(words)}}}"] if words else [WORDS.get(part, "TEXT") for part in _parts(field.annotation)]
    is_list = get_origin(field.annotation) is tuple
    if is_list and Ellipsis in get_args(field.annotation):
        return f"{kinds[0]} ..."
    return " ".join(kinds if is_list else kinds[:1])


def _written(value: object) -> str:
    """A default as one would type it; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if type(value) in {tuple, list} and isinstance(value, Iterable):
        return " ".join(map(str, value))
    return str(value)
