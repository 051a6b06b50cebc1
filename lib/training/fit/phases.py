"""What a phase trains of a network, with which optimizer, and in which arithmetic."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras

from lib.config.fitting import FitConfig
from lib.models.registry import Network, unfreeze
from lib.training.fit.plan import FINE_TUNE, Phase

BASE_RATE = 0.1
"""Step size of the layers of a base while they are fine-tuned, as a share of the head's."""
WARM_UP = 0.1
"""Share of the steps of fine-tuning in which the step size rises from 0."""


def trained_network(phase: Phase, network: Network, config: FitConfig) -> keras.Model:
    """The part of a network that a phase trains; the layers that it trains are made trainable."""
    if phase.name == FINE_TUNE:
        unfreeze(network, config.fine_tune_layers)
        return network.model
    return network.head


def phase_optimizer(phase: Phase, network: Network, config: FitConfig, rate: float, steps: int) -> keras.Optimizer:
    """Adam as it suits a phase.

    Args:
        network: Whose base learns more slowly while it is fine-tuned.
        config: Has the step size of fine-tuning.
        rate: Step size of the other phases.
        steps: Steps in an epoch.
    """
    if phase.name != FINE_TUNE or network.base is None:
        return keras.optimizers.Adam(rate)
    rising = WarmUp(config.fine_tune_rate, round(WARM_UP * steps * phase.epochs))
    return LayerwiseAdam(rising, network.base.trainable_variables)


@contextmanager
def layers_in(precision: str) -> Iterator[None]:
    """Have Keras build layers of a precision. It is set for the whole process, which may be the driver's."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in a line from 0 to a step size, and stays there."""

    def __init__(self, rate: float, steps: int) -> None:
        """Rise within so many steps."""
        self._rate, self._steps = rate, steps

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """The step size of one step, from 0."""
        done = (keras.ops.cast(step, "float32") + 1) / max(self._steps, 1)
        return self._rate * keras.ops.minimum(done, 1.0)

    def get_config(self) -> dict[str, float]:
        """As Keras wants it."""
        return {"rate": self._rate, "steps": self._steps}


class LayerwiseAdam(keras.optimizers.Adam):
    """Adam with a smaller step for some variables. Smaller gradients would not do: Adam makes up for their size."""

    def __init__(self, learning_rate: WarmUp, slower: Sequence[keras.Variable]) -> None:
        """Take the variables whose steps are `BASE_RATE` of those of the others."""
        super().__init__(learning_rate)
        # Keras hands the variable of TensorFlow to `update_step`, not its own; both have the same key.
        self._slower = {self._var_key(variable) for variable in slower}

    def update_step(self, gradient: object, variable: keras.Variable, learning_rate: float) -> None:
        """One variable's step."""
        share = BASE_RATE if self._var_key(variable) in self._slower else 1.0
        super().update_step(gradient, variable, learning_rate * share)
