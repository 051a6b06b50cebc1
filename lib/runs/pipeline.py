"""The whole chain: convert, train every model, evaluate each, report. Each stage skips what it finds complete."""

import logging
import time
from collections.abc import Iterable

from lib.config.chain import PipelineConfig, ReportConfig
from lib.config.conversion import ConvertConfig
from lib.config.fitting import TrainConfig
from lib.config.prediction import EvaluateConfig
from lib.evaluation.choice.candidates import describe_missing, find_missing, plan_candidates
from lib.evaluation.choice.choose import Candidates, choose_model
from lib.evaluation.evaluate import evaluate_model, stakes_of
from lib.folders.checks import CHECKS, ChecksRecord
from lib.folders.choice import CHOICE, ChoiceRecord
from lib.folders.dataset import DatasetRecord
from lib.folders.evaluation import EvaluationRecord
from lib.folders.features import FEATURES
from lib.folders.model import ModelRecord
from lib.folders.output import RunRecord, package_versions, write_anew
from lib.folders.pipeline_folder import DATASET, EVALUATIONS, MODELS, REPORT, PipelineRecord
from lib.folders.report_folder import ReportRecord
from lib.models.spec import HUB, ModelSpec, check_spec, folder_names, parse_spec
from lib.models.trust import check_earlier
from lib.report.page import write_report
from lib.runs.convert_and_tell import convert_and_tell
from lib.runtime.clock import now
from lib.storage.location import Location
from lib.training.trainer import check_fit, require_weights_of, train_model

logger = logging.getLogger(__name__)


def plan_models(config: PipelineConfig) -> dict[str, ModelSpec]:
    """The models to train, or to choose one from, by the name of their folder, checked without starting anything.

    Raises:
        SettingsError: If one of them cannot be trained with these settings.
    """
    if config.chooses:
        return plan_candidates(config)
    specs = [parse_spec(text) for text in config.candidates]
    check_fit(config, specs)
    plan = dict(zip(folder_names(specs), specs, strict=True))
    coming: list[str] = []
    for name, spec in plan.items():
        check_spec(spec, config.image_size, coming)
        if spec.weights not in coming:
            check_earlier([spec], trusts_saved_model=config.trust_saved_model)
        coming.append(_model_folder(config, name).uri)
    return plan


def run_pipeline(config: PipelineConfig) -> PipelineRecord:
    """Run every stage that is not complete yet.

    Raises:
        TissueError: From the stage that failed; the stages before it stay complete.
    """
    started = time.monotonic()
    models = _models_at_hand(config)
    run = _run_record(config, () if config.chooses else models.plan)
    return write_anew(Location(config.output), run, lambda: _run_stages(config, models, started), PipelineRecord)


def _models_at_hand(config: PipelineConfig) -> Candidates:
    """The models to train, whose weights are all there, or to choose from, where some may be missing."""
    plan = plan_models(config)
    if not config.chooses:
        require_weights_of(plan.values(), config.image_size)
    if not config.chooses or (Location(config.output) / CHOICE / ChoiceRecord.FILE).exists():
        return Candidates(plan, {})
    missing = find_missing(plan, config.image_size)
    if missing:
        logger.warning("%s", describe_missing(plan, missing))
    return Candidates(plan, missing)


def _run_record(config: PipelineConfig, names: Iterable[str]) -> RunRecord:
    """What `jobs.status` is told of a pipeline that fills folders of models with these names."""
    return RunRecord(marker=PipelineRecord.FILE, stages=_stages(config, names))


def _stages(config: PipelineConfig, names: Iterable[str]) -> dict[str, str]:
    """The folders that a pipeline fills, each with its job."""
    jobs = {MODELS: ModelRecord.JOB, EVALUATIONS: EvaluationRecord.JOB}
    return {
        DATASET: DatasetRecord.JOB,
        **({CHOICE: ChoiceRecord.JOB} if config.chooses else {}),
        **{f"{folder}/{name}": job for name in names for folder, job in jobs.items()},
        CHECKS: ChecksRecord.JOB,
        REPORT: ReportRecord.JOB,
    }


def _run_stages(config: PipelineConfig, models: Candidates, started: float) -> PipelineRecord:
    output = Location(config.output)
    dataset = convert_and_tell(config.part(ConvertConfig, output=(output / DATASET).uri), needs_test=True)
    stakes_of(dataset.class_names, config)  # rather than after training
    choice = _choose(config, models) if config.chooses else None
    plan = {choice.chosen: models.plan[choice.chosen]} if choice else models.plan
    trained, evaluated = {}, {}
    for name, spec in plan.items():
        trained[name], evaluated[name] = _train_and_evaluate(config, name, spec)
    folders = tuple((output / EVALUATIONS / name).uri for name in plan)
    shown = {"evaluations": folders, "choice": (output / CHOICE).uri if choice else None}
    write_report(config.part(ReportConfig, output=(output / REPORT).uri, **shown))
    return PipelineRecord(
        counts=dataset.counts,
        models={name: evaluation.metrics.accuracy for name, evaluation in evaluated.items()},
        world_size=max(model.world_size for model in trained.values()),
        seconds=round(time.monotonic() - started, 3),
        settings=config.model_dump(mode="json"),
        versions=package_versions(),
        completed_at=now(),
        **({"choice": choice.outcome} if choice else {}),
    )


def _choose(config: PipelineConfig, models: Candidates) -> ChoiceRecord:
    """Choose a model by training images alone; from then on it is the only one."""
    output = Location(config.output)
    choice = choose_model(config, models, output / DATASET, _features(config), output / CHOICE)
    require_weights_of([models.plan[choice.chosen]], config.image_size)
    _run_record(config, [choice.chosen]).write(output)
    return choice


def _features(config: PipelineConfig) -> Location:
    """Where the features of frozen bases are kept for all models."""
    return Location(config.features) if config.features else Location(config.output) / FEATURES


def _train_and_evaluate(config: PipelineConfig, name: str, spec: ModelSpec) -> tuple[ModelRecord, EvaluationRecord]:
    output = Location(config.output)
    dataset, model = (output / DATASET).uri, _model_folder(config, name).uri
    train = config.part(
        TrainConfig, model=spec.text, dataset=dataset, source=None, output=model, features=_features(config).uri
    )
    trained = train_model(train)
    checks, evaluation = config.checks or (output / CHECKS).uri, (output / EVALUATIONS / name).uri
    return trained, evaluate_model(
        config.part(
            EvaluateConfig,
            model_dir=model,
            dataset=dataset,
            checks=checks,
            output=evaluation,
            trust_saved_model=config.trust_saved_model or _uses_saved_model(config),
        )
    )


def _uses_saved_model(config: PipelineConfig) -> bool:
    """Whether these settings name a SavedModel: whoever wrote them trusts the models that this run makes with it."""
    return any(parse_spec(text).name == HUB for text in config.candidates)


def _model_folder(config: PipelineConfig, name: str) -> Location:
    return Location(config.output) / MODELS / name
