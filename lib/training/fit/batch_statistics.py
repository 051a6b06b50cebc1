"""Statistics of batch normalisation, estimated anew for the weights that are judged.

Moving averages come from steps whose weights were others: after few or large steps they are far off (ResNet50 from
scratch had a validation loss of 4e6 after 30 steps), and each worker has its own. So before an epoch is judged, the
first batches of the first epoch are run through the network as in training, unchanged, and mean and variance of all of
them together take the place of the moving averages.

Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from lib.dataset.sampler import PADDING
from lib.models.registry import trained_batch_normalisation
from lib.training.fit.image_statistics import first_batches
from lib.training.fit.loader import SplitExamples
from lib.training.fit.objective import without_padding
from lib.training.fit.synchronous import SynchronousModel, add_pairwise, parts_of
from lib.training.workers.peers import Collective
from lib.training.workers.watchdog import Heartbeat


class BatchStatistics:
    """Estimates the statistics of one network."""

    def __init__(self, model: SynchronousModel, examples: SplitExamples, heartbeat: Heartbeat) -> None:
        """Take a network.

        Args:
            model: What is trained.
            examples: This worker's training examples.
            heartbeat: Told that this worker moves on.
        """
        self._model, self._examples, self._heartbeat = model, examples, heartbeat
        self._layers = trained_batch_normalisation(model.network)
        self._run = tf.function(self._batch_sums)

    def estimate(self) -> None:
        """Estimate them together with all other workers; nothing where no batch normalisation is trained."""
        if not self._layers:
            return
        shapes = [layer.moving_mean.shape for layer in self._layers]
        nothing = [tf.zeros(shape, tf.float64) for shape in [[], *shapes, *shapes]]
        sums = [nothing for _ in self._model.part_sizes]
        for batch, labels in first_batches(self._examples):
            self._heartbeat.move(patient=True)
            sums = self._run(batch, labels != PADDING, sums)
        self._heartbeat.move(patient=True)
        totals = self._model.all_reduce(add_pairwise(sums), Collective.STATISTICS)
        self._assign([total.numpy() for total in totals])

    def _assign(self, sums: Sequence[npt.NDArray[np.float64]]) -> None:
        count, *moments = sums
        for layer, first, second in zip(
            self._layers, moments[: len(self._layers)], moments[len(self._layers) :], strict=True
        ):
            mean = first / count
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(np.maximum(second / count - mean**2, 0))

    def _batch_sums(
        self, examples: tf.Tensor, is_present: tf.Tensor, sums: list[list[tf.Tensor]]
    ) -> list[list[tf.Tensor]]:
        """Sums of each part with a batch added: images; times these, each layer's mean input; that of its square.

        They are kept apart until the end, so that they are added in the same order for any number of workers.
        """
        found = [self._part_sums(*part) for part in parts_of((examples, is_present), self._model.part_sizes)]
        return [[a + b for a, b in zip(total, more, strict=True)] for total, more in zip(sums, found, strict=True)]

    def _part_sums(self, examples: tf.Tensor, is_present: tf.Tensor) -> list[tf.Tensor]:
        count = tf.reduce_sum(tf.cast(is_present, tf.float64))
        with _without_memory(self._layers):
            self._model.network(without_padding(examples, is_present), training=True)
        means = [tf.cast(layer.moving_mean.value, tf.float64) for layer in self._layers]
        variances = [tf.cast(layer.moving_variance.value, tf.float64) for layer in self._layers]
        squares = [variance + mean**2 for mean, variance in zip(means, variances, strict=True)]
        return [count, *(count * moment for moment in [*means, *squares])]


@contextmanager
def _without_memory(layers: Sequence[keras.layers.BatchNormalization]) -> Iterator[None]:
    """Have layers keep the statistics of the last batch alone, while they are traced."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        for statistic in (layer.moving_mean, layer.moving_variance):
            statistic.assign(tf.zeros(statistic.shape))  # 0 times infinity would stay
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
