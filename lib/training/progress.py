"""How far one phase is on one worker, and its way into a checkpoint and back."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lib.errors import TissueError
from lib.training.fit.checkpoint import Arrays, Checkpoint, CheckpointFolder, TrainState

if TYPE_CHECKING:
    import keras

    from lib.training.fit.callbacks import History, KeepBest
    from lib.training.fit.synchronous import SynchronousModel


class FitProgress:
    """Ties together what a checkpoint of a phase consists of."""

    def __init__(
        self,
        phase: int,
        model: "SynchronousModel",
        history: "History",
        best: "KeepBest",
        checkpoints: CheckpointFolder | None,
    ) -> None:
        """Begin at the beginning of a phase.

        Args:
            phase: Its number.
            model: What is trained; its optimizer is built.
            history: Has the rows so far.
            best: Has the best weights so far.
            checkpoints: Where to save, on the worker that does.
        """
        self.epoch, self.step = 0, 0
        self._phase, self._model, self._history, self._best = phase, model, history, best
        self._checkpoints = checkpoints
        self._sums: list[float] = []

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this phase.

        Raises:
            TissueError: If it is of another network.
        """
        state = checkpoint.state
        _assign(self._model.network.variables, checkpoint.network)
        _assign(self._model.optimizer.variables, checkpoint.optimizer)
        self._best.best_epoch, self._best.best_loss = state.best_epoch, state.best_loss
        self._best.weights, self._best.is_over = checkpoint.best, state.finished
        self.epoch, self.step, self._sums = state.epoch, state.step, state.sums

    def begin_epoch(self) -> int:
        """Put back the sums of an epoch that was interrupted.

        Returns:
            How many of its steps are done.
        """
        for variable, value in zip(self._sum_variables(), self._sums, strict=False):
            variable.assign(value)
        done, self.step, self._sums = self.step, 0, []
        return done

    def save(self, epoch: int, step: int, *, finished: bool = False, wait: bool = False) -> None:
        """Save a checkpoint, on the worker that does.

        Args:
            epoch: Epochs of the phase that are done.
            step: Steps of the next one that are done.
            finished: Whether the phase is over.
            wait: Return only when it is written.
        """
        if self._checkpoints is None:
            return
        state = TrainState(
            self._phase,
            epoch,
            step,
            finished or self._best.is_over,
            self._best.best_epoch,
            self._best.best_loss,
            list(self._history.rows),
            [float(variable) for variable in self._sum_variables()] if step else [],
        )
        network, optimizer = _copies(self._model.network.variables), _copies(self._model.optimizer.variables)
        self._checkpoints.save(state, network, optimizer, self._best.weights, wait=wait)

    def _sum_variables(self) -> list[Any]:
        return [variable for metric in self._model.metrics for variable in metric.variables]


def _copies(variables: "list[keras.Variable]") -> Arrays:
    return [np.array(variable.numpy()) for variable in variables]


def _assign(variables: "list[keras.Variable]", values: Arrays) -> None:
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [value.shape for value in values]:
        raise TissueError("the checkpoint is of another network; choose another --output")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
