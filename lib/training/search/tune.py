"""Searches settings with Ray Tune: many trials, those that fall behind ended early, the best one's model kept.

    python -m jobs.train --sweep sweep.yaml --dataset OUT/dataset --output OUT/models/best

Trials are compared by the validation images alone. Each has a model folder of its own in `sweep/trials/<number>/`, with
its checkpoints, so that a sweep that was killed goes on: trials that are over are not trained again, and those that
were under way go on from their checkpoints.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray

from lib.config.fitting import SweepConfig, TrainConfig
from lib.errors import SettingsError, TissueError, one_line
from lib.folders.model import CHECKPOINTS, ModelRecord, SweepRecord
from lib.folders.output import OutputFolder
from lib.folders.sweep import SWEEP, TrialRecord, rank, write_leaderboard
from lib.models.spec import parse_spec
from lib.runtime.environment import ray_is_ours
from lib.runtime.progress import Progress
from lib.runtime.ray_data import start_ray
from lib.storage.location import Location
from lib.training.feature_extraction import FeatureSource
from lib.training.fit.plan import plan_phases
from lib.training.search.trials import FLAG, Trial, draw_trials, in_words, read_sweep
from lib.training.tracking import open_tracker
from lib.training.trainer import (
    LabelledSource,
    frozen_features,
    model_folder,
    open_source,
    prepare_source,
    require_imagenet_weights,
)
from lib.training.workers.lane_shards import training_datasets
from lib.training.workers.ray_train import machines, ray_storage

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

from lib.training.search.trial import EPOCH, ERROR, FINISHED, NO_NUMBER, NUMBER, TrialTask, run_trial  # noqa: E402

logger = logging.getLogger(__name__)

RAY_FOLDER = "ray"
MODES = {"val_loss": "min", "val_accuracy": "max"}
MOST_OF_MEMORY = 0.51
"""What a trial reserves of a machine's memory to have the machine for itself."""


def search_model(config: TrainConfig) -> ModelRecord:
    """Train all trials of a sweep, and keep the model of the best, unless this very sweep is already complete.

    Raises:
        SettingsError: If something cannot be searched or there are no validation images.
        TissueError: From the trial that failed, or if no trial has a model.
    """
    sweep = read_sweep(config)
    trials = draw_trials(config, sweep)
    source = open_source(config)
    if not source.count("validation"):
        raise SettingsError(f"{FLAG} chooses by validation images, and there are none; see --validation-fraction")
    require_imagenet_weights([parse_spec(trial.config.model) for trial in trials], config.image_size)
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
    logger.info("sweep %s: %d trials, %d of them are over", folder.location.name, len(trials), len(results))
    if missing := [trial for trial in trials if trial.number not in results]:
        start_ray(config)
        features = _features(missing, source)
        results |= _run(config, sweep, missing, results, TrialsOf(source, training_datasets(source), features))
    ranked = rank(results.values(), sweep.metric)
    best = ranked[0]
    if best.val_loss is None:
        raise TissueError(f"{FLAG} {config.sweep}: no trial had a loss that is a number; try lower step sizes")
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
    model = _take_over(trials[best.trial - 1].folder, folder.location).model_copy(update=record)
    tracker.finish(model, ranked)
    return folder.complete(model)


def _take_over(trial: Location, output: Location) -> ModelRecord:
    """Copy the model of a trial, with all but its checkpoints, and read what its `model.json` says."""
    for file in trial.list_files():
        if not file.path.startswith(f"{CHECKPOINTS}/") and file.path not in {ModelRecord.FILE, TrialRecord.FILE}:
            (output / file.path).write_bytes((trial / file.path).read_bytes())
    return ModelRecord.read(trial)


