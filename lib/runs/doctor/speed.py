"""What an epoch of each model costs on this machine, which settings would be faster, and how many workers there are."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lib.config.chain import DoctorConfig
from lib.models.spec import ModelSpec
from lib.report.formatting import count_of
from lib.runs.doctor.findings import Finding
from lib.runs.doctor.step_times import (
    StepSettings,
    StepTime,
    faster_steps,
    measure_steps,
    seconds_an_image,
    settings_of,
)
from lib.runtime.gpus import processes_on, visible_gpus
from lib.training.fit.plan import FINE_TUNE, FIT, plan_phases

logger = logging.getLogger(__name__)

LARGEST_SHARE = 10
"""A batch is proposed if an epoch has at least so many of them."""


@dataclass(frozen=True)
class ModelSpeed:
    """How fast a model is here.

    Attributes:
        forward_s: Seconds that an image takes in a forward pass.
        steps: What a training step took, as it is set and then with ever faster settings; empty where no image is
            trained on step by step, since the network is frozen.
    """

    forward_s: float
    steps: tuple[StepTime, ...] = ()

    @property
    def step_s(self) -> float:
        """Seconds that an image takes in a training step as it is set; 0 where there are none."""
        return 1 / self.steps[0].images_per_s if self.steps else 0.0


def takes_steps(spec: ModelSpec, config: DoctorConfig) -> bool:
    """Whether the network itself is trained, rather than a head on its features."""
    return plan_phases(spec, config)[-1].name in {FIT, FINE_TUNE}


def measure_speed(name: str, spec: ModelSpec, config: DoctorConfig, classes: int, images: int) -> ModelSpeed:
    """Measure a model, which takes half a minute or so.

    Args:
        name: What the model is called.
        classes: How many there are.
        images: For training.

    Raises:
        TissueError: If a step takes more memory than there is.
    """

    def measure(settings: StepSettings) -> StepTime:
        found = measure_steps(spec, config, classes, images, settings)
        logger.info("measured %s, %s: %.0f images/s", name, settings, found.images_per_s)
        return found

    forward_s = seconds_an_image(spec, config.image_size, classes)
    if not takes_steps(spec, config):
        return ModelSpeed(forward_s)
    as_set = measure(settings_of(config))
    if _is_measured_elsewhere(config):
        return ModelSpeed(forward_s, (as_set,))
    most = max(images // LARGEST_SHARE, config.batch_size)
    return ModelSpeed(forward_s, (as_set, *faster_steps(as_set, measure, most)))


def _is_measured_elsewhere(config: DoctorConfig) -> bool:
    """Whether GPUs will train that are not in this machine, so that what is faster here may not be there."""
    return config.use_gpu and not visible_gpus()


def judge_speed(name: str, speed: ModelSpeed, config: DoctorConfig, splits: dict[str, int]) -> Finding:
    """What an epoch costs, and with which settings it would cost less.

    Args:
        splits: Images by split.
    """
    training, validation = splits.get("train", 0), splits.get("validation", 0)
    if not speed.steps:
        seconds = speed.forward_s * (training + validation)
        text = (
            f"{name}: {1 / speed.forward_s:,.0f} images/s; the frozen network sees {count_of(training, 'image')} once"
        )
        return Finding("step", "ok", f"{text}, in {duration(seconds)}, and epochs of its head take little")
    costs = [training / step.images_per_s + validation * speed.forward_s for step in speed.steps]
    first, last = speed.steps[0], speed.steps[-1]
    text = (
        f"{name}: {first.images_per_s:,.0f} images/s with a {first.settings}, once the first step is done, after "
        f"{first.first_s:.0f} s; an epoch of {count_of(training, 'image')} takes {duration(costs[0])}"
    )
    if _is_measured_elsewhere(config):
        return Finding("step", "warning", f"{text} on the CPUs of this machine, since it has no GPU")
    if last is first:
        return Finding("step", "ok", f"{text}; nothing faster was found")
    return Finding(
        "step",
        "ok",
        f"{text}; {last.images_per_s:,.0f} images/s and {duration(costs[-1])} with "
        f"{last.settings.flags(first.settings)}, {_price(last.settings, first.settings)}",
    )


def _price(settings: StepSettings, instead_of: StepSettings) -> str:
    if settings.parts != instead_of.parts and settings.flags(instead_of).count("--") == 1:
        return "but then the weights depend on the number of workers"
    return "which is another training: compare what comes of both"


def judge_workers(config: DoctorConfig, nodes: Iterable[dict[str, Any]]) -> Finding:
    """How many workers there is room for.

    Args:
        nodes: What Ray says of each.
    """
    resources = [node["Resources"] for node in nodes]
    if config.use_gpu:
        most = sum(processes_on(held.get("GPU", 0), config.gpus_per_worker) for held in resources)
        why = "one a GPU"
    else:
        most = sum(1 for held in resources if held.get("CPU"))
        why = "one a machine, since TensorFlow uses all its cores"
    if not most:
        return Finding("workers", "ok", "no GPU machine is running yet; take as many as you want to pay for")
    if config.num_workers.most == most:
        return Finding("workers", "ok", f"--num-workers {config.num_workers} as set, {why}")
    return Finding(
        "workers", "ok", f"--num-workers {most} suits this cluster, {why}; {config.num_workers} set. "
        "An epoch takes its share of the time of one, and what adding gradients takes, which is not measured"
    )  # fmt: skip


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours
