"""How long a training step takes on this machine, as it is set and with settings that may be faster."""

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil

from lib.config.chain import DoctorConfig
from lib.dataset.sampler import LaneOrder
from lib.errors import TissueError
from lib.models.spec import ModelSpec
from lib.report.formatting import count_of
from lib.runtime.free_memory import free_memory
from lib.runtime.gpus import compute_capability
from lib.training.fit.plan import plan_phases
from lib.training.precision import AUTOMATIC, HALF, precision_on
from lib.training.workers.failures import memory_named
from lib.training.workers.peers import Peers

if TYPE_CHECKING:
    from lib.training.fit.synchronous import SynchronousModel

GAIN = 1.1
"""What is less faster is noise."""
PATIENCE_S = 60.0
FEWEST, MOST, LONG_S = 2, 20, 2.0
"""Steps that are measured, and for how long; the machine may have others at work."""
FORWARD_BATCH, FORWARD_REPEATS = 8, 3


@dataclass(frozen=True)
class StepSettings:
    """What decides how fast a step is.

    Attributes:
        batch_size: Images of a step, on one worker.
        parts: Into which the batch is cut.
        precision: Of the layers, as Keras calls it.
    """

    batch_size: int
    parts: int
    precision: str

    def __str__(self) -> str:
        return f"batch of {self.batch_size} in {count_of(self.parts, 'part')}, {self.precision}"

    def flags(self, instead_of: "StepSettings") -> str:
        """What to add to a command that has other settings."""
        named = (
            ("--batch-size", self.batch_size, instead_of.batch_size),
            ("--gradient-parts", self.parts, instead_of.parts),
            ("--precision", self.precision, instead_of.precision),
        )
        return " ".join(f"{flag} {wanted}" for flag, wanted, there in named if wanted != there)


@dataclass(frozen=True)
class StepTime:
    """How long a step took.

    Attributes:
        settings: With which.
        seconds: Of one step.
        first_s: Of the first one, which is traced and compiled.
        grown_bytes: What the process took for it.
    """

    settings: StepSettings
    seconds: float
    first_s: float
    grown_bytes: int = 0

    @property
    def images_per_s(self) -> float:
        """Images a second."""
        return self.settings.batch_size / self.seconds


Measure = Callable[[StepSettings], StepTime]


def faster_steps(
    as_set: StepTime, measure: Measure, largest: int, patience_s: float = PATIENCE_S
) -> Iterator[StepTime]:
    """Each next faster way to take steps: in bfloat16, in one part, in larger batches, as far as each of them helps.

    Args:
        as_set: How long a step takes as it is set.
        measure: Takes steps with other settings.
        largest: Batch.
        patience_s: After which nothing more is tried.
    """
    best, ends = as_set, time.monotonic() + patience_s
    for change in (_in_bfloat16, _in_one_part, *itertools.repeat(_twice_as_large, 4)):
        settings = change(best.settings)
        # Where a batch does not fit into the memory of a CPU, the process is ended.
        too_large = settings.batch_size > largest or 3 * best.grown_bytes > free_memory()
        if settings == best.settings or (change is _twice_as_large and too_large) or time.monotonic() > ends:
            continue
        try:
            found = measure(settings)
        except TissueError:  # no memory for it, which is not faster
            return
        if found.images_per_s >= GAIN * best.images_per_s:
            best = found
            yield found
        elif change is _twice_as_large:
            return


def _in_bfloat16(settings: StepSettings) -> StepSettings:
    return StepSettings(settings.batch_size, settings.parts, HALF)


def _in_one_part(settings: StepSettings) -> StepSettings:
    return StepSettings(settings.batch_size, 1, settings.precision)


def _twice_as_large(settings: StepSettings) -> StepSettings:
    return StepSettings(2 * settings.batch_size, settings.parts, settings.precision)


def settings_of(config: DoctorConfig) -> StepSettings:
    """What is set, and what `--precision auto` is on this machine."""
    chosen: str = config.precision
    if chosen == AUTOMATIC:
        chosen = precision_on(compute_capability() if config.use_gpu else None)
    return StepSettings(config.batch_size, config.parts_of_batch, chosen)


def measure_steps(spec: ModelSpec, config: DoctorConfig, classes: int, images: int, settings: StepSettings) -> StepTime:
    """Take real training steps on images of noise, which lie in memory. Random changes of images are not made.

    Args:
        spec: Of a network, of which the last phase of its training is tried.
        config: Has all other settings.
        classes: How many there are.
        images: For training; the step size depends on them.

    Raises:
        TissueError: If a step takes more memory than there is.
    """
    import tensorflow as tf

    changes = {"batch_size": settings.batch_size, "gradient_parts": settings.parts, "precision": settings.precision}
    gc.collect()  # networks before, which hold themselves in circles
    held, begun = psutil.Process().memory_info().rss, time.perf_counter()
    model, batch = _model_and_batch(spec, config.model_copy(update=changes), classes, images)
    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat().prefetch(2))
    with memory_named():
        model.train_function(batches)
        float(model.loss_mean.result())  # waits for a GPU
        first_s = time.perf_counter() - begun
        steps, begun = 0, time.perf_counter()
        while steps < FEWEST or (steps < MOST and time.perf_counter() - begun < LONG_S):
            model.train_function(batches)
            steps += 1
        float(model.loss_mean.result())
    taken_s = time.perf_counter() - begun
    return StepTime(settings, taken_s / steps, first_s, max(psutil.Process().memory_info().rss - held, 0))


def _model_and_batch(
    spec: ModelSpec, config: DoctorConfig, classes: int, images: int
) -> tuple["SynchronousModel", tuple[npt.NDArray[Any], ...]]:
    from lib.models.augmentation import draw
    from lib.models.registry import build_network
    from lib.training.fit.compiled import compiled_model
    from lib.training.fit.phases import layers_in

    size, batch_size, random = config.image_size, config.batch_size, np.random.default_rng(config.seed)
    with layers_in(config.precision):
        network = build_network(spec, classes, size, config.seed, config.head_units)
        order = LaneOrder(max(images, batch_size), batch_size)
        model = compiled_model(plan_phases(spec, config)[-1], network, spec, config, Peers(0, 1), order)
    examples = random.integers(0, 256, (batch_size, size, size, 3), np.uint8)
    batch = examples, np.arange(batch_size, dtype=np.int32) % classes, np.ones(batch_size, np.float32)
    return model, (*batch, draw(config.seed, 0, np.arange(batch_size))) if model.takes_draws else batch


def seconds_an_image(spec: ModelSpec, image_size: int, classes: int) -> float:
    """How long this machine takes to run a network on one image, in a batch."""
    import tensorflow as tf

    from lib.models.registry import build_network

    network = build_network(spec, classes, image_size, seed=0).model
    run = tf.function(lambda images: network(images, training=False))
    images = np.zeros((FORWARD_BATCH, image_size, image_size, 3), np.uint8)
    run(images)
    started = time.perf_counter()
    for _ in range(FORWARD_REPEATS):
        run(images).numpy()
    return (time.perf_counter() - started) / (FORWARD_REPEATS * FORWARD_BATCH)
