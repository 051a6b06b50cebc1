"""Between steps nothing is read from the device, and a worker that is about to be ended saves its work."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from lib.config.fitting import FitConfig
from lib.dataset.memory import ExampleCache
from lib.dataset.sampler import LaneOrder
from lib.models.registry import build_network
from lib.models.spec import parse_spec
from lib.storage.location import Location
from lib.training.fit.batches import Batches
from lib.training.fit.callbacks import Hooks, RecordHistory, SaveCheckpoints
from lib.training.fit.checkpoint import CheckpointFolder
from lib.training.fit.loader import SplitExamples
from lib.training.fit.phase_fit import PhaseFit
from lib.training.fit.plan import Phase
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.failures import PreemptedError
from lib.training.workers.messages import MessageLog
from lib.training.workers.peers import Peers
from tests.fakes.sources import striped_image

CLASS_COUNT, SIZE, BATCH = 3, 16, 4
STEPS = 6
EXAMPLE = ((SIZE, SIZE, 3), np.uint8)


class Unwatched:
    """A heartbeat that nobody listens to."""

    def step(self, *, patient: bool = False) -> None:
        pass

    def move(self, *, patient: bool = False) -> None:
        pass


def begin(steps: int, checkpoints: CheckpointFolder | None = None) -> PhaseFit:
    """A phase of two epochs of so many steps."""
    pairs = [(place % CLASS_COUNT, place) for place in range(BATCH * steps)]
    images = np.stack([striped_image(number, CLASS_COUNT, SIZE, seed) for number, seed in pairs])
    cache = ExampleCache(range(len(pairs)), images, np.array([number for number, _ in pairs], np.int32))
    order = LaneOrder(len(pairs), BATCH)
    examples = SplitExamples(order, lambda positions, _: cache.batches(positions), EXAMPLE, [cache])
    batches = Batches(examples, np.ones(CLASS_COUNT, np.float32))
    network = build_network(parse_spec("cnn"), CLASS_COUNT, SIZE, seed=0).model
    model = SynchronousModel(network, Peers(0, 1), [2, 2])
    model.compile(optimizer=keras.optimizers.Adam(0.003), jit_compile=False)
    model.optimizer.build(network.trainable_variables)
    return PhaseFit(Phase(0, "fit", 2), model, batches, [], checkpoints)


def run(fit: PhaseFit, is_leaving: Callable[[], bool] = lambda: False) -> None:
    """As the training loop does."""
    hooks = [RecordHistory(fit, MessageLog()), SaveCheckpoints(fit, FitConfig(), Unwatched(), is_leaving)]  # type: ignore[arg-type]
    for last in fit.calls():
        dataset = fit.batches.dataset()
        listed = Hooks(hooks, fit.model, epochs=last, steps=fit.batches.steps_left)
        fit.model.fit(dataset, initial_epoch=fit.epoch, epochs=last, callbacks=listed, shuffle=False, verbose=0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads in which Keras read a number from the device."""
    found: list[str] = []

    def counted(number: tf.Tensor) -> np.ndarray:
        found.append(threading.current_thread().name)
        return np.asarray(number)

    monkeypatch.setattr("keras.src.backend.convert_to_numpy", counted)
    return found


def test_the_more_steps_the_more_is_computed_but_not_read(reads: list[str]) -> None:
    counts = []
    for steps in (3, 9):
        reads.clear()
        run(begin(steps))
        counts.append(len(reads))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(("wished_in", "saved_at"), [(1, (0, 2)), (3, (0, 4)), (5, (1, 0)), (6, (1, 0)), (8, (1, 3))])
def test_a_wish_is_obeyed_one_step_late_and_training_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, wished_in: int, saved_at: tuple[int, int]
) -> None:
    asked = itertools.count(1)
    with CheckpointFolder(Location(str(tmp_path))) as checkpoints:
        with pytest.raises(PreemptedError):
            run(begin(STEPS, checkpoints), lambda: next(asked) == wished_in)
        newest = checkpoints.newest()
        assert newest is not None
        assert (newest.state.epoch, newest.state.step) == saved_at
        resumed = begin(STEPS, checkpoints)
        resumed.rows.extend(newest.state.rows)
        resumed.resume(newest)
        run(resumed)
    whole = begin(STEPS)
    run(whole)
    for a, b in zip(resumed.model.network.get_weights(), whole.model.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [(row.epoch, row.loss, row.accuracy) for row in resumed.rows] == [
        (row.epoch, row.loss, row.accuracy) for row in whole.rows
    ]
