"""The trials of a sweep: which settings each of them tries, drawn from a seed, and refused before anything starts.

The same seed and the same sweep give the same trials, so that a sweep that was interrupted goes on with them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue, ValidationError

from lib.config.fitting import FitConfig, ParameterSpace, SweepConfig, TrainConfig
from lib.errors import SettingsError
from lib.folders.features import FEATURES
from lib.folders.sweep import SWEEP, TRIALS
from lib.storage.location import Location
from lib.storage.yaml_file import read_settings_file
from lib.training.trainer import check_training

FLAG = "--sweep"
SEARCHABLE = sorted({"model", *FitConfig.identity_fields()})
"""The settings that change the model, other than the images it sees."""
DIGITS = 3
"""Of numbers drawn from a range: more would change nothing, but be hard to read and to repeat."""


@dataclass(frozen=True)
class Trial:
    """One combination of settings.

    Attributes:
        number: From 1.
        parameters: What is tried, by the name of the setting, as JSON values.
        config: All settings of its training.
    """

    number: int
    parameters: dict[str, JsonValue]
    config: TrainConfig

    @property
    def folder(self) -> Location:
        """Its model folder."""
        return Location(self.config.output)


def read_sweep(config: TrainConfig) -> SweepConfig:
    """What is to be searched.

    Raises:
        SettingsError: If the file cannot be read, has an unknown key or a bad value.
    """
    content = read_settings_file(str(config.sweep), FLAG)
    try:
        return SweepConfig.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"{FLAG} {config.sweep}: {_describe(error)}") from error


def draw_trials(config: TrainConfig, sweep: SweepConfig) -> list[Trial]:
    """As many different trials as wanted.

    Raises:
        SettingsError: If a setting cannot be searched, there are fewer combinations than trials, or a combination
            cannot be trained.
    """
    for name, space in sweep.parameters.items():
        _check_space(config, name, space)
    combinations = math.prod(_size(name, space) for name, space in sweep.parameters.items())
    if combinations < sweep.trials:
        raise SettingsError(
            f"{FLAG} {config.sweep}: trials {sweep.trials}: there are only {combinations:.0f} combinations"
        )
    random = np.random.default_rng(config.seed)
    drawn: list[dict[str, JsonValue]] = []
    while len(drawn) < sweep.trials:
        parameters = {name: _draw(name, space, random) for name, space in sorted(sweep.parameters.items())}
        if parameters not in drawn:
            drawn.append(parameters)
    return [_trial(config, number, parameters) for number, parameters in enumerate(drawn, start=1)]


def _check_space(config: TrainConfig, name: str, space: ParameterSpace) -> None:
    if name not in SEARCHABLE:
        raise SettingsError(f"{FLAG} {config.sweep}: parameters.{name}: expected one of {', '.join(SEARCHABLE)}")
    ends = [_number(name, end) for end in (space.low, space.high) if end is not None]
    for value in [*(space.values or ()), *ends]:
        _with(config, {name: value})


def _with(config: TrainConfig, parameters: Mapping[str, JsonValue]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(config.model_dump() | dict(parameters))
    except ValidationError as error:
        raise SettingsError(f"{FLAG} {config.sweep}: parameters.{_describe(error)}") from error


def _trial(config: TrainConfig, number: int, parameters: Mapping[str, JsonValue]) -> Trial:
    output = Location(config.output)
    changed = _with(config, parameters)
    changed = changed.part(
        TrainConfig,
        keep_epoch="best" if changed.keep_epoch == "auto" else changed.keep_epoch,  # by which trials are compared
        output=(output / SWEEP / TRIALS / f"{number:04d}").uri,
        features=config.features or (output / FEATURES).uri,
        num_workers=1,
        sweep=None,
    )
    tried = changed.model_dump(mode="json", include=set(parameters))
    trial = Trial(number, {name: tried[name] for name in parameters}, changed)
    try:
        check_training(changed)
    except SettingsError as error:
        raise SettingsError(f"{FLAG} {config.sweep}: trial {number} ({in_words(trial.parameters)}): {error}") from error
    return trial


def in_words(parameters: Mapping[str, JsonValue]) -> str:
    """`head_units 32, learning_rate 0.01`."""
    return ", ".join(f"{name} {_word(value)}" for name, value in parameters.items())


def _word(value: object) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _is_integer(name: str) -> bool:
    return TrainConfig.model_fields[name].annotation in {int, int | None}


def _number(name: str, value: float) -> float:
    """A number as a setting wants it: fractions stay where whole numbers are wanted, and are refused there."""
    return int(value) if _is_integer(name) and value == int(value) else value


def _size(name: str, space: ParameterSpace) -> float:
    """How many values there are to draw from."""
    if space.values is not None:
        return len(space.values)
    return float(space.high) - float(space.low) + 1 if _is_integer(name) else math.inf  # type: ignore[arg-type]


def _draw(name: str, space: ParameterSpace, random: np.random.Generator) -> JsonValue:
    if space.values is not None:
        return space.values[random.integers(len(space.values))]
    low, high = float(space.low), float(space.high)  # type: ignore[arg-type]
    value = math.exp(random.uniform(math.log(low), math.log(high))) if space.log else random.uniform(low, high)
    if _is_integer(name):
        return round(value) if space.log else int(random.integers(int(low), int(high) + 1))
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _describe(error: ValidationError) -> str:
    """The first thing that is wrong, with the path to it."""
    problem = error.errors()[0]
    path = ".".join(map(str, problem["loc"])) or "parameters"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{path} is missing"
    return f"{path} {problem['input']!r}: {message[0].lower()}{message[1:]}"
