"""What is trained in which order: a network from scratch; or a head on a frozen base, and then the top of the base."""

from collections.abc import Sequence
from dataclasses import dataclass

from lib.config.fitting import FitConfig
from lib.models.spec import ModelSpec
from lib.training.fit.checkpoint import Checkpoint

FIT, HEAD, FINE_TUNE = "fit", "head", "fine_tune"


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs that train the same part of a network in the same way.

    Attributes:
        number: From 0.
        name: `fit`, `head` or `fine_tune`.
        epochs: Most epochs.
        on_features: Whether it is trained on features of the frozen base instead of images.
        is_solved: Whether it is solved (see `lib.training.fit.solve`) rather than trained.
    """

    number: int
    name: str
    epochs: int
    on_features: bool = False
    is_solved: bool = False


def plan_phases(spec: ModelSpec, config: FitConfig) -> list[Phase]:
    """The phases of a training, in order."""
    if not spec.has_frozen_base:
        return [Phase(0, FIT, config.epochs)]
    is_solved = config.head == "solved"
    head = Phase(0, HEAD, 1 if is_solved else config.epochs, on_features=True, is_solved=is_solved)
    return [head, Phase(1, FINE_TUNE, config.fine_tune_epochs)] if config.fine_tune_epochs else [head]


def unfinished_phases(phases: Sequence[Phase], newest: Checkpoint | None) -> Sequence[Phase]:
    """The phases that are left to train after the newest checkpoint, of which the first may be under way."""
    return phases[newest.state.phase + newest.state.finished :] if newest else phases
