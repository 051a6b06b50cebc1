"""What `--precision auto` stands for: decided when a run begins, by the GPU that a worker gets, and kept to its end."""

import logging
from typing import Any

from lib.config.fitting import TrainConfig
from lib.config.resources import AcceleratorConfig
from lib.folders.output import OutputFolder
from lib.runtime.gpus import compute_capability
from lib.runtime.ray_data import accelerator_label

logger = logging.getLogger(__name__)

AUTOMATIC, FULL, HALF = "auto", "float32", "mixed_bfloat16"
FAST_FROM = (8, 0)
"""The compute capability from which GPUs calculate with bfloat16 in their tensor cores: Ampere, as the A100.

Source: NVIDIA, CUDA C++ Programming Guide, Compute Capabilities.
"""


def with_precision_of_run(config: TrainConfig, folder: OutputFolder[Any]) -> TrainConfig:
    """The settings with a precision in place of `auto`, the same whenever and wherever a run goes on.

    Args:
        config: Of the run; Ray is started.
        folder: What the run writes. It is begun.
    """
    if config.precision != AUTOMATIC:
        return config
    chosen = folder.measured_once("precision", lambda: fitting_precision(config))
    logger.info("precision: %s (--precision auto, decided when this run began)", chosen)
    return config.part(TrainConfig, precision=chosen)


def fitting_precision(config: AcceleratorConfig) -> str:
    """The precision that suits where training workers and actors run."""
    if not config.use_gpu:
        return FULL  # without instructions for it, a CPU takes longer for bfloat16
    return precision_on(capability_of_workers(config))


def precision_on(capability: tuple[int, int] | None) -> str:
    """The precision that suits a GPU.

    Args:
        capability: Its compute capability; None where there is no GPU.
    """
    return HALF if capability is not None and capability >= FAST_FROM else FULL


def capability_of_workers(config: AcceleratorConfig) -> tuple[int, int] | None:
    """Asked where a worker would be, since the driver of a cluster has no GPU."""
    import ray

    ask = ray.remote(compute_capability).options(
        num_cpus=0, num_gpus=config.gpus_per_worker, **accelerator_label(config)
    )
    found: tuple[int, int] | None = ray.get(ask.remote())
    return found
