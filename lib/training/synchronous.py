"""Keras `fit` on several processes whose steps equal those of one process with the same global batch.

Keras 3 does not run under TensorFlow's MultiWorkerMirroredStrategy (keras#20585). Here every worker runs an ordinary
`fit` on a `SynchronousModel`; its step adds up, over all workers and in one collective call, the gradients of the
summed loss together with the sums behind loss and accuracy, and then divides by the number of images in the global
batch. So gradients and metrics are exact however the images are spread over the workers, padding included, and all
workers see the same numbers and take the same decisions.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

GROUP_KEY = 1
COLLECTIVE_TIMEOUT_S = 600.0


def start_collectives() -> None:
    """Connect this process to the others named in TF_CONFIG (NCCL between GPUs, a ring between CPUs)."""
    tf.distribute.MultiWorkerMirroredStrategy()  # its construction starts the runtime; its scope is not used


def all_reduce_sum(tensors: Sequence[tf.Tensor], world_size: int, instance_key: int) -> list[tf.Tensor]:
    """The sum over all workers of each tensor, in one collective call.

    Args:
        tensors: The same shapes on every worker, float32.
        world_size: Number of workers; with one, nothing is sent.
        instance_key: A number of its own for each place in the program that reduces.
    """
    if world_size == 1:
        return list(tensors)
    flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
    reduced = tf.raw_ops.CollectiveReduceV2(
        input=flat,
        group_size=world_size,
        group_key=GROUP_KEY,
        instance_key=instance_key,
        ordering_token=[],
        merge_op="Add",
        final_op="Id",
        communication_hint="auto",
        timeout_seconds=COLLECTIVE_TIMEOUT_S,
    )
    parts = tf.split(reduced, [tensor.shape.num_elements() for tensor in tensors])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class SynchronousModel(keras.Model):
    """Trains a network in step with the same network on other workers.

    Its data are batches of images uint8 (n, height, width, 3), labels int32 (n,) and weights float32 (n,), which are
    1, or 0 for padding. It reports `loss`, the mean cross-entropy per image in nats, and `accuracy`, a fraction.
    """

    TRAIN_KEY, TEST_KEY, STATISTICS_KEY, COUNTS_KEY = 1, 2, 3, 4

    def __init__(self, network: keras.Model, world_size: int) -> None:
        """Wrap a network; it is trained in place, and is what to save."""
        super().__init__(name=f"synchronous_{network.name}")
        self.network = network
        self.world_size = world_size
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.accuracy_mean = keras.metrics.Mean(name="accuracy")

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The logits of the network."""
        return self.network(images, training=training)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Reset by Keras at the start of each epoch."""
        return [self.loss_mean, self.accuracy_mean]

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """One optimizer step on one global batch."""
        images, labels, weights = data
        with tf.GradientTape() as tape:
            logits = self.network(images, training=True)
            sums = _batch_sums(logits, labels, weights)
            penalties = tf.add_n(self.network.losses) if self.network.losses else 0.0
            objective = self.optimizer.scale_loss(sums[0] + penalties * sums[2])
        gradients = tape.gradient(objective, self.network.trainable_variables)
        *gradients, loss, correct, count = all_reduce_sum([*gradients, *sums], self.world_size, self.TRAIN_KEY)
        images_in_batch = tf.maximum(count, 1.0)
        self.optimizer.apply([gradient / images_in_batch for gradient in gradients], self.network.trainable_variables)
        return self._update(loss, correct, count)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Loss and accuracy of one global batch."""
        images, labels, weights = data
        sums = _batch_sums(self.network(images, training=False), labels, weights)
        return self._update(*all_reduce_sum(sums, self.world_size, self.TEST_KEY))

    def _update(self, loss: tf.Tensor, correct: tf.Tensor, count: tf.Tensor) -> dict[str, Any]:
        self.loss_mean.update_state(tf.math.divide_no_nan(loss, count), sample_weight=count)
        self.accuracy_mean.update_state(tf.math.divide_no_nan(correct, count), sample_weight=count)
        return {metric.name: metric.result() for metric in self.metrics}

    def average_statistics(self) -> None:
        """Give every worker the mean of all workers' moving statistics of trained batch normalisation."""
        statistics = [
            variable
            for layer in self.network._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        if statistics and self.world_size > 1:
            self._assign_means(statistics)

    def _assign_means(self, statistics: list[keras.Variable]) -> None:
        sums = all_reduce_sum([variable.value for variable in statistics], self.world_size, self.STATISTICS_KEY)
        for variable, total in zip(statistics, sums, strict=True):
            variable.assign(total / self.world_size)


def _batch_sums(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
    """Summed cross-entropy, correct predictions and images of a batch; padding counts nothing."""
    logits = tf.cast(logits, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    correct = tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32)
    return [tf.reduce_sum(losses * weights), tf.reduce_sum(correct * weights), tf.reduce_sum(weights)]
