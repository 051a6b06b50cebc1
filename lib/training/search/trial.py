"""What the process of a trial does: train as `train` does, and tell Ray Tune after each epoch how far it is."""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from lib.config.fitting import TrainConfig
from lib.dataset.memory import memory_for_images
from lib.dataset.source import DatasetInfo
from lib.errors import DivergedError, TissueError
from lib.folders.model import CHECKPOINTS, ModelRecord
from lib.folders.output import OutputFolder
from lib.models.spec import parse_spec
from lib.runtime.logs import join_stage
from lib.runtime.ray_data import prepare_context
from lib.training.feature_extraction import FeatureSource
from lib.training.fit.checkpoint import CheckpointFolder
from lib.training.fit.history import watched_loss
from lib.training.fit.loop import train_alone
from lib.training.fit.plan import plan_phases
from lib.training.search.trials import Trial
from lib.training.trainer import LabelledSource, describe_model, model_folder
from lib.training.workers.lane_shards import FITTED_SPLITS
from lib.training.workers.messages import EpochEnded, Message, MessageLog
from lib.training.workers.peers import TrainTask

NUMBER, EPOCH, FINISHED, ERROR = "number", "epoch", "finished", "error"
NO_NUMBER = 1e30
"""Stands for a loss that is none: Ray Tune takes percentiles of losses, which infinity would spoil."""
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialTask:
    """What all trials have in common.

    Attributes:
        trials: By number.
        source: The images.
        datasets: What Ray Train hands out of them; see `training_datasets`.
        features: Of frozen bases, by the number of the trial.
        threads: Of TensorFlow in each process; None for as many as it likes.
        neighbours: Trials that share the memory of a machine; None for as many as it has GPUs.
    """

    trials: Mapping[int, Trial]
    source: LabelledSource
    datasets: "Mapping[str, ray.data.Dataset]"
    features: Mapping[int, FeatureSource | None]
    threads: int | None
    neighbours: int | None


def run_trial(parameters: dict[str, int], task: TrialTask) -> None:
    """Train one trial from its newest checkpoint, and report what `standing` says after each epoch.

    Ray Tune ends the trial in a report if it falls behind the others. An error is reported too: raised, Ray Tune would
    take it for a lost process, and try again.

    Args:
        parameters: The `number` of the trial, in the dictionary that Ray Tune insists on.
        task: All trials.
    """
    try:
        join_stage("sweep")
        tune.report(_train(task.trials[parameters[NUMBER]], task))
    except DivergedError:
        tune.report({EPOCH: 0, "val_loss": NO_NUMBER, "val_accuracy": 0.0, "seconds": 0.0, FINISHED: True})
    except TissueError as error:
        tune.report(_failed(error))
    except Exception:  # noqa: BLE001 - the driver raises it
        tune.report(_failed(RuntimeError(traceback.format_exc())))


def _failed(error: Exception) -> dict[str, Any]:
    return {EPOCH: 0, "val_loss": NO_NUMBER, "val_accuracy": 0.0, ERROR: error}


def _train(trial: Trial, task: TrialTask) -> dict[str, Any]:
    if task.threads is not None:  # read when TensorFlow is imported
        os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(task.threads)
    import keras

    prepare_context(trial.config.verbose)
    keras.backend.clear_session()  # this process may have trained another trial before
    memory = memory_for_images(task.neighbours or _gpus_here())
    config = trial.config.part(TrainConfig, cache_gib=trial.config.cache_gib or memory / 2**30)
    folder = model_folder(config, task.source)
    # No lease of its own: only this sweep writes here, and one left by a lost machine would have to run out first.
    record = folder.begin() or _complete(config, task, task.features[trial.number], folder)
    metrics = record.metrics
    return {
        EPOCH: metrics.epochs,
        "best_epoch": metrics.best_epoch,
        "val_loss": metrics.val_loss,
        "val_accuracy": metrics.val_accuracy,
        "seconds": record.fit_seconds,
        FINISHED: True,
    }


def _gpus_here() -> int:
    here = ray.get_runtime_context().get_node_id()
    held = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return max(int(held.get("GPU", 1)), 1)


def _complete(
    config: TrainConfig, task: TrialTask, features: FeatureSource | None, folder: OutputFolder[ModelRecord]
) -> ModelRecord:
    started = time.monotonic()
    spec = parse_spec(config.model)
    messages = TrialMessages(sum(phase.epochs for phase in plan_phases(spec, config)), tune.report)
    newest = CheckpointFolder(folder.location / CHECKPOINTS).newest()
    for row in newest.state.rows if newest else []:  # what Ray Tune has not heard since the sweep was interrupted
        messages.report(EpochEnded(row))
    trainer = DataParallelTrainer(
        train_alone,
        train_loop_config={
            "task": TrainTask(config, spec, DatasetInfo.of(task.source, FITTED_SPLITS), features, messages)
        },
        scaling_config=ScalingConfig(num_workers=0),  # in this very process, which is all that a trial allows
        datasets=dict(task.datasets),
    )
    record = dict(trainer.fit().return_value)
    record |= describe_model(spec, task.source, messages, folder.location)
    return folder.complete(ModelRecord.model_validate(record | {"seconds": round(time.monotonic() - started, 3)}))


class TrialMessages(MessageLog):
    """Passes on to Ray Tune how each epoch went, but for the last: a trial that is through is not to be ended."""

    def __init__(self, epochs: int, report_standing: Report) -> None:
        """Expect at most so many epochs."""
        super().__init__()
        self._epochs, self._report_standing = epochs, report_standing
        self._rows: list[dict[str, Any]] = []

    def report(self, message: Message) -> None:
        """Take in a message."""
        super().report(message)
        if isinstance(message, EpochEnded):
            self._rows.append(message.row)
            if len(self._rows) < self._epochs:
                self._report_standing(standing(self._rows))


def standing(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How good the model would be if its training ended now: the numbers of its best epoch so far.

    So the loss of a trial never rises, and one that is pruned for it cannot have been the best of the sweep.
    """
    best = min(rows, key=watched_loss)
    return {
        EPOCH: len(rows),
        "best_epoch": best["epoch"],
        "val_loss": min(watched_loss(best), NO_NUMBER),
        "val_accuracy": best["val_accuracy"],
        "seconds": round(sum(row["seconds"] for row in rows), 3),
    }
