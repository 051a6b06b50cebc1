"""Workers that add what they have end with the bits of one; here they take turns in one process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lib.models.registry import build_network, trained_batch_normalisation
from lib.models.spec import parse_spec
from lib.training.fit.objective import Objective
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.peers import Peers

CLASS_COUNT, SIZE, BATCH, PARTS, STEPS = 5, 32, 16, 4, 8


def worker(spec: str, rank: int, world_size: int) -> SynchronousModel:
    network = build_network(parse_spec(spec), CLASS_COUNT, SIZE, seed=0).model
    each = PARTS // world_size
    objective = Objective(is_batch_normalised=bool(trained_batch_normalisation(network)))
    model = SynchronousModel(network, Peers(rank, world_size), [BATCH // PARTS] * each, objective=objective)
    model.compile(optimizer=keras.optimizers.Adam(0.003, global_clipnorm=1.0), jit_compile=False)
    model.optimizer.build(network.trainable_variables)
    return model


def batches() -> list[list[np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        [
            random.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8),
            random.integers(0, CLASS_COUNT, BATCH).astype(np.int32),
            (random.random(BATCH) > 0.1).astype(np.float32),
        ]
        for _ in range(STEPS)
    ]


def trained(spec: str, world_size: int) -> list[np.ndarray]:
    """The weights after some steps, each of which adds the sums of workers as `Peers.all_reduce` does."""
    models = [worker(spec, rank, world_size) for rank in range(world_size)]
    sums_of = [tf.function(model.worker_sums) for model in models]
    steps = [tf.function(model.take_step) for model in models]
    share = BATCH // world_size
    for batch in batches():
        shares = [[tensor[rank * share : (rank + 1) * share] for tensor in batch] for rank in range(world_size)]
        sums = [[total.numpy() for total in sums(mine)] for sums, mine in zip(sums_of, shares, strict=True)]
        while len(sums) > 1:
            sums = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(sums[::2], sums[1::2], strict=True)]
        for step in steps:
            step(sums[0])
    weights = [[variable.numpy() for variable in model.network.trainable_variables] for model in models]
    for others in weights[1:]:
        assert_equal_bits(others, weights[0])
    return weights[0]


def assert_equal_bits(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("spec", ["cnn", pytest.param("cnn_bn", marks=pytest.mark.slow)])
def test_two_and_four_workers_have_the_bits_of_one(spec: str) -> None:
    expected = trained(spec, 1)
    for world_size in (2, 4):
        assert_equal_bits(trained(spec, world_size), expected)
