"""Keras `fit` on several processes whose steps equal those of one process with the same global batch.

Keras 3 does not run under TensorFlow's MultiWorkerMirroredStrategy (keras#20585). Here every worker runs an ordinary
`fit` on a `SynchronousModel`; its step adds up, over all workers and in one collective call, the gradients of the
summed loss together with the sums behind loss and accuracy, and then divides by the number of images in the global
batch. So gradients and metrics are exact however the images are spread over the workers, padding included, and all
workers see the same numbers and take the same decisions.

Exact is not yet equal: a gradient summed over 32 images at once and over 2 x 16 differ in their last bits, and Adam's
first steps turn a gradient's sign into a full step, however small it is (CNN, 18 steps: 1.5 % of the weights' norm).
So a global batch is always cut into the same parts, whose gradients are added pairwise: with 4 parts, one worker and
two end 0.002 % apart.
"""

import itertools
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

    def __init__(self, network: keras.Model, world_size: int, part_sizes: Sequence[int]) -> None:
        """Wrap a network; it is trained in place, and is what to save.

        Args:
            network: From images to logits.
            world_size: Number of workers.
            part_sizes: Images in each part of this worker's share of a global batch.
        """
        super().__init__(name=f"synchronous_{network.name}")
        self.network = network
        self.world_size = world_size
        self.part_sizes = tuple(part_sizes)
        self._part_function = tf.function(self._part_sums)
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
        parts = zip(*(tf.split(tensor, self.part_sizes) for tensor in data), strict=True)
        sums = _add_pairwise([self._part_function(*part) for part in parts])
        *gradients, loss, correct, count = all_reduce_sum(sums, self.world_size, self.TRAIN_KEY)
        images_in_batch = tf.maximum(count, 1.0)
        self.optimizer.apply([gradient / images_in_batch for gradient in gradients], self.network.trainable_variables)
        return self._update(loss, correct, count)

    def _part_sums(self, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        """The gradients of the summed loss of a part, then its loss, correct predictions and images."""
        with tf.GradientTape() as tape:
            sums = _batch_sums(self.network(images, training=True), labels, weights)
            penalties = tf.add_n(self.network.losses) if self.network.losses else 0.0
            objective = self.optimizer.scale_loss(sums[0] + penalties * sums[2])
        return [*tape.gradient(objective, self.network.trainable_variables), *sums]

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


def _add_pairwise(parts: list[list[tf.Tensor]]) -> list[tf.Tensor]:
    """The sum of the parts, added as a tree, so that a half of them added elsewhere gives the same bits."""
    while len(parts) > 1:
        pairs = itertools.zip_longest(parts[::2], parts[1::2])
        parts = [left if right is None else [a + b for a, b in zip(left, right, strict=True)] for left, right in pairs]
    return parts[0]


def _batch_sums(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
    """Summed cross-entropy, correct predictions and images of a batch; padding counts nothing."""
    logits = tf.cast(logits, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    correct = tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32)
    return [tf.reduce_sum(losses * weights), tf.reduce_sum(correct * weights), tf.reduce_sum(weights)]
