"""What the process of a trial does: train as `train` does, and tell Ray Tune after each epoch how far it is."""

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import ray
from ray import tune
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from lib.config.fitting import TrainConfig
from lib.dataset.memory import memory_for_images
from lib.dataset.source import DatasetInfo
from lib.errors import DivergedError, TissueError
from lib.folders.history import HistoryRow, best_row
from lib.folders.model import CHECKPOINTS, ModelRecord
from lib.folders.output import OutputFolder
from lib.models.spec import parse_spec
from lib.runtime.logs import join_stage
from lib.runtime.ray_data import prepare_context
from lib.training.feature_extraction import FeatureSource
from lib.training.fit.checkpoint import CheckpointFolder
from lib.training.fit.plan import plan_phases
from lib.training.fit.worker import train_alone
from lib.training.search.trials import Trial
from lib.training.trainer import LabelledSource, describe_model, model_folder
from lib.training.workers.lane_shards import FITTED_SPLITS
from lib.training.workers.messages import EpochEnded, Message, MessageLog
from lib.training.workers.peers import TrainTask

NUMBER, EPOCH = "number", "epoch"
"""What Ray Tune calls the setting that tells trials apart, and the number that grows from report to report."""
NAN_LOSS = 1e30
"""Stands for a loss that is NaN: Ray Tune takes percentiles of losses, which NaN or infinity would spoil."""


@dataclass(frozen=True)
class TrialReport:
    """How good the model of a trial would be if its training ended now: the numbers of its best epoch so far.

    So the loss of a trial never rises, and one that is pruned for it cannot have been the best of the sweep.

    Attributes:
        epoch: Epochs it was trained for.
        val_loss: Loss of its best epoch on the validation images; `NAN_LOSS` if the loss was NaN in all of them.
        val_accuracy: Accuracy of that epoch on them.
        best_epoch: That epoch, from 1; 0 if there is none.
        seconds: How long its epochs took.
        finished: Whether it is trained to its end.
        error: What has ended it.
    """

    epoch: int
    val_loss: float
    val_accuracy: float
    best_epoch: int
    seconds: float
    finished: bool = False
    error: Exception | None = None

    @classmethod
    def of(cls, rows: Sequence[HistoryRow]) -> Self:
        """The report after some epochs."""
        best = best_row(rows)
        seconds = round(sum(row.seconds for row in rows), 3)
        return cls(len(rows), min(best.watched_loss, NAN_LOSS), best.val_accuracy or 0.0, best.epoch, seconds)

    @classmethod
    def of_model(cls, model: ModelRecord) -> Self:
        """The report of a trial that is trained to its end, on validation images."""
        best = model.metrics
        return cls(
            best.epochs,
            NAN_LOSS if best.val_loss is None else best.val_loss,
            best.val_accuracy or 0.0,
            best.best_epoch,
            model.fit_seconds,
            finished=True,
        )

    @classmethod
    def without_model(cls, error: Exception | None = None) -> Self:
        """The report of a trial whose loss was NaN all along, or that failed."""
        return cls(0, NAN_LOSS, 0.0, 0, 0.0, finished=True, error=error)

    @classmethod
    def from_tune(cls, metrics: Mapping[str, Any]) -> Self:
        """The report that Ray Tune was given, without what it has added."""
        return cls(**{field.name: metrics[field.name] for field in fields(cls)})

    def to_tune(self) -> dict[str, object]:
        """The metrics that Ray Tune is given."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def has_model(self) -> bool:
        """Whether the loss of any epoch was a number."""
        return self.val_loss < NAN_LOSS


Report = Callable[[TrialReport], None]


@dataclass(frozen=True)
class TrialTask:
    """What all trials have in common.

    Attributes:
        trials: By number.
        datasets: What Ray Train hands out of them; see `training_datasets`.
        features: Features of frozen bases, by the number of the trial.
        threads: Threads of TensorFlow in each process; None for as many as it likes.
        neighbours: Trials that share the memory of a machine; None for as many as it has GPUs.
    """

    trials: Mapping[int, Trial]
    source: LabelledSource
    datasets: "Mapping[str, ray.data.Dataset]"
    features: Mapping[int, FeatureSource | None]
    threads: int | None
    neighbours: int | None


def run_trial(parameters: dict[str, int], task: TrialTask) -> None:
    """Train one trial from its newest checkpoint, and report after each epoch.

    Ray Tune ends the trial in a report if it falls behind the others. An error is reported too: raised, Ray Tune would
    take it for a lost process, and try again.

    Args:
        parameters: The `number` of the trial, in the dictionary that Ray Tune insists on.
        task: All trials.
    """
    try:
        join_stage("sweep")
        _report(_train(task.trials[parameters[NUMBER]], task))
    except DivergedError:
        _report(TrialReport.without_model())
    except TissueError as error:
        _report(TrialReport.without_model(error))
    except Exception:  # noqa: BLE001 - the driver raises it
        _report(TrialReport.without_model(RuntimeError(traceback.format_exc())))


def _report(report: TrialReport) -> None:
    tune.report(report.to_tune())


def _train(trial: Trial, task: TrialTask) -> TrialReport:
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
    return TrialReport.of_model(record)


def _gpus_here() -> int:
    here = ray.get_runtime_context().get_node_id()
    held = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return max(int(held.get("GPU", 1)), 1)


def _complete(
    config: TrainConfig, task: TrialTask, features: FeatureSource | None, folder: OutputFolder[ModelRecord]
) -> ModelRecord:
    started = time.monotonic()
    spec = parse_spec(config.model)
    messages = TrialMessages(sum(phase.epochs for phase in plan_phases(spec, config)), _report)
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
    record |= describe_model(spec, task.source, messages, folder.location, config)
    return folder.complete(ModelRecord.model_validate(record | {"seconds": round(time.monotonic() - started, 3)}))


class TrialMessages(MessageLog):
    """Passes on to Ray Tune how each epoch went, but for the last: a trial that is through is not to be ended."""

    def __init__(self, epochs: int, report_standing: Report) -> None:
        """Expect at most so many epochs."""
        super().__init__()
        self._epochs, self._report_standing = epochs, report_standing
        self._rows: list[HistoryRow] = []

    def report(self, message: Message) -> None:
        """Take in a message."""
        super().report(message)
        if isinstance(message, EpochEnded):
            self._rows.append(message.row)
            if len(self._rows) < self._epochs:
                self._report_standing(TrialReport.of(self._rows))
