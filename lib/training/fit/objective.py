"""What a training step makes small: the cross-entropy of a part of a batch, whose images may be mixed.

All of it happens within a part of a global batch, which is the same for any number of workers, and by draws that belong
to the places in the batch. So the weights do not depend on the number of workers.
"""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from lib.models.augmentation import MIXING

QUANTILES = 4096
"""Shares of mixing that are told apart."""


@dataclass(frozen=True)
class Objective:
    """How the training loss is computed.

    Attributes:
        label_smoothing: Share of each label that is spread over all classes, in [0, 1).
        mixup: The a of the Beta(a, a) distribution of shares in which two examples are mixed; 0 for no mixing.
        is_batch_normalised: Whether examples of a part meet in batch normalisation, so that padding has to be kept out.
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    is_batch_normalised: bool = False

    @property
    def takes_draws(self) -> bool:
        """Whether batches come with the draws that decide how examples are mixed."""
        return self.mixup > 0

    def sums(
        self, network: keras.Model, examples: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, *draws: tf.Tensor
    ) -> list[tf.Tensor]:
        """Summed weighted loss, correct predictions and number of the examples of a part; padding counts nothing.

        Args:
            examples: Shape (n, ...).
            labels: int32 (n,).
            weights: float32 (n,), 0 for padding.
            *draws: float32 (n, DRAWS), if there are any.
        """
        if self.is_batch_normalised:
            examples = without_padding(examples, weights > 0)
        if not self.mixup:
            return batch_sums(network(examples, training=True), labels, weights, self.label_smoothing)
        shares, partners = self._mixing(weights, *draws)
        logits = network(_mixed(examples, partners, shares), training=True)
        own = batch_sums(logits, labels, weights * shares, self.label_smoothing)
        others = batch_sums(
            logits, tf.gather(labels, partners), tf.gather(weights, partners) * (1 - shares), self.label_smoothing
        )
        main = tf.where(shares >= 1 / 2, labels, tf.gather(labels, partners))
        _, correct, count = batch_sums(logits, main, weights)
        return [own[0] + others[0], correct, count]

    def _mixing(self, weights: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The share that each example keeps, float32 (n,), and the place of the one that is mixed in, int32 (n,)."""
        first, second = tf.unstack(draws[:, MIXING], axis=1)
        quantiles = betaincinv(self.mixup, self.mixup, (np.arange(QUANTILES) + 0.5) / QUANTILES).astype(np.float32)
        shares = tf.gather(quantiles, tf.cast(first * QUANTILES, tf.int32))
        partners = tf.cast(second * len(second), tf.int32)
        both = (weights > 0) & (tf.gather(weights, partners) > 0)
        return tf.where(both, shares, 1.0), partners


def _mixed(examples: tf.Tensor, partners: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Shares of examples, and the rest of their partners, in the type of the examples."""
    shares = tf.reshape(shares, [-1] + [1] * (len(examples.shape) - 1))
    values = tf.cast(examples, tf.float32)  # first: a GPU gathers no uint8
    mixed = shares * values + (1 - shares) * tf.gather(values, partners)
    return tf.cast(tf.round(mixed) if examples.dtype.is_integer else mixed, examples.dtype)


def without_padding(examples: tf.Tensor, is_present: tf.Tensor) -> tf.Tensor:
    """Examples of a part with padding replaced by those that are there, in turn; as they are if there is none.

    Args:
        examples: Shape (n, ...).
        is_present: bool (n,).
    """
    return tf.cond(tf.reduce_all(is_present), lambda: examples, lambda: _replaced(examples, is_present))


def _replaced(examples: tf.Tensor, is_present: tf.Tensor) -> tf.Tensor:
    places = tf.range(is_present.shape[0])
    present = tf.cast(tf.where(is_present)[:, 0], tf.int32)
    turns = tf.gather(tf.concat([present, [0]], 0), places % tf.maximum(tf.size(present), 1))
    values = tf.cast(examples, tf.float32)  # a GPU gathers no uint8
    return tf.cast(tf.gather(values, tf.where(is_present, places, turns)), examples.dtype)


def batch_sums(
    logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, label_smoothing: float = 0.0
) -> list[tf.Tensor]:
    """Summed weighted cross-entropy, correct predictions and number of the examples; padding counts nothing.

    With a smoothing of s, a label is worth 1 - s, and each of the k classes s / k more.
    """
    logits = tf.cast(logits, tf.float32)
    present = tf.cast(weights > 0, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    if label_smoothing:
        of_all = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)
        losses = (1 - label_smoothing) * losses + label_smoothing * of_all
    correct = tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32)
    return [tf.reduce_sum(losses * weights), tf.reduce_sum(correct * present), tf.reduce_sum(present)]
