"""Adam as a phase wants it: its step size over time, and what each variable takes of it."""

from collections.abc import Sequence
from typing import Any

import keras

from lib.config.fitting import FitConfig

Shares = Sequence[tuple[keras.Variable, float]]


class StepSize(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in a line from 0, and then stays, or falls to 0 along half a cosine.

    With w steps of warm-up, of n in all, step t from 0 has

        rate * min((t + 1) / w, 1) * (1 + cos(pi * max(t - w, 0) / (n - w))) / 2
    """

    def __init__(self, rate: float, *, warm_up: int, steps: int, falls: bool) -> None:
        """Plan a phase.

        Args:
            rate: The greatest step size.
            warm_up: Steps in which it rises.
            steps: Steps of the whole phase.
            falls: Whether it falls afterwards.
        """
        self._rate, self._warm_up, self._steps, self._falls = rate, warm_up, steps, falls

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """The step size of one step, from 0."""
        done = keras.ops.cast(step, "float32")
        rate = self._rate * keras.ops.minimum((done + 1) / max(self._warm_up, 1), 1.0)
        if not self._falls:
            return rate
        way = keras.ops.clip((done - self._warm_up) / max(self._steps - self._warm_up, 1), 0.0, 1.0)
        return rate * (1 + keras.ops.cos(way * 3.141592653589793)) / 2

    def get_config(self) -> dict[str, Any]:
        """As Keras wants it."""
        return {"rate": self._rate, "warm_up": self._warm_up, "steps": self._steps, "falls": self._falls}


class PhaseAdam(keras.optimizers.Adam):
    """Adam or AdamW, with a smaller step for some variables.

    Smaller gradients would not do: Adam makes up for their size.
    """

    def __init__(self, step_size: StepSize, config: FitConfig, shares: Shares = ()) -> None:
        """Follow the settings.

        Args:
            step_size: Over time.
            config: Has weight decay, clipping and averaging.
            shares: Variables with a step size of their own, and what share of that of the others it is.
        """
        averages = {"use_ema": True, "ema_momentum": config.ema} if config.ema is not None else {}
        super().__init__(step_size, global_clipnorm=config.clip_norm, **averages)
        self._decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        # Keras hands the variable of TensorFlow to `update_step`, not its own; both have the same key.
        self._shares = {self._var_key(variable): share for variable, share in shares}

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's step."""
        rate = learning_rate * self._shares.get(self._var_key(variable), 1.0)
        if self._decay and len(variable.shape) > 1:  # vectors are biases and normalisation
            self.assign_sub(variable, variable * keras.ops.cast(rate * self._decay, variable.dtype))
        super().update_step(gradient, variable, rate)

    def finalize_variable_values(self, _: object) -> None:
        """Leave the weights as they are at the end of Keras `fit`, which is not the end of the training."""

    @property
    def averages(self) -> list[keras.Variable]:
        """The running average of each variable; none unless the settings want them."""
        return list(self._model_variables_moving_average) if self.use_ema else []


def weight_averages(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The running averages that an optimizer keeps of the weights, in their order; none if it keeps none."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    return inner.averages if isinstance(inner, PhaseAdam) else []
