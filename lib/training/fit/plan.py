"""What is trained in which order: a network from scratch; or a head on a frozen base, and then the top of the base."""

from dataclasses import dataclass

from lib.config.fitting import FitConfig
from lib.models.spec import ModelSpec

FIT, HEAD, FINE_TUNE = "fit", "head", "fine_tune"


@dataclass(frozen=True)
class Phase:
    """One call of `fit`.

    Attributes:
        number: From 0.
        name: `fit`, `head` or `fine_tune`.
        epochs: Most epochs.
        on_features: Whether it is trained on features of the frozen base instead of images.
    """

    number: int
    name: str
    epochs: int
    on_features: bool = False


def plan_phases(spec: ModelSpec, config: FitConfig) -> list[Phase]:
    """The phases of a training, in order."""
    if not spec.has_frozen_base:
        return [Phase(0, FIT, config.epochs)]
    head = Phase(0, HEAD, config.epochs, on_features=True)
    return [head, Phase(1, FINE_TUNE, config.fine_tune_epochs)] if config.fine_tune_epochs else [head]
