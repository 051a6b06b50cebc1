"""Settings from default < `--config recipe.yaml` < flag, refused with one line."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console

from lib.config.base import SettingsT
from lib.config.resources import WorkerCount
from lib.errors import SettingsError
from lib.runs.help import flag_of, print_help

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

CONFIG_FLAG = "--config"
HELP_FLAGS = {"-h", "--help"}
FOOTER = f"Settings come from default < `{CONFIG_FLAG} recipe.yaml` < flag."


def parse_settings(config_type: type[SettingsT], arguments: Sequence[str], program: str) -> SettingsT:
    """The settings of one run. What was not given is not among their `model_fields_set`.

    Args:
        config_type: The settings of the job.
        arguments: The command line, without the program.
        program: What `--help` calls the program.

    Raises:
        SettingsError: If a flag or recipe key is unknown, a value is bad, or a required one is missing.
        SystemExit: With code 0, after printing `--help`.
    """
    flags, recipe_uri = _split_config(list(arguments))
    recipe = load_recipe(config_type, recipe_uri) if recipe_uri else {}
    if HELP_FLAGS & set(flags):
        print_help(config_type, program, recipe, FOOTER)
        raise SystemExit(0)
    parsed = dataclasses.asdict(_parse_flags(_flags_type(config_type, recipe), flags, program))
    given = _given(flags) | set(recipe)
    return checked_settings(config_type, {name: value for name, value in parsed.items() if name in given})


def checked_settings(config_type: type[SettingsT], given: Mapping[str, object]) -> SettingsT:
    """Settings with some values, and the defaults of the others.

    Raises:
        SettingsError: If one is unknown, bad or missing.
    """
    try:
        return config_type.model_validate(given)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from error


def load_recipe(config_type: type[SettingsT], uri: str) -> dict[str, object]:
    """The settings in a YAML file, checked key by key; required ones may be missing, since flags can give them.

    Raises:
        SettingsError: If it cannot be read, has an unknown key or a bad value.
    """
    from lib.storage.yaml_file import read_settings_file  # `--help` needs no storage

    recipe = read_settings_file(uri, CONFIG_FLAG)
    try:
        config_type.model_validate(recipe)
    except ValidationError as error:
        wrong = [problem for problem in error.errors() if problem["type"] != "missing" and problem["loc"]]
        if wrong:
            raise SettingsError(f"{CONFIG_FLAG} {uri}: {_describe(wrong[0])}") from error
    return recipe


def _split_config(arguments: list[str]) -> tuple[list[str], str | None]:
    flags, recipe_uri, rest = [], None, iter(arguments)
    for argument in rest:
        name, has_value, value = argument.partition("=")
        if name != CONFIG_FLAG:
            flags.append(argument)
            continue
        recipe_uri = value if has_value else next(rest, None)
        if not recipe_uri:
            raise SettingsError(f"{CONFIG_FLAG} needs the path of a YAML recipe")
    return flags, recipe_uri


def _given(flags: list[str]) -> set[str]:
    """The settings that stand on a command line, which may write `_` or `-`, and `--no-` before a switch."""
    names = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in flags if flag.startswith("--")}
    return names | {name.removeprefix("no_") for name in names}


def _flags_type(config_type: type[SettingsT], recipe: dict[str, object]) -> type:
    """A plain dataclass with the fields of the settings, so that one validation says all that is wrong with values."""
    fields = [_flag(name, field, recipe) for name, field in config_type.model_fields.items()]
    return dataclasses.make_dataclass("Flags", fields, kw_only=True)


def _flag(name: str, field: FieldInfo, recipe: dict[str, object]) -> tuple[str, Any, Any]:
    import tyro

    annotation: Any = Annotated[field.annotation, tyro.conf.arg(help=field.description)]
    if name in recipe:
        value = recipe[name]
        return name, annotation, dataclasses.field(default=tuple(value) if isinstance(value, list) else value)
    if field.is_required():
        return name, annotation, dataclasses.field()
    return name, annotation, dataclasses.field(default=field.default)


def _as_written(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
    """Takes a count of workers as text, since one validation says all that is wrong with values."""
    from tyro.constructors import PrimitiveConstructorSpec

    if info.type is not WorkerCount:
        return None
    return PrimitiveConstructorSpec(1, "INT|STR", lambda words: words[0], lambda _: True, lambda value: [str(value)])


def _parse_flags(flags_type: type, flags: list[str], program: str) -> Any:
    import tyro
    from tyro.constructors import ConstructorRegistry

    registry, complaint = ConstructorRegistry(), io.StringIO()
    registry.primitive_rule(_as_written)
    with contextlib.redirect_stderr(complaint), _wide_terminal():
        try:
            return tyro.cli(flags_type, args=flags, prog=program, registry=registry)
        except SystemExit as stop:
            if not stop.code:
                raise
    raise SettingsError(_first_complaint(complaint.getvalue()))


@contextlib.contextmanager
def _wide_terminal() -> Iterator[None]:
    """Keep a complaint on one line, which tyro would otherwise wrap to the terminal."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "4000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def _first_complaint(text: str) -> str:
    """The sentence in tyro's box: what stands between its border and its first rule, with the suggestion if any."""
    lines = [line.strip(" │") for line in text.splitlines()]
    body = [line for line in lines if line and not line.startswith(("╭", "╰"))]
    rules = [index for index, line in enumerate(body) if set(line) == {"─"}] or [len(body)]
    sentence = " ".join(body[: rules[0]])
    suggestion = re.search(r"Perhaps you meant:?\s*(--[\w-]+)", " ".join(body))
    return sentence + (f" (did you mean {suggestion.group(1)}?)" if suggestion else "")


def _one_line(error: ValidationError) -> str:
    problems = error.errors()
    with_bad_item = {problem["loc"][0] for problem in problems if len(problem["loc"]) > 1}
    told = [it for it in problems if it["type"] != "too_short" or it["loc"][0] not in with_bad_item]
    return "; ".join(map(_describe, told))


def _describe(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}"
    if problem["type"] == "missing":
        return f"{flag_of(name)} is missing"
    return f"{flag_of(name)} {problem['input']!r}: {message[0].lower()}{message[1:]}"


def report_error(message: str) -> None:
    """One line on stderr, red on a terminal."""
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False, emoji=False)
    console.print(f"error: {message}", style="red", markup=False)
