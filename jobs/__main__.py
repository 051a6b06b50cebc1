"""`tissue`, one command for every job; in the repository it is `python -m jobs`.

    tissue pipeline --source path/to/organs --output results

`tissue --help` lists the jobs, `tissue JOB --help` the settings of one.
"""

import ast
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

from rich.console import Console

from lib.config.base import JobConfig
from lib.runs.command_line import CONFIG_FLAG, HELP_FLAGS, report_error
from lib.runs.completion import SHELLS, completion_script
from lib.runs.job import run_job
from lib.runtime.package import INSTALLED_NAME, NAME, VERSION

FOLDER = Path(__file__).parent
RECIPES = FOLDER / "recipes"
STORY = {
    "To try it": ("sample",),
    "Before it costs anything": ("doctor",),
    "From a folder of TIFFs to a report": ("pipeline",),
    "The same, step by step": ("convert", "train", "evaluate", "report"),
    "With a trained model": ("predict", "export"),
    "While it runs, or after": ("status",),
}
JOBS = [job for jobs in STORY.values() for job in jobs]
COMPLETION, VERSION_FLAG = "completion", "--version"


def main() -> int:
    """Run what the command line names.

    Returns:
        The exit code of the job; 2 if there is no such job.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in HELP_FLAGS:
        _print_story()
    elif name == VERSION_FLAG:
        _say(VERSION)
    elif name == COMPLETION and arguments[:1] and arguments[0] in SHELLS:
        _say(completion_script(arguments[0], {job: settings_of(job) for job in JOBS}))
    elif name in JOBS:
        return run_job(import_module(f"{__package__}.{name}").main, settings_of(name), name, with_recipe(arguments))
    else:
        report_error(_what_is_wrong(name))
        return 2
    return 0


def settings_of(job: str) -> type[JobConfig]:
    """The settings of a job, as its `main` takes them."""
    kind: type[JobConfig] = get_type_hints(import_module(f"{__package__}.{job}").main)["config"]
    return kind


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """A command line on which the name of a recipe of ours, such as `notebook`, is the path of its file."""
    words = [word for argument in arguments for word in _parted(argument)]
    for place, word in enumerate(words[1:], 1):
        ours = RECIPES / f"{word}.yaml"
        if words[place - 1] == CONFIG_FLAG and word.isidentifier() and not Path(word).exists() and ours.exists():
            words[place] = str(ours)
    return words


def _parted(argument: str) -> list[str]:
    flag, equals, value = argument.partition("=")
    return [flag, value] if flag == CONFIG_FLAG and equals and value else [argument]


def _what_is_wrong(name: str) -> str:
    if name == COMPLETION:
        return f"{COMPLETION} is for {' or '.join(SHELLS)}: {_program()} {COMPLETION} {SHELLS[0]}"
    near = get_close_matches(name, JOBS, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"there is no job {name!r}{guess}; expected one of {', '.join(JOBS)}"


def _print_story() -> None:
    width = max(map(len, JOBS)) + 2
    lines = [f"usage: {_program()} JOB --help", "", "Train, test and compare image classifiers on TIFFs of tissues."]
    for heading, jobs in STORY.items():
        lines += ["", f"[bold]{heading}[/]", *(f"  [cyan]{job:<{width}}[/]{_first_line(job)}" for job in jobs)]
    recipes = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    lines += ["", f"Recipes, for {CONFIG_FLAG} NAME: {recipes} (in {RECIPES})."]
    if NAME == INSTALLED_NAME:
        lines.append(
            f"A shell completes words after: source <({NAME} {COMPLETION} bash); or {' or '.join(SHELLS[1:])}."
        )
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line)


def _first_line(job: str) -> str:
    """What the file of a job says of it, without importing it."""
    text = ast.get_docstring(ast.parse((FOLDER / f"{job}.py").read_text("utf-8"))) or ""
    return text.partition("\n")[0]


def _program() -> str:
    return INSTALLED_NAME if NAME == INSTALLED_NAME else "python -m jobs"


def _say(text: str) -> None:
    print(text)  # noqa: T201 - what was asked for


if __name__ == "__main__":
    sys.exit(main())
