"""Searches settings with Ray Tune: many trials, those that fall behind ended early, the best one's model kept.

    python -m jobs.train --sweep sweep.yaml --dataset OUT/dataset --output OUT/models/best

Trials are compared by the validation images alone. Each has a model folder of its own in `sweep/trials/<number>/`, with
its checkpoints, so that a sweep that was killed goes on: trials that are over are not trained again, and those that
were under way go on from their checkpoints.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lib.config.fitting import SweepConfig, TrainConfig
from lib.errors import SettingsError, TissueError, one_line
from lib.folders.model import CHECKPOINTS, ModelRecord, SweepRecord
from lib.folders.output import OutputFolder
from lib.folders.sweep import SWEEP, TrialRecord, rank, write_leaderboard
from lib.models.spec import parse_spec
from lib.runtime.gpus import require_gpus
from lib.runtime.progress import Progress
from lib.runtime.ray_data import start_ray
from lib.storage.location import Location
from lib.training.feature_extraction import FeatureSource
from lib.training.fit.plan import plan_phases
from lib.training.precision import with_precision_of_run
from lib.training.search.trials import FLAG, Trial, draw_trials, in_words, read_sweep
from lib.training.tracking import open_tracker
from lib.training.trainer import (
    LabelledSource,
    folds_to_solve,
    frozen_features,
    model_folder,
    open_source,
    prepare_source,
    require_weights_of,
    with_size_of_dataset,
)
from lib.training.workers.lane_shards import training_datasets
from lib.training.workers.ray_train import ray_storage

for _name, _value in {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the history of each trial is in its folder
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else an interrupted search would look like a finished one
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints to stdout, whatever it is told
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}.items():
    os.environ.setdefault(_name, _value)

from ray import tune  # noqa: E402 - reads these while it is imported
from ray.tune.schedulers import AsyncHyperBandScheduler  # noqa: E402

from lib.training.search.placement import TrialResources  # noqa: E402
from lib.training.search.trial import EPOCH, NUMBER, TrialReport, TrialTask, run_trial  # noqa: E402

logger = logging.getLogger(__name__)

RAY_FOLDER = "ray"
MODES = {"val_loss": "min", "val_accuracy": "max"}


def search_model(config: TrainConfig) -> ModelRecord:
    """Train all trials of a sweep, and keep the model of the best, unless this very sweep is already complete.

    Raises:
        SettingsError: If something cannot be searched or there are no validation images.
        TissueError: From the trial that failed, or if no trial has a model.
    """
    config = with_size_of_dataset(config)
    sweep = read_sweep(config)
    trials = draw_trials(config, sweep)
    source = open_source(config)
    if not source.count("validation"):
        raise SettingsError(f"{FLAG} chooses by validation images, and there are none; see --validation-fraction")
    require_weights_of([parse_spec(trial.config.model) for trial in trials], config.image_size)
    folder = model_folder(config, source, sweep=sweep.model_dump(mode="json"))
    return folder.once(lambda: _search(config, sweep, trials, source, folder))


def _search(
    config: TrainConfig,
    sweep: SweepConfig,
    trials: Sequence[Trial],
    source: LabelledSource,
    folder: OutputFolder[ModelRecord],
) -> ModelRecord:
    started = time.monotonic()
    tracker = open_tracker(config, folder)
    source, record = prepare_source(config, source, folder)
    results = {
        trial.number: result for trial in trials if (result := TrialRecord.read_if_there(trial.folder)) is not None
    }
    logger.info("sweep %s: %d trials, %d finished", folder.location.name, len(trials), len(results))
    if missing := [trial for trial in trials if trial.number not in results]:
        start_ray(config)
        require_gpus(config)
        missing = [replace(trial, config=with_precision_of_run(trial.config, folder)) for trial in missing]
        resources = TrialResources.of(config, len(missing))
        features = _features(missing, source)
        solving = [features[trial.number] for trial in missing if trial.config.head == "solved"]
        task = TrialTask(
            {trial.number: trial for trial in missing},
            source,
            training_datasets(source, folds_to_solve(source, config, solving)),
            features,
            resources.threads,
            resources.neighbours,
        )
        results |= _run(config, sweep, task, resources, results)
    ranked = rank(results.values(), sweep.metric)
    best = ranked[0]
    if best.val_loss is None:
        raise TissueError(
            f"{FLAG} {config.sweep}: all trials diverged (loss NaN from the first epoch); try a lower learning_rate"
        )
    write_leaderboard(ranked, sweep.metric, folder.location)
    (folder.location / SWEEP / RAY_FOLDER).delete()
    found = SweepRecord(
        trials=len(trials),
        pruned=sum(result.pruned for result in ranked),
        metric=sweep.metric,
        best=best.trial,
        parameters=best.parameters,
    )
    record |= {"name": folder.location.name, "sweep": found, "seconds": round(time.monotonic() - started, 3)}
    model = _copy_model(trials[best.trial - 1].folder, folder.location).model_copy(update=record)
    tracker.finish(model, ranked)
    return folder.complete(model)


def _copy_model(trial: Location, output: Location) -> ModelRecord:
    """Copy the model of a trial, with all but its checkpoints, and read what its `model.json` says."""
    for file in trial.list_files():
        if not file.path.startswith(f"{CHECKPOINTS}/") and file.path not in {ModelRecord.FILE, TrialRecord.FILE}:
            (output / file.path).write_bytes((trial / file.path).read_bytes())
    return ModelRecord.read(trial)


def _features(trials: Sequence[Trial], source: LabelledSource) -> dict[int, FeatureSource | None]:
    """Compute what trials with a frozen base need, once for all that need the same."""
    found: dict[tuple[object, ...], FeatureSource | None] = {}
    by_trial = {}
    for trial in trials:
        config = trial.config
        key = (config.model, config.precision, config.augment, config.augmented_features)
        if key not in found:
            found[key] = frozen_features(config, parse_spec(config.model), source)
        by_trial[trial.number] = found[key]
    return by_trial


def _run(
    config: TrainConfig,
    sweep: SweepConfig,
    task: TrialTask,
    resources: TrialResources,
    earlier: Mapping[int, TrialRecord],
) -> dict[int, TrialRecord]:
    """Have Ray Tune train trials, as many at once as there is room for."""
    with Progress("sweep", len(task.trials) + len(earlier), "trials") as progress:
        progress.advance(len(earlier))
        watch = TrialWatch(task.trials, sweep.metric, progress)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, task=task), resources.reserved),
            param_space={NUMBER: tune.grid_search(list(task.trials))},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(sweep, task.trials.values(), earlier.values()),
                max_concurrent_trials=resources.at_once,
                reuse_actors=True,  # importing TensorFlow takes longer than some trials
            ),
            run_config=tune.RunConfig(
                name=RAY_FOLDER,
                failure_config=tune.FailureConfig(max_failures=config.max_failures),
                verbose=0,
                callbacks=[watch],
                **ray_storage(Location(config.output) / SWEEP),
            ),
        )
        try:
            tuned = tuner.fit()
        except tune.TuneError as error:  # has no more of what a callback raised than its text
            raise watch.error or error from error
    if tuned.errors:
        raise TissueError(
            f"the process of a trial was lost; restart limit reached (--max-failures {config.max_failures}); "
            f"run the same command again to resume ({one_line(tuned.errors[0])})"
        )
    return watch.results


class _Earlier(NamedTuple):
    """A trial that was over before, as far as the scheduler looks at it."""

    trial_id: str


def _scheduler(sweep: SweepConfig, trials: Iterable[Trial], earlier: Iterable[TrialRecord]) -> AsyncHyperBandScheduler:
    """Asynchronous successive halving that knows the trials that were over before.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020.
    """
    epochs = [sum(phase.epochs for phase in plan_phases(parse_spec(t.config.model), t.config)) for t in trials]
    scheduler = AsyncHyperBandScheduler(
        time_attr=EPOCH,
        metric=sweep.metric,
        mode=MODES[sweep.metric],
        max_t=max(*epochs, sweep.grace_epochs),
        grace_period=sweep.grace_epochs,
        reduction_factor=sweep.reduction_factor,
    )
    for result in earlier:
        trial = _Earlier(f"earlier-{result.trial}")
        scheduler.on_trial_add(None, trial)
        for epoch, value in result.curve:
            scheduler.on_trial_result(None, trial, {EPOCH: epoch, sweep.metric: value})
    return scheduler


class TrialWatch(tune.Callback):
    """Writes down how trials end, as soon as they do, and ends the search if one fails.

    Attributes:
        results: Results of the trials that are over, by number.
        error: What a trial raised.
    """

    def __init__(self, trials: Mapping[int, Trial], metric: str, progress: Progress) -> None:
        """Watch some trials."""
        self.results: dict[int, TrialRecord] = {}
        self.error: Exception | None = None
        self._trials, self._metric, self._progress = trials, metric, progress
        self._curves: dict[int, dict[int, float]] = {number: {} for number in trials}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """After each epoch, and at the end. Ray Tune has decided by now whether the trial goes on.

        Raises:
            Exception: What the trial raised.
        """
        report = TrialReport.from_tune(result)
        if report.error is not None:
            self.error = report.error
            raise report.error
        number = trial.config[NUMBER]
        self._curves[number][report.epoch] = result[self._metric]
        if report.finished or result["done"]:
            self._end(number, report)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """After the loss of a process."""
        self._progress.note(f"trial {trial.config[NUMBER]}: its process was lost; it resumes from its last checkpoint")

    def _end(self, number: int, last: TrialReport) -> None:
        trial = self._trials[number]
        result = TrialRecord(
            trial=number,
            parameters=trial.parameters,
            val_loss=last.val_loss if last.has_model else None,
            val_accuracy=last.val_accuracy if last.has_model else None,
            best_epoch=last.best_epoch if last.has_model else None,
            epochs=last.epoch,
            pruned=not last.finished,
            seconds=last.seconds,
            curve=list(self._curves[number].items()),
        )
        result.write(trial.folder)
        self.results[number] = result
        self._progress.note(_line(result))
        self._progress.advance(1)


def _line(result: TrialRecord) -> str:
    tried = f"trial {result.trial} ({in_words(result.parameters)})"
    if result.val_loss is None:
        return f"{tried}: diverged, the loss was NaN from the first epoch"
    ending = f"ended early after epoch {result.epochs}" if result.pruned else f"{result.epochs} epochs"
    return f"{tried}: validation loss {result.val_loss:.4f}, accuracy {result.val_accuracy:.3f}, {ending}"
