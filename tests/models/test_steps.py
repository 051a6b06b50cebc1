"""What a training step computes: the same as plain Keras, whatever the parts and the padding."""

import itertools

import keras
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss

from lib.dataset.cache import ImageCache
from lib.dataset.order import LaneOrder
from lib.models.registry import build_network
from lib.models.spec import parse_spec
from lib.training.batches import CachedBatches
from lib.training.board import LocalBoard
from lib.training.callbacks import History, KeepBest
from lib.training.synchronous import SynchronousModel
from tests.fakes.sources import striped_image

CLASS_COUNT, SIZE = 3, 16


def small_network(seed: int = 0) -> keras.Model:
    return build_network(parse_spec("cnn"), CLASS_COUNT, SIZE, seed)


def synchronous(
    network: keras.Model, parts: list[int], optimizer: keras.optimizers.Optimizer | None = None
) -> SynchronousModel:
    model = SynchronousModel(network, world_size=1, part_sizes=parts)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def batch(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    return images, random.integers(0, CLASS_COUNT, count).astype(np.int32), np.ones(count, np.float32)


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


def test_a_batch_of_nothing_but_padding_leaves_the_weights_alone() -> None:
    images, labels, _ = batch(4)
    network, before = small_network(), small_network()
    logs = synchronous(network, [2, 2]).train_on_batch(images, labels, np.zeros(4, np.float32), return_dict=True)
    assert_same_weights(network, before, tolerance=0)
    assert (logs["loss"], logs["accuracy"]) == (0, 0)


def test_validation_is_the_mean_over_images_and_not_over_batches() -> None:
    images, labels, weights = batch(7)
    network = small_network()
    cache = ImageCache(range(7), images, labels)
    logs = synchronous(network, [4]).evaluate(
        CachedBatches(cache, LaneOrder(7, batch_size=4, shuffle=False)), verbose=0, return_dict=True
    )
    expected = probabilities(network, images)
    assert logs["loss"] == pytest.approx(log_loss(labels, expected, labels=range(CLASS_COUNT)), abs=1e-5)
    assert logs["accuracy"] == pytest.approx(accuracy_score(labels, expected.argmax(axis=1)), abs=1e-6)
    assert weights.sum() == 7


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


def striped_cache(per_class: int) -> ImageCache:
    pairs = list(itertools.product(range(CLASS_COUNT), range(per_class)))
    images = np.stack([striped_image(number, CLASS_COUNT, SIZE, seed) for number, seed in pairs])
    return ImageCache(range(len(pairs)), images, np.array([number for number, _ in pairs], np.int32))


def test_a_few_images_are_learned_by_heart() -> None:
    cache = striped_cache(per_class=4)
    history = History(images=12, epochs=40, rank=0, board=LocalBoard())
    model = synchronous(small_network(), [3, 3], keras.optimizers.Adam(0.003))
    model.fit(
        CachedBatches(cache, LaneOrder(12, batch_size=6)), epochs=40, callbacks=[history], shuffle=False, verbose=0
    )
    assert history.rows[-1]["accuracy"] == 1
    assert history.rows[-1]["loss"] < 0.1 < history.rows[0]["loss"]
    assert [row["epoch"] for row in history.rows] == list(range(1, 41))
    assert np.array_equal(probabilities(model.network, cache.images).argmax(axis=1), cache.labels)


class Script(keras.callbacks.Callback):
    """Plays losses that a test has written, and weights that tell the epoch they are from."""

    def __init__(self, network: keras.Model, keeper: KeepBest, losses: list[float]) -> None:
        super().__init__()
        self.network, self.keeper, self.losses, self.epochs = network, keeper, losses, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs = epoch + 1
        self.network.set_weights([np.full_like(weight, epoch + 1) for weight in self.network.get_weights()])
        self.keeper.on_epoch_end(epoch, {"loss": 0.5, "val_loss": self.losses[epoch]})


def play(losses: list[float], patience: int) -> tuple[Script, KeepBest, int]:
    network = small_network()
    better: list[int] = []
    keeper = KeepBest(network, patience, lambda: better.append(1))
    script = Script(network, keeper, losses)
    model = synchronous(network, [2])
    keeper.set_model(model)
    images, labels, weights = batch(2)
    model.fit(images, labels, sample_weight=weights, batch_size=2, epochs=len(losses), callbacks=[script], verbose=0)
    keeper.on_train_end()
    return script, keeper, len(better)


def test_training_ends_when_patience_does_and_the_best_epoch_is_restored() -> None:
    script, keeper, better = play([0.9, 0.4, 0.6, 0.5, 0.1], patience=2)
    assert (script.epochs, keeper.best_epoch, better) == (4, 2, 2)
    assert all((weight == 2).all() for weight in script.network.get_weights())


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    script, keeper, _ = play([0.7, float("nan"), 0.3, float("nan")], patience=5)
    assert (script.epochs, keeper.best_epoch) == (4, 3)
    assert all((weight == 3).all() for weight in script.network.get_weights())


def test_training_that_only_diverges_has_no_best_epoch_and_stops() -> None:
    script, keeper, better = play([float("nan")] * 5, patience=3)
    assert (script.epochs, keeper.best_epoch, better) == (3, 0, 0)
