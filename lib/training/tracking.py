"""Logs a training to MLflow, if the environment names a server in `MLFLOW_TRACKING_URI`.

The driver logs, not the workers. A run of ours is one run of MLflow, also after an interruption. That the
server can be reached is checked before Ray starts; if it is lost later, training goes on and says so.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lib.config.fitting import TrainConfig
from lib.errors import SettingsError, TissueError, one_line
from lib.folders.history import HISTORY_SCHEMA
from lib.folders.model import ModelRecord
from lib.folders.output import OutputFolder
from lib.folders.sweep import TrialRecord
from lib.training.workers.messages import EpochEnded, Messages

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

URI_VARIABLE = "MLFLOW_TRACKING_URI"
DEFAULT_EXPERIMENT = "tissue-training"
POLL_INTERVAL_S = 2.0
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # MLflow's own patience is minutes, in which nobody would know why
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # nothing starts
}
"""What the environment may say otherwise."""
LOSSES = ("loss", "accuracy", "val_loss", "val_accuracy")
EPOCH_METRICS = [name for name in HISTORY_SCHEMA.names if name not in {"epoch", "phase", "keeps_last"}]
TRIAL_METRICS = ("val_loss", "val_accuracy", "best_epoch", "epochs", "seconds")


class Tracker:
    """Logs nothing: what there is without a tracking server."""

    @contextmanager
    def following(self, messages: Messages) -> Iterator[None]:
        """Log each epoch that ends, for as long as the context lasts."""
        yield

    def finish(self, record: ModelRecord, trials: Iterable[TrialRecord] = ()) -> None:
        """Log the model, and the trials it was selected from.

        Args:
            record: What `model.json` will say, but for its completion.
            trials: How they ended.
        """


def open_tracker(config: TrainConfig, folder: OutputFolder[ModelRecord]) -> Tracker:
    """Create the run of MLflow, or resume it.

    Args:
        config: The settings of the run.
        folder: Its model folder, begun.

    Raises:
        SettingsError: If MLflow is not installed.
        TissueError: If its server refuses the run.
    """
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        return Tracker()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise SettingsError(
            f"{URI_VARIABLE} is set, but MLflow is not installed: pip install mlflow-skinny, or unset the variable"
        ) from error
    try:
        client = MlflowClient(uri)
        # One tracking server may know nothing of the runs of another.
        place = f"mlflow_run_{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
        run_id = folder.measured_once(place, lambda: _create_run(client, config, folder))
        client.update_run(run_id, status="RUNNING")
    except (MlflowException, OSError) as error:
        raise TissueError(f"{URI_VARIABLE}: MLflow refused the run: {one_line(error)}") from error
    return MlflowTracker(client, run_id)


def _create_run(client: "MlflowClient", config: TrainConfig, folder: OutputFolder[ModelRecord]) -> str:
    from mlflow.entities import Param

    tags = {"model_dir": folder.location.uri, **{name: str(value) for name, value in folder.inputs.items()}}
    run = client.create_run(_experiment(client), run_name=folder.location.name, tags=tags)
    settings = config.model_dump(mode="json", exclude_none=True)
    client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in settings.items()])
    return str(run.info.run_id)


def _experiment(client: "MlflowClient") -> str:
    """The experiment that MLflow's own variables name, or ours."""
    if by_id := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return by_id
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


class MlflowTracker(Tracker):
    """Logs to an MLflow server."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        """Log to one run."""
        self._client, self._run_id = client, run_id
        self._seen, self._in_reach = 0, True

    @contextmanager
    def following(self, messages: Messages) -> Iterator[None]:
        """Log each epoch that ends, from a thread, and a failure."""
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(messages, stop), name="tracking", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._attempt(lambda: self._client.set_terminated(self._run_id, "FAILED"))
            raise
        finally:
            stop.set()
            thread.join()
        self._log_epochs(messages)

    def _follow(self, messages: Messages, stop: threading.Event) -> None:
        while not stop.wait(POLL_INTERVAL_S):
            self._log_epochs(messages)

    def _log_epochs(self, messages: Messages) -> None:
        """Log new rows; those that the server refuses are logged again the next time."""
        events = messages.news(self._seen).events
        rows = [event.row for event in events if isinstance(event, EpochEnded)]
        metrics = [metric for row in rows for metric in _metrics(asdict(row), EPOCH_METRICS, row.epoch)]
        if not metrics or self._attempt(lambda: self._client.log_batch(self._run_id, metrics=metrics)):
            self._seen += len(events)

    def finish(self, record: ModelRecord, trials: Iterable[TrialRecord] = ()) -> None:
        """Log the model, and each trial as a run below this one."""
        metrics = record.metrics
        final = {f"best_{name}": getattr(metrics, name) for name in LOSSES}
        final |= {name: getattr(metrics, name) for name in ("best_epoch", "epochs")}
        final |= {name: getattr(record, name) for name in ("fit_seconds", "world_size", "parameters")}

        def log() -> None:
            for trial in trials:
                self._log_trial(trial)
            self._client.set_tag(self._run_id, "spec", record.spec)
            self._client.log_batch(self._run_id, metrics=_metrics(final, list(final), metrics.epochs))
            self._client.set_terminated(self._run_id, "FINISHED")

        self._attempt(log)

    def _log_trial(self, trial: TrialRecord) -> None:
        from mlflow.entities import Param

        experiment = self._client.get_run(self._run_id).info.experiment_id
        tags = {"mlflow.parentRunId": self._run_id, "pruned": str(trial.pruned)}
        run = self._client.create_run(experiment, run_name=f"trial {trial.trial}", tags=tags)
        metrics = _metrics(trial.as_json(), TRIAL_METRICS, trial.epochs)
        for epoch, value in trial.curve:
            metrics += _metrics({"best_so_far": value}, ["best_so_far"], epoch)
        parameters = [Param(name, str(value)) for name, value in trial.parameters.items()]
        self._client.log_batch(run.info.run_id, metrics=metrics, params=parameters)
        self._client.set_terminated(run.info.run_id, "FINISHED")

    def _attempt(self, call: Callable[[], object]) -> bool:
        """Whether the server took it. Only the first refusal is said: a model is worth more than its log."""
        from mlflow.exceptions import MlflowException

        try:
            call()
        except (MlflowException, OSError) as error:
            if self._in_reach:
                logger.warning("MLflow lacks a part of this run: %s", one_line(error))
            self._in_reach = False
        else:
            self._in_reach = True
        return self._in_reach


def _metrics(numbers: Mapping[str, Any], names: Sequence[str], step: int) -> list[Any]:
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(name, float(numbers[name]), now_ms, step) for name in names if numbers[name] is not None]
