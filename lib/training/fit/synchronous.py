"""Keras `fit` on several processes whose steps equal those of one process with the same global batch.

Keras 3 does not run under TensorFlow's MultiWorkerMirroredStrategy (keras#20585). Here every worker runs an ordinary
`fit` on a `SynchronousModel`; its step adds up, over all workers and in one collective call, the gradients of the
summed loss together with the sums behind loss and accuracy, and then divides by the number of images in the global
batch. So gradients and metrics are exact however the images are spread over the workers, padding included, and all
workers see the same numbers and take the same decisions.

Exact is not yet equal: a gradient summed over 32 images at once and over 2 x 16 differ in their last bits, and Adam's
first steps turn a gradient's sign into a full step, however small it is (CNN, 18 steps: 1.5 % of the weights' norm).
So a global batch is always cut into the same parts, whose sums are added as a tree, within a worker and then between
workers (`Peers.all_reduce`): on CPUs, the bits are the same for any number of workers that divides the parts, if both
are powers of 2 and TensorFlow has as many threads in each worker.
"""

import itertools
from collections.abc import Sequence

import keras
import tensorflow as tf

from lib.training.fit.objective import Objective, batch_sums
from lib.training.fit.optimizer import weight_averages
from lib.training.workers.peers import Collective, Peers

PLAIN = Objective()


class SynchronousModel(keras.Model):
    """Trains a network in step with the same network on other workers.

    Its data are batches of examples (n, ...), labels int32 (n,) and weights float32 (n,), 0 for padding; and, if
    examples are mixed, the draws that decide how. It reports `loss`, the mean cross-entropy per image in
    nats, each times its weight, and `accuracy`, the fraction of the images that are predicted right.
    """

    def __init__(
        self,
        network: keras.Model,
        peers: Peers,
        part_sizes: Sequence[int],
        *,
        objective: Objective = PLAIN,
        phase: int = 0,
    ) -> None:
        """Wrap a network; it is trained in place, and is what to save.

        Args:
            network: From examples to logits.
            peers: The workers.
            part_sizes: Images in each part of this worker's share of a global batch.
            objective: How the training loss is computed.
            phase: A number that no other model on these workers has.
        """
        super().__init__(name=f"synchronous_{network.name}")
        self.network = network
        self._peers = peers
        self.part_sizes = tuple(part_sizes)
        self.wishes = tf.Variable(0.0, trainable=False)
        """Set to 1 by a worker that wants all of them to save a checkpoint after this step."""
        self.wished = tf.Variable(0.0, trainable=False)
        """How many workers wanted that in the last step; the same on all of them."""
        self._objective = objective
        self._trained: list[tf.Tensor] = []
        self._phase = phase
        self._part_function = tf.function(self._part_sums)
        self._test_function = tf.function(self._test_sums)
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.accuracy_mean = keras.metrics.Mean(name="accuracy")

    @property
    def takes_draws(self) -> bool:
        """Whether training batches come with the draws that decide how examples are mixed."""
        return self._objective.takes_draws

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """The logits of the network."""
        return self.network(images, training=training)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Reset by Keras at the start of each epoch."""
        return [self.loss_mean, self.accuracy_mean]

    def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        """One optimizer step on one global batch."""
        return self.take_step(self.all_reduce(self.worker_sums(data), Collective.TRAIN_STEP))

    def worker_sums(self, data: tuple[tf.Tensor, ...]) -> list[tf.Tensor]:
        """Of its share of a batch: gradients of the summed loss, loss, correct predictions, images; and its wishes."""
        sums = add_pairwise([self._part_function(*part) for part in parts_of(data, self.part_sizes)])
        return [*sums, self.wishes.value()]

    def take_step(self, sums: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Move the weights, given the sums over all workers."""
        *gradients, loss, correct, count, wished = sums
        self.wished.assign(wished)
        images_in_batch = tf.maximum(count, 1.0)
        self.optimizer.apply([gradient / images_in_batch for gradient in gradients], self.network.trainable_variables)
        return self._update(loss, correct, count)

    def all_reduce(self, tensors: Sequence[tf.Tensor], place: Collective) -> list[tf.Tensor]:
        """The sum over all workers of each tensor, at a place in the program."""
        return self._peers.all_reduce(tensors, place.in_phase(self._phase))

    def _part_sums(
        self, examples: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, *draws: tf.Tensor
    ) -> list[tf.Tensor]:
        """The gradients of the summed loss of a part, then its loss, correct predictions and images."""
        with tf.GradientTape() as tape:
            sums = self._objective.sums(self.network, examples, labels, weights, *draws)
            penalties = tf.add_n(self.network.losses) if self.network.losses else 0.0
            objective = sums[0] + penalties * sums[2]
            if is_scaled := isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                objective = self.optimizer.scale_loss(objective / labels.shape[0])  # a sum overflows float16 sooner
        gradients = tape.gradient(objective, self.network.trainable_variables)
        return [*(gradient * labels.shape[0] if is_scaled else gradient for gradient in gradients), *sums]

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Loss and accuracy of one global batch."""
        sums = add_pairwise([self._test_function(*part) for part in parts_of(data, self.part_sizes)])
        return self._update(*self.all_reduce(sums, Collective.TEST_STEP))

    def _test_sums(self, examples: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        """The summed loss of a part, its correct predictions and images."""
        return batch_sums(self.network(examples, training=False), labels, weights)

    def _update(self, loss: tf.Tensor, correct: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        self.loss_mean.update_state(tf.math.divide_no_nan(loss, count), sample_weight=count)
        self.accuracy_mean.update_state(tf.math.divide_no_nan(correct, count), sample_weight=count)
        return {metric.name: metric.result() for metric in self.metrics}

    def meet(self) -> None:
        """Wait for all workers."""
        self.all_reduce([tf.constant(0.0)], Collective.MEETING)

    def use_averages(self) -> None:
        """Put the running averages of the weights in their places, if there are any; see `use_trained`."""
        averages = weight_averages(self.optimizer)
        if averages and not self._trained:
            self._trained = [tf.identity(variable.value) for variable in self.network.trainable_variables]
            _assign(self.network.trainable_variables, averages)

    def use_trained(self) -> None:
        """Put the weights back that steps go on with, if others are in their places."""
        if self._trained:
            _assign(self.network.trainable_variables, self._trained)
        self._trained = []


def _assign(variables: Sequence[keras.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def parts_of(data: Sequence[tf.Tensor], sizes: Sequence[int]) -> list[tuple[tf.Tensor, ...]]:
    """Batches cut into parts of these sizes; by slices, since a GPU does not split uint8."""
    stops = itertools.accumulate(sizes)
    return [tuple(tensor[stop - size : stop] for tensor in data) for size, stop in zip(sizes, stops, strict=True)]


def add_pairwise(parts: list[list[tf.Tensor]]) -> list[tf.Tensor]:
    """The sum of the parts, added as a tree, so that a half of them added elsewhere gives the same bits.

    Source:
        TensorFlow 2.21's graph optimizer makes one `AddN` of a tree of additions, which adds one part after the other.
        It does not look into functions that are not to be put in line.
    """
    add = tf.function(_added, experimental_attributes={"_noinline": True})
    while len(parts) > 1:
        pairs = itertools.zip_longest(parts[::2], parts[1::2])
        parts = [left if right is None else add(left, right) for left, right in pairs]
    return parts[0]


def _added(left: list[tf.Tensor], right: list[tf.Tensor]) -> list[tf.Tensor]:
    return [a + b for a, b in zip(left, right, strict=True)]
