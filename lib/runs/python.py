"""The jobs as functions, for programs and notebooks, with the settings of the commands as keywords.

    from tissue import run      # in the repository: from lib import run
    result = run(source="path/to/organs", output="results", models=("cnn", "mobilenet"), epochs=10)
    result.measures

A call that is complete returns at once, and one that was interrupted goes on. Ray stays up until the process ends.
"""

import logging
import os
import sys
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import ParamSpec, TypeVar, cast

from lib.config.base import JobConfig
from lib.config.chain import PipelineConfig
from lib.config.conversion import ConvertConfig
from lib.config.fitting import TrainConfig
from lib.config.prediction import EvaluateConfig, PredictConfig
from lib.errors import SettingsError
from lib.runs.command_line import checked_settings
from lib.runs.help import grouped
from lib.runs.job import quiet_libraries
from lib.runs.results import Conversion, Evaluation, Predicted, Run, Training
from lib.runtime.environment import name_job, prepare_environment, ray_is_ours
from lib.runtime.package import NAME

Settings = ParamSpec("Settings")
ConfigT = TypeVar("ConfigT", bound=JobConfig)
ResultT = TypeVar("ResultT")

if "ray" in sys.modules and ray_is_ours() and "RAY_AUTH_MODE" not in os.environ:
    raise ImportError(f"import {NAME} before ray: Ray reads only then that it is to be open to this user alone")
prepare_environment()


def _function(
    kind: Callable[Settings, ConfigT], work: Callable[[ConfigT], ResultT], name: str, job: str
) -> Callable[Settings, ResultT]:
    """A job as a function, whose keywords are the settings of its class."""
    settings_type = cast("type[ConfigT]", kind)  # seen as a function, it tells type checkers its keywords

    def call(*args: Settings.args, **settings: Settings.kwargs) -> ResultT:
        if args:
            raise TypeError(f"{name}() takes settings by their names, as {name}(output=...)")
        config = checked_settings(settings_type, settings)
        name_job(job, config.log_format)
        show_messages(config.verbose)
        return work(config)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = _text(settings_type)
    call.__signature__ = _signature(settings_type, work)  # type: ignore[attr-defined]
    return call


def _text(kind: type[JobConfig]) -> str:
    """What `help(run)` says: the job, and its settings under their headings."""
    lines = [(kind.__doc__ or "").strip(), "", "Raises:", f"    {SettingsError.__name__}: Naming a setting as a flag."]
    for group, names in grouped(kind).items():
        lines += ["", f"{group}:"]
        lines += [f"    {name}: {' '.join((kind.model_fields[name].description or '').split())}" for name in names]
    return "\n".join(lines)


def _signature(kind: type[JobConfig], work: Callable[..., object]) -> Signature:
    """The settings as keywords, the most needed first."""
    fields = kind.model_fields
    keywords = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            annotation=fields[name].annotation,
            default=Parameter.empty if fields[name].is_required() else fields[name].default,
        )
        for names in grouped(kind).values()
        for name in names
    ]
    return Signature(keywords, return_annotation=signature(work).return_annotation)


def show_messages(verbose: bool) -> None:
    """Have the log of a call seen, unless the program has set up its logging itself."""
    ours = logging.getLogger(NAME)
    ours.setLevel(logging.INFO)
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        ours.addHandler(handler)
    if not verbose:
        quiet_libraries()


def _convert(config: ConvertConfig) -> Conversion:
    from lib.runs.convert_and_tell import convert_and_tell

    return Conversion(config.output, convert_and_tell(config))


def _train(config: TrainConfig) -> Training:
    from lib.training.start import train

    return Training(config.output, train(config))


def _evaluate(config: EvaluateConfig) -> Evaluation:
    from lib.evaluation.evaluate import evaluate_model

    return Evaluation(config.output, evaluate_model(config))


def _predict(config: PredictConfig) -> Predicted:
    from lib.evaluation.predict import predict_images

    return Predicted(config.output, predict_images(config))


def _run(config: PipelineConfig) -> Run:
    from lib.runs.pipeline import run_pipeline

    return Run.of(run_pipeline(config), config.output)


convert = _function(ConvertConfig, _convert, "convert", "convert")
train = _function(TrainConfig, _train, "train", "train")
evaluate = _function(EvaluateConfig, _evaluate, "evaluate", "evaluate")
predict = _function(PredictConfig, _predict, "predict", "predict")
run = _function(PipelineConfig, _run, "run", "pipeline")
