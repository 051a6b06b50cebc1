"""One phase on one worker: what is trained, how far it is, and its way into a checkpoint and back."""

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from lib.errors import TissueError
from lib.folders.history import HistoryRow, best_row
from lib.models.registry import finalise_normalisation
from lib.training.fit.batches import Batches
from lib.training.fit.checkpoint import Arrays, Checkpoint, CheckpointFolder, TrainState
from lib.training.fit.plan import Phase
from lib.training.fit.synchronous import SynchronousModel


class PhaseFit:
    """What the hooks of a phase share.

    Attributes:
        model: What is trained; its optimizer is built.
        batches: Batches of its training images.
        rows: One an epoch, of all phases so far.
        epoch: Epochs of the phase that are done.
        step: Steps of the next epoch that are done; 0 except after an interruption.
        best_epoch: The best epoch of the phase so far, from 1; 0 while what was before the phase is the best.
        best_loss: Its watched loss; infinite before there is any.
        best_weights: The weights of the network after it; none before there is one.
        is_over: Whether patience has ended the phase.
    """

    def __init__(
        self,
        phase: Phase,
        model: SynchronousModel,
        batches: Batches,
        rows: list[HistoryRow],
        checkpoints: CheckpointFolder | None,
    ) -> None:
        """Stand at the beginning of a phase.

        Args:
            model: What is trained; its optimizer is built.
            batches: Batches of its training images.
            rows: Rows of the phases before; rows of this one are added.
            checkpoints: Where to save, on the worker that does.
        """
        self.phase, self.model, self.batches, self.rows = phase, model, batches, rows
        self.epoch, self.step, self.is_over = 0, 0, False
        self.best_epoch, self.best_loss = 0, math.inf
        self.best_weights: Arrays = []
        if rows:  # an earlier phase may have been better than any epoch of this one
            self.best_loss, self.best_weights = best_row(rows).watched_loss, model.network.get_weights()
        self._checkpoints = checkpoints
        self._sums: list[float] = []

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this phase.

        Raises:
            TissueError: If it is of another network.
        """
        state = checkpoint.state
        _assign(self.model.network.variables, checkpoint.network)
        finalise_normalisation(self.model.network)
        _assign(self.model.optimizer.variables, checkpoint.optimizer)
        self.best_epoch, self.best_loss, self.best_weights = state.best_epoch, state.best_loss, checkpoint.best
        self.epoch, self.step, self._sums = state.epoch, state.step, state.sums

    def calls(self) -> Iterator[int]:
        """The epochs at which calls of Keras `fit` end.

        The rest of an interrupted epoch has fewer steps than a whole one, and so a call of its own.
        """
        for end in [self.epoch + 1, self.phase.epochs] if self.step else [self.phase.epochs]:
            if self.epoch < end and not self.model.stop_training:
                self.batches.epoch, self.batches.first_step = self.epoch, self.step
                yield end
                self.epoch = end

    def begin_epoch(self) -> int:
        """Put back the sums of an epoch that was interrupted.

        Returns:
            How many of its steps are done.
        """
        for variable, value in zip(self._sum_variables(), self._sums, strict=False):
            variable.assign(value)
        done, self.step, self._sums = self.step, 0, []
        return done

    def keep_if_best(self, row: HistoryRow, epoch: int) -> None:
        """Keep the weights of an epoch of this phase, from 1, if it is better than those before, or none is chosen."""
        if row.watched_loss < (math.inf if row.keeps_last else self.best_loss):
            self.best_epoch, self.best_loss = epoch, row.watched_loss
            self.best_weights = self.model.network.get_weights()

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
            self.phase.number,
            epoch,
            step,
            finished or self.is_over,
            self.best_epoch,
            self.best_loss,
            list(self.rows),
            [float(variable) for variable in self._sum_variables()] if step else [],
        )
        network, optimizer = _copies(self.model.network.variables), _copies(self.model.optimizer.variables)
        self._checkpoints.save(Checkpoint(state, network, optimizer, self.best_weights), wait=wait)

    def _sum_variables(self) -> list[Any]:
        return [variable for metric in self.model.metrics for variable in metric.variables]


def _copies(variables: list[keras.Variable]) -> Arrays:
    return [np.array(variable.numpy()) for variable in variables]


def _assign(variables: list[keras.Variable], values: Arrays) -> None:
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [value.shape for value in values]:
        raise TissueError("the checkpoint belongs to another network; choose another --output")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
