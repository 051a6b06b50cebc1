"""The whole chain: convert, train every model, evaluate each, report. Each stage skips what it finds complete."""

import logging
import time
from collections.abc import Iterable

from lib.config.chain import PipelineConfig, ReportConfig
from lib.config.conversion import ConvertConfig
from lib.config.fitting import TrainConfig
from lib.config.prediction import EvaluateConfig
from lib.evaluation.evaluate import evaluate_model
from lib.folders.checks import CHECKS, ChecksRecord
from lib.folders.dataset import DatasetRecord
from lib.folders.evaluation import EvaluationRecord
from lib.folders.features import FEATURES
from lib.folders.model import ModelRecord
from lib.folders.output import RunRecord, package_versions, write_anew
from lib.folders.pipeline_folder import DATASET, EVALUATIONS, MODELS, REPORT, PipelineRecord
from lib.folders.report_folder import ReportRecord
from lib.ingest.convert import convert_images
from lib.models.spec import ModelSpec, check_spec, folder_names, parse_spec
from lib.report.page import write_report
from lib.runtime.clock import now
from lib.storage.location import Location
from lib.training.trainer import check_fit, require_weights_of, train_model

logger = logging.getLogger(__name__)


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


def run_pipeline(config: PipelineConfig) -> PipelineRecord:
    """Run every stage that is not complete yet.

    Raises:
        TissueError: From the stage that failed; the stages before it stay complete.
    """
    started = time.monotonic()
    output, plan = Location(config.output), plan_models(config)
    require_weights_of(plan.values(), config.image_size)
    run = RunRecord(marker=PipelineRecord.FILE, stages=_stages(plan))
    return write_anew(output, run, lambda: _run_stages(config, plan, started), PipelineRecord)


def _stages(plan: Iterable[str]) -> dict[str, str]:
    """The folders that a pipeline fills, each with its job, for `jobs.status`."""
    jobs = {MODELS: ModelRecord.JOB, EVALUATIONS: EvaluationRecord.JOB}
    return {
        DATASET: DatasetRecord.JOB,
        **{f"{folder}/{name}": job for name in plan for folder, job in jobs.items()},
        CHECKS: ChecksRecord.JOB,
        REPORT: ReportRecord.JOB,
    }


def _run_stages(config: PipelineConfig, plan: dict[str, ModelSpec], started: float) -> PipelineRecord:
    output = Location(config.output)
    dataset = convert_images(config.part(ConvertConfig, output=(output / DATASET).uri), needs_test=True)
    trained, evaluated = {}, {}
    for name, spec in plan.items():
        trained[name], evaluated[name] = _train_and_evaluate(config, name, spec)
    folders = tuple((output / EVALUATIONS / name).uri for name in plan)
    write_report(config.part(ReportConfig, evaluations=folders, output=(output / REPORT).uri))
    return PipelineRecord(
        counts=dataset.counts,
        models={name: evaluation.metrics.accuracy for name, evaluation in evaluated.items()},
        world_size=max(model.world_size for model in trained.values()),
        seconds=round(time.monotonic() - started, 3),
        settings=config.model_dump(mode="json"),
        versions=package_versions(),
        completed_at=now(),
    )


def _train_and_evaluate(config: PipelineConfig, name: str, spec: ModelSpec) -> tuple[ModelRecord, EvaluationRecord]:
    output = Location(config.output)
    dataset, model = (output / DATASET).uri, _model_folder(config, name).uri
    features = config.features or (output / FEATURES).uri
    train = config.part(TrainConfig, model=spec.text, dataset=dataset, source=None, output=model, features=features)
    trained = train_model(train)
    checks, evaluation = config.checks or (output / CHECKS).uri, (output / EVALUATIONS / name).uri
    return trained, evaluate_model(
        config.part(EvaluateConfig, model_dir=model, dataset=dataset, checks=checks, output=evaluation)
    )


def _model_folder(config: PipelineConfig, name: str) -> Location:
    return Location(config.output) / MODELS / name