class TrialsOf(NamedTuple):
    """What trials are trained on.

    Attributes:
        source: The images.
        datasets: What Ray Train hands out of them.
        features: Of frozen bases, by the number of the trial.
    """

    source: LabelledSource
    datasets: "Mapping[str, ray.data.Dataset]"
    features: Mapping[int, FeatureSource | None]


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
    trials: Sequence[Trial],
    earlier: Mapping[int, TrialRecord],
    data: TrialsOf,
) -> dict[int, TrialRecord]:
    """Have Ray Tune train trials, as many at once as there is room for."""
    room = Room.of(config, len(trials))
    task = TrialTask({trial.number: trial for trial in trials}, *data, room.threads, room.neighbours)
    with Progress("sweep", len(trials) + len(earlier), "trials") as progress:
        progress.advance(len(earlier))
        watch = TrialWatch(task.trials, sweep.metric, progress)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, task=task), room.resources),
            param_space={NUMBER: tune.grid_search([trial.number for trial in trials])},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(sweep, trials, earlier.values()),
                max_concurrent_trials=room.at_once,
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
            outcomes = tuner.fit()
        except tune.TuneError as error:  # has no more of what a callback raised than its text
            raise watch.error or error from error
    if outcomes.errors:
        raise TissueError(
            f"the process of a trial was lost, and --max-failures {config.max_failures} allows no further restart; "
            f"the same command goes on ({one_line(outcomes.errors[0])})"
        )
    return watch.results


@dataclass(frozen=True)
class Room:
    """How trials share machines.

    Attributes:
        resources: What Ray reserves for each.
        at_once: How many at the same time; None for as many as there are resources.
        threads: Of TensorFlow in each; None for as many as it likes.
        neighbours: Trials on one machine; None for as many as it has GPUs.
    """

    resources: tune.PlacementGroupFactory
    at_once: int | None
    threads: int | None
    neighbours: int | None

    @classmethod
    def of(cls, config: TrainConfig, trials: int) -> "Room":
        """A GPU each; else a core each on this machine, or a machine each on a cluster.

        Cores are not reserved: the tasks that decode images for the trials would never get one.
        """
        if config.use_gpu:
            labels = machines(config)
            where = {"bundle_label_selector": [labels]} if labels else {}
            return cls(tune.PlacementGroupFactory([{"GPU": config.gpus_per_worker}], **where), None, None, None)
        if ray_is_ours():
            cores = os.cpu_count() or 1
            at_once = min(cores, trials)
            return cls(tune.PlacementGroupFactory([{"memory": 1}]), at_once, cores // at_once, at_once)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        memory = MOST_OF_MEMORY * min(node["memory"] for node in nodes)
        labels = machines(config)
        where = {"bundle_label_selector": [labels]} if labels else {}
        return cls(tune.PlacementGroupFactory([{"memory": memory}], **where), None, None, 1)


class _Earlier(NamedTuple):
    """A trial that was over before, as far as the scheduler looks at it."""

    trial_id: str


def _scheduler(
    sweep: SweepConfig, trials: Sequence[Trial], earlier: Sequence[TrialRecord] | Any
) -> AsyncHyperBandScheduler:
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
        results: Of the trials that are over, by number.
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
        if ERROR in result:
            self.error = result[ERROR]
            raise result[ERROR]
        number = trial.config[NUMBER]
        self._curves[number][result[EPOCH]] = result[self._metric]
        if result.get(FINISHED) or result["done"]:
            self._end(number, result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """After the loss of a process."""
        self._progress.note(f"trial {trial.config[NUMBER]}: its process was lost; it goes on from its last checkpoint")

    def _end(self, number: int, last: Mapping[str, Any]) -> None:
        trial, is_number = self._trials[number], last["val_loss"] < NO_NUMBER
        result = TrialRecord(
            trial=number,
            parameters=trial.parameters,
            val_loss=last["val_loss"] if is_number else None,
            val_accuracy=last["val_accuracy"] if is_number else None,
            best_epoch=last["best_epoch"] if is_number else None,
            epochs=last[EPOCH],
            pruned=not last.get(FINISHED, False),
            seconds=last["seconds"],
            curve=list(self._curves[number].items()),
        )
        result.write(trial.folder)
        self.results[number] = result
        self._progress.note(_line(result))
        self._progress.advance(1)


def _line(result: TrialRecord) -> str:
    tried = f"trial {result.trial} ({in_words(result.parameters)})"
    if result.val_loss is None:
        return f"{tried}: the loss was never a number"
    ending = f"ended early after {result.epochs} epochs" if result.pruned else f"{result.epochs} epochs"
    return f"{tried}: validation loss {result.val_loss:.4f}, accuracy {result.val_accuracy:.3f}, {ending}"
