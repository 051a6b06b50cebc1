"""The whole chain: convert, train every model, evaluate each, report. Each stage skips what it finds complete."""

import logging
import time
from collections.abc import Iterable
from typing import Any

from lib.config.chain import PipelineConfig, ReportConfig
from lib.config.conversion import ConvertConfig
from lib.config.fitting import TrainConfig
from lib.config.prediction import EvaluateConfig
from lib.evaluation.evaluate import evaluate_model
from lib.folders.lease import only_writer
from lib.folders.model import read_model_record
from lib.folders.output import RUN_FILE, failures_noted, now, package_versions
from lib.ingest.convert import convert_images
from lib.models.spec import ModelSpec, check_spec, folder_names, parse_spec
from lib.report.page import write_report
from lib.storage.location import Location
from lib.training.trainer import check_fit, require_imagenet_weights, train_model

logger = logging.getLogger(__name__)

PIPELINE_FILE = "pipeline.json"


def plan_models(config: PipelineConfig) -> dict[str, ModelSpec]:
    """The models to train by the name of their folder, in order, checked without starting anything.

    Raises:
        SettingsError: If one of them cannot be trained with these settings.
    """
    specs = [parse_spec(text) for text in config.models]
    check_fit(config, specs)
    plan = dict(zip(folder_names(specs), specs, strict=True))
    coming: list[str] = []
    for name, spec in plan.items():
        check_spec(spec, config.image_size, coming)
        coming.append(_model_folder(config, name).uri)
    return plan


def run_pipeline(config: PipelineConfig) -> dict[str, Any]:
    """Run every stage that is not complete yet.

    Returns:
        The content of `pipeline.json`.

    Raises:
        TissueError: From the stage that failed; the stages before it stay complete.
    """
    started = time.monotonic()
    output, plan = Location(config.output), plan_models(config)
    require_imagenet_weights(plan.values(), config.image_size)
    with only_writer(output), failures_noted(output):
        (output / RUN_FILE).write_json({"marker": PIPELINE_FILE, "stages": _stages(plan)})
        record = _run_stages(config, plan)
        record |= {"seconds": round(time.monotonic() - started, 3), "completed_at": now()}
        (output / PIPELINE_FILE).write_json(record)
        (output / RUN_FILE).delete()
    return record


def _stages(plan: Iterable[str]) -> dict[str, str]:
    """The folders that a pipeline fills, each with its job, for `jobs.status`."""
    jobs = {"models": "train", "evaluations": "evaluate"}
    return {
        "dataset": "convert",
        **{f"{folder}/{name}": job for name in plan for folder, job in jobs.items()},
        "checks": "checks",
        "report": "report",
    }


def _run_stages(config: PipelineConfig, plan: dict[str, ModelSpec]) -> dict[str, Any]:
    output = Location(config.output)
    dataset = convert_images(config.part(ConvertConfig, output=(output / "dataset").uri), needs_test=True)
    evaluations = {name: _train_and_evaluate(config, name, spec) for name, spec in plan.items()}
    folders = tuple((output / "evaluations" / name).uri for name in plan)
    write_report(config.part(ReportConfig, evaluations=folders, output=(output / "report").uri))
    return {
        "counts": dataset["counts"],
        "models": {name: evaluation["metrics"]["accuracy"] for name, evaluation in evaluations.items()},
        "world_size": max(_world_size(config, name) for name in plan),
        "settings": config.model_dump(mode="json"),
        "versions": package_versions(),
    }


def _train_and_evaluate(config: PipelineConfig, name: str, spec: ModelSpec) -> dict[str, Any]:
    output = Location(config.output)
    dataset, model = (output / "dataset").uri, _model_folder(config, name).uri
    features = config.features or (output / "features").uri
    train = config.part(TrainConfig, model=spec.text, dataset=dataset, source=None, output=model, features=features)
    train_model(train)
    checks, evaluation = config.checks or (output / "checks").uri, (output / "evaluations" / name).uri
    return evaluate_model(
        config.part(EvaluateConfig, model_dir=model, dataset=dataset, checks=checks, output=evaluation)
    )


def _world_size(config: PipelineConfig, name: str) -> int:
    return int(read_model_record(_model_folder(config, name))["world_size"])


def _model_folder(config: PipelineConfig, name: str) -> Location:
    return Location(config.output) / "models" / name
