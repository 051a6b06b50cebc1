"""What a phase trains of a network, with which optimizer, and in which arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from lib.config.fitting import FitConfig
from lib.models.registry import Network, trained_layers, unfreeze
from lib.training.fit.optimizer import PhaseAdam, Shares, StepSize
from lib.training.fit.plan import FINE_TUNE, Phase

BASE_RATE = 0.1
"""Step size of the last layer of a base while it is fine-tuned, as a share of the head's."""
WARM_UP = 0.1
"""Share of the steps of a phase in which the step size rises from 0, unless settings say otherwise."""


def trained_network(phase: Phase, network: Network, config: FitConfig) -> keras.Model:
    """The part of a network that a phase trains; the layers that it trains are made trainable."""
    if phase.name == FINE_TUNE:
        unfreeze(network, config.fine_tune_layers)
        return network.model
    return network.head


def phase_optimizer(phase: Phase, network: Network, config: FitConfig, rate: float, steps: int) -> PhaseAdam:
    """Adam as it suits a phase.

    Args:
        network: Whose base learns more slowly while it is fine-tuned.
        config: Has the step size of fine-tuning, and how step sizes change.
        rate: Step size of the other phases.
        steps: Steps in an epoch.
    """
    total, falls, warm_up = steps * phase.epochs, config.schedule == "cosine", WARM_UP * phase.epochs
    if phase.name == FINE_TUNE and network.base is not None:
        rising = StepSize(config.fine_tune_rate, warm_up=round(warm_up * steps), steps=total, falls=falls)
        return PhaseAdam(rising, config, _base_shares(network.base, config.fine_tune_decay))
    if config.warmup_epochs is not None:
        warm_up = config.warmup_epochs
    return PhaseAdam(StepSize(rate, warm_up=round(warm_up * steps), steps=total, falls=falls), config)


def _base_shares(base: keras.Model, decay: float) -> Shares:
    """Each trained variable of a base, and its share of the step size: `BASE_RATE` in the last layer, less before."""
    layers = enumerate(reversed(trained_layers(base)))
    return [(variable, BASE_RATE * decay**depth) for depth, variables in layers for variable in variables]


@contextmanager
def layers_in(precision: str) -> Iterator[None]:
    """Have Keras build layers of a precision. It is set for the whole process, which may be the driver's."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
