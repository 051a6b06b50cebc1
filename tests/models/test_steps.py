"""What a training step computes: the same as plain Keras, whatever the parts and the padding."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

from lib.dataset.memory import ExampleCache
from lib.dataset.sampler import LaneOrder
from lib.folders.history import HistoryRow, best_row
from lib.models.augmentation import DRAWS, MIXING
from lib.models.registry import build_network, trained_batch_normalisation
from lib.models.spec import parse_spec
from lib.runtime.gpu_use import GpuMeter, GpuUse
from lib.training.fit.batches import Batches
from lib.training.fit.callbacks import KeepBest, RecordHistory
from lib.training.fit.loader import SplitExamples
from lib.training.fit.objective import Objective, batch_sums, without_padding
from lib.training.fit.phase_fit import PhaseFit
from lib.training.fit.plan import Phase
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.messages import EpochEnded, MessageLog
from lib.training.workers.peers import Peers
from tests.fakes.sources import striped_image

CLASS_COUNT, SIZE = 3, 16
EXAMPLE = ((SIZE, SIZE, 3), np.uint8)


def small_network(seed: int = 0) -> keras.Model:
    return build_network(parse_spec("cnn"), CLASS_COUNT, SIZE, seed).model


def synchronous(
    network: keras.Model,
    parts: list[int],
    optimizer: keras.optimizers.Optimizer | None = None,
) -> SynchronousModel:
    objective = Objective(is_batch_normalised=bool(trained_batch_normalisation(network)))
    model = SynchronousModel(network, Peers(0, 1), part_sizes=parts, objective=objective)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def batch(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return images, random.integers(0, CLASS_COUNT, count).astype(np.int32), np.ones(count, np.float32)


def cached_batches(cache: ExampleCache, order: LaneOrder) -> Batches:
    examples = SplitExamples(order, lambda positions, _: cache.batches(positions), EXAMPLE, [cache])
    return Batches(examples, np.ones(CLASS_COUNT, np.float32))


def assert_same_weights(found: keras.Model, expected: keras.Model, tolerance: float = 1e-6) -> None:
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


def probabilities(network: keras.Model, images: np.ndarray) -> np.ndarray:
    logits = keras.ops.convert_to_numpy(network(images, training=False)).astype(np.float64)
    return softmax(logits, axis=1)


@pytest.mark.parametrize("parts", [[8], [4, 4], [2, 2, 2, 2], [3, 3, 2]])
def test_a_step_is_the_one_of_plain_keras(parts: list[int]) -> None:
    images, labels, weights = batch(8)
    ours, plain = small_network(), small_network()
    plain.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected_loss = plain.train_on_batch(images, labels)
    logs = synchronous(ours, parts).train_on_batch(images, labels, weights, return_dict=True)
    assert_same_weights(ours, plain)
    assert logs["loss"] == pytest.approx(expected_loss, abs=1e-6)


def test_a_step_changes_the_weights() -> None:
    images, labels, weights = batch(8)
    network, before = small_network(), small_network()
    synchronous(network, [8]).train_on_batch(images, labels, weights)
    assert max(np.abs(a - b).max() for a, b in zip(network.get_weights(), before.get_weights(), strict=True)) > 1e-4


def test_padding_changes_nothing() -> None:
    images, labels, weights = batch(5)
    padded_images = np.concatenate([images, batch(3, seed=9)[0]])
    padded_labels, padding = np.concatenate([labels, [0, 0, 0]]).astype(np.int32), np.zeros(3, np.float32)
    padded_weights = np.concatenate([weights, padding])
    plain, padded = small_network(), small_network()
    logs = synchronous(plain, [5]).train_on_batch(images, labels, weights, return_dict=True)
    # The last of the parts holds nothing but padding.
    padded_logs = synchronous(padded, [3, 3, 2]).train_on_batch(
        padded_images, padded_labels, padded_weights, return_dict=True
    )
    assert_same_weights(padded, plain)
    assert padded_logs["loss"] == pytest.approx(logs["loss"], abs=1e-6)
    assert padded_logs["accuracy"] == pytest.approx(logs["accuracy"], abs=1e-6)


def normalising_network() -> keras.Model:
    keras.utils.set_random_seed(1)
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    features = keras.layers.BatchNormalization()(keras.layers.Rescaling(1 / 255)(images))
    features = keras.layers.Conv2D(4, 3, activation="relu")(features)
    return keras.Model(images, keras.layers.Dense(CLASS_COUNT)(keras.layers.GlobalAveragePooling2D()(features)))


def test_what_padding_holds_does_not_matter_to_batch_normalisation() -> None:
    images, labels, weights = batch(8)
    weights[[1, 4, 5, 6, 7]] = 0  # of the second part nothing is left
    other_images = np.where(weights[:, None, None, None] > 0, images, batch(8, seed=9)[0])
    one, other = normalising_network(), normalising_network()
    synchronous(one, [4, 4]).train_on_batch(images, labels, weights)
    synchronous(other, [4, 4]).train_on_batch(other_images, labels, weights)
    for a, b in zip(one.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_padding_is_replaced_by_the_images_that_are_there_in_turn() -> None:
    examples = np.arange(6)
    found = [
        without_padding(tf.constant(examples), tf.constant(present, tf.bool)).numpy().tolist()
        for present in ([True] * 6, [False, True, False, True, False, False], [False] * 6)
    ]
    assert found == [[0, 1, 2, 3, 4, 5], [1, 1, 1, 3, 1, 3], [0, 0, 0, 0, 0, 0]]


def test_smoothed_labels_have_the_loss_that_keras_says() -> None:
    _, labels, _ = batch(8)
    logits = np.random.default_rng(3).normal(0, 3, (8, CLASS_COUNT)).astype(np.float32)
    expected = keras.losses.categorical_crossentropy(
        np.eye(CLASS_COUNT)[labels], logits, from_logits=True, label_smoothing=0.2
    )
    loss, *_ = batch_sums(logits, labels, np.ones(8, np.float32), 0.2)
    assert float(loss) == pytest.approx(float(np.sum(expected)), rel=1e-5)


def test_images_are_mixed_within_their_part_as_drawn_and_so_are_their_labels() -> None:
    images, labels, weights = batch(8)
    weights[6] = 0  # padding is mixed into nothing
    shares, partners = np.array([0.3, 0.9, 0.5, 0.7, 0.2, 0.6, 0.1, 0.4]), np.array([1, 0, 3, 3, 1, 2, 0, 0])
    draws = np.zeros((8, DRAWS), np.float32)
    draws[:, MIXING] = np.stack([shares, (partners + 0.5) / 4], axis=1)  # of a uniform distribution, quantile is share
    others = np.array([0, 0, 0, 0, 4, 4, 4, 4]) + partners
    shares = np.where(np.isin(np.arange(8), [5, 6]), 1, shares)
    mixed = np.round(shares[:, None, None, None] * images + (1 - shares)[:, None, None, None] * images[others])
    ours, expected = small_network(), small_network()
    objective = Objective(mixup=1.0)
    sums = [
        objective.sums(ours, *(tf.constant(tensor[part]) for tensor in (images, labels, weights, draws)))
        for part in PARTS
    ]
    logits = expected(mixed.astype(np.uint8), training=True)
    losses = [
        keras.losses.sparse_categorical_crossentropy(of, logits, from_logits=True) for of in (labels, labels[others])
    ]
    loss = np.sum(weights * (shares * losses[0] + (1 - shares) * losses[1]))
    assert sum(float(part[0]) for part in sums) == pytest.approx(float(loss), rel=2e-3)
    assert sum(float(part[2]) for part in sums) == 7


def nodes_of_a_step(network: keras.Model, objective: Objective) -> list[Any]:
    """What a training step computes, the functions that it calls included."""
    model = SynchronousModel(network, Peers(0, 1), part_sizes=[4, 4], objective=objective)
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    model.optimizer.build(network.trainable_variables)
    data = tuple(tf.constant(array) for array in (*batch(8), np.zeros((8, DRAWS), np.float32)))
    graph = tf.function(model.train_step).get_concrete_function(data).graph.as_graph_def()
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def runs_on_a_gpu(node: Any) -> bool:
    """Whether TensorFlow has a kernel of an operation for GPUs, by the types of its arguments."""
    types = {name: value.type for name, value in node.attr.items() if value.WhichOneof("value") == "type"}
    kernels = get_registered_kernels_for_op(node.op).kernel
    return any(
        kernel.device_type in {"GPU", "DEFAULT"}
        and all(types.get(c.name) in c.allowed_values.list.type for c in kernel.constraint)
        for kernel in kernels
    )


def test_nothing_in_a_step_has_a_kernel_for_images_on_cpus_alone() -> None:
    nodes = nodes_of_a_step(normalising_network(), Objective(mixup=0.4, is_batch_normalised=True))
    of_images = [node for node in nodes if any(value.type == types_pb2.DT_UINT8 for value in node.attr.values())]
    assert {"Cast", "StridedSlice"} <= {node.op for node in of_images}
    assert {"GatherV2", "SplitV", "Split"}.isdisjoint(node.op for node in of_images)
    if tf.test.is_built_with_cuda():
        calls = {"Placeholder", "PartitionedCall", "StatefulPartitionedCall"}
        assert [node.op for node in of_images if node.op not in calls and not runs_on_a_gpu(node)] == []


PARTS = (slice(0, 4), slice(4, 8))


def test_a_batch_of_nothing_but_padding_leaves_the_weights_alone() -> None:
    images, labels, _ = batch(4)
    network, before = small_network(), small_network()
    logs = synchronous(network, [2, 2]).train_on_batch(images, labels, np.zeros(4, np.float32), return_dict=True)
    assert_same_weights(network, before, tolerance=0)
    assert (logs["loss"], logs["accuracy"]) == (0, 0)


def test_validation_is_the_mean_over_images_and_not_over_batches() -> None:
    images, labels, _ = batch(7)
    network = small_network()
    batches = cached_batches(ExampleCache(range(7), images, labels), LaneOrder(7, batch_size=4, shuffle=False))
    logs = synchronous(network, [4]).evaluate(batches.dataset(), verbose=0, return_dict=True)
    expected = probabilities(network, images)
    assert logs["loss"] == pytest.approx(log_loss(labels, expected, labels=range(CLASS_COUNT)), abs=1e-5)
    assert logs["accuracy"] == pytest.approx(accuracy_score(labels, expected.argmax(axis=1)), abs=1e-6)


def test_penalties_of_layers_are_in_the_gradient_once_a_step() -> None:
    def penalised() -> keras.Model:
        keras.utils.set_random_seed(1)
        images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
        features = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
        return keras.Model(images, keras.layers.Dense(CLASS_COUNT, kernel_regularizer="l2")(features))

    images, labels, weights = batch(6)
    ours, plain = penalised(), penalised()
    plain.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain.train_on_batch(images, labels)
    synchronous(ours, [2, 2, 2]).train_on_batch(images, labels, weights)
    assert_same_weights(ours, plain)


def test_weights_of_classes_scale_the_loss_and_the_step_but_not_the_accuracy() -> None:
    images, labels, _ = batch(8)
    weights = np.array([0.25, 1, 3], np.float32)[labels]
    ours, plain = small_network(), small_network()
    losses = keras.losses.sparse_categorical_crossentropy(labels, plain(images, training=False), from_logits=True)
    is_right = probabilities(plain, images).argmax(axis=1) == labels
    plain.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    plain.train_on_batch(images, labels, sample_weight=weights)
    logs = synchronous(ours, [4, 4]).train_on_batch(images, labels, weights, return_dict=True)
    # Keras, as this project, divides by the number of images, and not by the sum of their weights.
    assert_same_weights(ours, plain)
    assert logs["loss"] == pytest.approx(float(np.mean(weights * losses)), rel=1e-5)
    assert logs["accuracy"] == pytest.approx(is_right.mean(), abs=1e-6)


@pytest.fixture
def float16() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def scaled(network: keras.Model, scale: float) -> SynchronousModel:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=scale)
    model = synchronous(network, [2, 2], optimizer)
    model.optimizer.build(network.trainable_variables)
    return model


@pytest.mark.usefixtures("float16")
def test_half_precision_scales_the_loss_by_itself() -> None:
    assert isinstance(synchronous(small_network(), [2, 2]).optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.usefixtures("float16")
def test_the_scale_of_the_loss_is_not_in_the_step_nor_in_what_is_reported() -> None:
    images, labels, weights = batch(4)
    logs = {}
    networks = {scale: small_network() for scale in (1.0, 1024.0)}
    for scale, network in networks.items():
        logs[scale] = scaled(network, scale).train_on_batch(images, labels, weights, return_dict=True)
    keras.config.set_dtype_policy("float32")
    exact = small_network()
    expected = synchronous(exact, [2, 2]).train_on_batch(images, labels, weights, return_dict=True)
    exact_step = step_from(small_network(), exact)
    for scale, network in networks.items():
        assert logs[scale]["loss"] == pytest.approx(expected["loss"], rel=1e-2)
        difference = step_from(small_network(), network) - exact_step
        assert np.linalg.norm(difference) < 0.05 * np.linalg.norm(exact_step)


@pytest.mark.usefixtures("float16")
def test_half_precision_scales_the_mean_of_a_part_which_overflows_later_than_its_sum() -> None:
    images, labels, weights = (np.repeat(array[:1], 256, axis=0) for array in batch(1))
    network, before = small_network(), small_network()
    model = synchronous(network, [256], keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 2.0**15))
    model.optimizer.build(network.trainable_variables)
    model.train_on_batch(images, labels, weights)
    assert float(model.optimizer.dynamic_scale) == 2.0**15
    assert step_from(before, network).any()


def step_from(before: keras.Model, after: keras.Model) -> np.ndarray:
    pairs = zip(before.get_weights(), after.get_weights(), strict=True)
    return np.concatenate([(b - a).ravel() for a, b in pairs])


@pytest.mark.usefixtures("float16")
def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_is_halved() -> None:
    images, labels, weights = batch(4)
    network, before = small_network(), small_network()
    model = scaled(network, 2.0**40)
    logs = model.train_on_batch(images, labels, weights, return_dict=True)
    assert np.isfinite(logs["loss"])
    assert_same_weights(network, before, tolerance=0)
    assert float(model.optimizer.dynamic_scale) == 2.0**39
    while float(model.optimizer.dynamic_scale) > 1 and not step_from(before, network).any():
        model.train_on_batch(images, labels, weights)
    assert step_from(before, network).any()
    assert np.isfinite(step_from(before, network)).all()


def striped_cache(per_class: int) -> ExampleCache:
    pairs = list(itertools.product(range(CLASS_COUNT), range(per_class)))
    images = np.stack([striped_image(number, CLASS_COUNT, SIZE, seed) for number, seed in pairs])
    return ExampleCache(range(len(pairs)), images, np.array([number for number, _ in pairs], np.int32))


def test_a_few_images_are_learned_by_heart() -> None:
    cache = striped_cache(per_class=4)
    batches = cached_batches(cache, LaneOrder(12, batch_size=6))
    messages = MessageLog()
    model = synchronous(small_network(), [3, 3], keras.optimizers.Adam(0.003))
    fit = PhaseFit(Phase(0, "fit", 40), model, batches, [], None)
    hooks = [RecordHistory(fit, messages, gpu=BusyGpu())]
    model.fit(batches.dataset(), epochs=40, callbacks=hooks, shuffle=False, verbose=0)
    assert fit.rows[-1].accuracy == 1
    assert fit.rows[-1].loss < 0.1 < fit.rows[0].loss
    assert [row.epoch for row in fit.rows] == list(range(1, 41))
    assert {(row.gpu_utilisation, row.gpu_memory_gib) for row in fit.rows} == {(0.75, 2.0)}
    news = messages.news()
    assert [event.row for event in news.events if isinstance(event, EpochEnded)] == fit.rows
    assert news.images_trained == 40 * 12
    assert np.array_equal(probabilities(model.network, cache.examples).argmax(axis=1), cache.labels)


class BusyGpu(GpuMeter):
    """A GPU that is always as busy."""

    def __init__(self) -> None:
        super().__init__(None, None)

    def read(self) -> GpuUse:
        return GpuUse(0.75, 2 * 2**30)


class Script(keras.callbacks.Callback):
    """Plays losses that a test has written, and weights that tell the epoch they are from."""

    def __init__(self, fit: PhaseFit, losses: list[float], *, keeps_last: bool) -> None:
        super().__init__()
        self.fit, self.losses, self.keeps_last = fit, losses, keeps_last

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        network = self.fit.model.network
        network.set_weights([np.full_like(weight, epoch + 1) for weight in network.get_weights()])
        row = HistoryRow(epoch + 1, "fit", 0.5, 0.5, self.losses[epoch], 0.5, 0.001, 1.0, 1.0, 0.0)
        self.fit.rows.append(replace(row, keeps_last=self.keeps_last))


def play(losses: list[float], patience: int, *, keeps_last: bool = False) -> PhaseFit:
    """A phase with these losses of validation."""
    model = synchronous(small_network(), [2])
    batches = cached_batches(striped_cache(per_class=1), LaneOrder(3, batch_size=3))
    fit = PhaseFit(Phase(0, "fit", len(losses)), model, batches, [], None)
    images, labels, weights = batch(2)
    hooks = [Script(fit, losses, keeps_last=keeps_last), KeepBest(fit, patience)]
    model.fit(images, labels, sample_weight=weights, batch_size=2, epochs=len(losses), callbacks=hooks, verbose=0)
    return fit


def test_a_phase_ends_when_patience_does_and_keeps_the_weights_of_the_best_epoch() -> None:
    fit = play([0.9, 0.4, 0.6, 0.5, 0.1], patience=2)
    assert (len(fit.rows), fit.best_epoch, fit.best_loss, fit.is_over) == (4, 2, 0.4, True)
    assert all((weight == 2).all() for weight in fit.best_weights)


def test_the_last_epoch_is_kept_and_patience_ends_nothing_where_none_is_chosen() -> None:
    fit = play([0.9, 0.4, 0.6, 0.5, float("nan")], patience=2, keeps_last=True)
    assert (len(fit.rows), fit.best_epoch, fit.best_loss, fit.is_over) == (5, 4, 0.5, False)
    assert all((weight == 4).all() for weight in fit.best_weights)
    assert best_row(fit.rows).epoch == 4
    tuned = [replace(fit.rows[0], epoch=6 + place, phase="fine_tune", keeps_last=False, val_loss=loss)
             for place, loss in enumerate([0.6, 0.45])]  # fmt: skip
    assert best_row([*fit.rows, tuned[0]]).epoch == 4
    assert best_row([*fit.rows, *tuned]).epoch == 7


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    fit = play([0.7, float("nan"), 0.3, float("nan")], patience=5)
    assert (len(fit.rows), fit.best_epoch, fit.is_over) == (4, 3, False)
    assert all((weight == 3).all() for weight in fit.best_weights)


def test_a_phase_that_only_diverges_has_no_best_epoch_and_stops() -> None:
    fit = play([float("nan")] * 5, patience=3)
    assert (len(fit.rows), fit.best_epoch, fit.best_weights) == (3, 0, [])
