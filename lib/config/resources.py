"""What Ray reserves for each task, actor and worker."""

import re
from typing import Annotated, NamedTuple, Self

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from lib.config.base import NOT_IDENTITY, Group, Settings


class WorkerCount(NamedTuple):
    """How many training workers there may be.

    Attributes:
        fewest: Without which training does not start, from 1.
        most: As many as are used if there is room for them.
    """

    fewest: int
    most: int

    @classmethod
    def parse(cls, value: object) -> "WorkerCount":
        """A number, or a range as `1:4`.

        Raises:
            ValueError: If it is neither.
        """
        match = re.fullmatch(r"([1-9]\d{0,3})(?::([1-9]\d{0,3}))?", str(value))
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError("expected a number from 1, or a range such as 1:4")
        return cls(int(match[1]), int(match[2] or match[1]))

    def __str__(self) -> str:
        return str(self.fewest) if self.fewest == self.most else f"{self.fewest}:{self.most}"

    def json_value(self) -> int | str:
        """As it is written into JSON and YAML: a number where it is one."""
        return self.fewest if self.fewest == self.most else str(self)


WorkerCountSetting = Annotated[WorkerCount, PlainValidator(WorkerCount.parse), PlainSerializer(WorkerCount.json_value)]


class DecodeConfig(Settings):
    """What Ray reserves for tasks that decode images. It decides which machines an autoscaling cluster starts."""

    GROUP = Group.CLUSTER

    cpus_per_convert_task: Annotated[float, NOT_IDENTITY] = Field(default=1.0, gt=0)
    """CPUs for each task that decodes images: less than 1 where they mostly wait for the storage."""
    convert_memory_gib: Annotated[float | None, NOT_IDENTITY] = Field(default=None, gt=0)
    """Memory in GiB for each task that decodes images. By default none is reserved, but what the most demanding of the
    images takes that `convert` measures (about 64), where that is over 1 GiB."""
    keep_gpus_free: Annotated[bool, NOT_IDENTITY] = False
    """Convert only on machines without a GPU, which the cluster must have. Otherwise a cluster starts machines with a
    GPU for converting too, once all others are busy."""


class AcceleratorConfig(DecodeConfig):
    """What Ray reserves for what holds a network: training workers, and actors that predict or compute features."""

    GROUP = Group.CLUSTER

    use_gpu: Annotated[bool, NOT_IDENTITY, Group.FIRST] = False
    """Give each training worker and each copy of a model that predicts a GPU."""
    gpus_per_worker: Annotated[float, NOT_IDENTITY] = Field(default=1.0, gt=0, le=1)
    """With --use-gpu, the share of a GPU that each of them gets; a network uses one GPU at most."""
    accelerator_type: Annotated[str | None, NOT_IDENTITY] = None
    """With --use-gpu, the kind of GPU they need, as Ray's label `ray.io/accelerator-type` names it (`L4`, `A100`); by
    default any."""

    @model_validator(mode="after")
    def _type_of_gpu(self) -> Self:
        if self.accelerator_type is not None and not self.use_gpu:
            raise ValueError("--accelerator-type needs --use-gpu")
        return self
