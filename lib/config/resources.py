"""What Ray reserves for each task, actor and worker."""

from typing import Self

from pydantic import (
    Field,
    model_validator,
)

from lib.config.base import Settings


class DecodeConfig(Settings):
    """What Ray reserves for tasks that decode images. It decides which machines an autoscaling cluster starts."""

    cpus_per_convert_task: float = Field(default=1.0, gt=0)
    """CPUs for each task that decodes images: less than 1 where they mostly wait for the storage."""
    convert_memory_gib: float | None = Field(default=None, gt=0)
    """Memory in GiB for each task that decodes images, for large ones; by default it is not looked at."""
    keep_gpus_free: bool = False
    """Convert only on machines without a GPU, which the cluster must have. Otherwise a cluster starts machines with a
    GPU for converting too, once all others are busy."""


class AcceleratorConfig(DecodeConfig):
    """What Ray reserves for what holds a network: training workers, and actors that predict or compute features."""

    use_gpu: bool = False
    """Give each training worker and each copy of a model that predicts a GPU."""
    gpus_per_worker: float = Field(default=1.0, gt=0, le=1)
    """With --use-gpu, the share of a GPU that each of them gets; a network uses one GPU at most."""
    accelerator_type: str | None = None
    """With --use-gpu, the kind of GPU they need, as Ray's label `ray.io/accelerator-type` names it (`L4`, `A100`); by
    default any."""

    @model_validator(mode="after")
    def _type_of_gpu(self) -> Self:
        if self.accelerator_type is not None and not self.use_gpu:
            raise ValueError("--accelerator-type needs --use-gpu")
        return self
