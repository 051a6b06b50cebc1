"""Settings of the jobs that join or look at other jobs."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from lib.config.base import NOT_IDENTITY, Group, JobConfig, OutputUri, StorageUri
from lib.config.fitting import FitConfig
from lib.config.images import ImageConfig, ListingConfig
from lib.config.prediction import ForwardConfig, MeasureConfig

AUTO = "auto"
CANDIDATES = ("cnn_bn", "mobilenet_v2", "efficientnet_v2_b0", "resnet50")
"""What `--models auto` tries unless told: a network from scratch, and three encoders from small to large."""


class ReportConfig(JobConfig):
    """Write one offline HTML page about one or more evaluations."""

    GROUP = Group.FIRST

    evaluations: tuple[StorageUri, ...] = Field(min_length=1)
    """Evaluation folders, shown side by side in this order."""
    output: Annotated[OutputUri, NOT_IDENTITY]
    """Report folder to write."""
    choice: StorageUri | None = None
    """Folder in which a pipeline with `--models auto` kept what it tried, to show that too."""


class StatusConfig(JobConfig):
    """Report the state of any run, from its files alone: what is done, running, stopped or failed."""

    GROUP = Group.FIRST

    output: Annotated[StorageUri, NOT_IDENTITY]
    """The --output of a job, or any folder above it."""


class PipelineConfig(FitConfig, ForwardConfig, MeasureConfig, ImageConfig, ListingConfig, JobConfig):
    """Convert, train every model, evaluate each on the test split, and report."""

    GROUP = Group.FIRST

    source: StorageUri
    """Folder of TIFFs: `train/<label>/*.tif` and `test/<label>/*.tif`."""
    output: Annotated[OutputUri, NOT_IDENTITY]
    """Folder for `dataset/`, `models/<name>/`, `evaluations/<name>/` and `report/`."""
    models: tuple[str, ...] = Field(default=("cnn",), min_length=1)
    """SPECs of the models to train, in this order (see `--model` of `train`). With `auto` first, only one is
    trained: the best by cross-validation on training images of the SPECs that follow, or else of `cnn_bn`,
    `mobilenet_v2`, `efficientnet_v2_b0` and `resnet50`, as far as their weights can be had."""
    choice_images: Annotated[int, Group.MODEL] = Field(default=2000, ge=10, le=100_000)
    """With `--models auto`: most training images, evenly from the classes, on which candidates are tried. A network
    from scratch is trained on four fifths of them, five times."""
    layout: Annotated[Literal["shards", "folder"], Group.IMAGES] = "shards"
    """`folder` also writes `dataset/<split>/<label>/<name>.jpg`."""

    @field_validator("models")
    @classmethod
    def _auto_first(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if AUTO in models[1:]:
            raise ValueError("auto stands first, before the SPECs to choose from, and once")
        return models

    @property
    def chooses(self) -> bool:
        """Whether only the best of some candidates is trained."""
        return self.models[0] == AUTO

    @property
    def candidates(self) -> tuple[str, ...]:
        """The SPECs to choose from, or to train all of."""
        if not self.chooses:
            return self.models
        return self.models[1:] or CANDIDATES


class DoctorConfig(PipelineConfig):
    """Check whether a pipeline with these settings can work, and estimate its time and cost, before paying for it."""

    GROUP = Group.ESTIMATE

    cpus: int | None = Field(default=None, ge=1)
    """CPUs that convert in parallel, for the estimate; by default those that Ray has now."""
    gpu_speedup: float = Field(default=30.0, gt=0)
    """How many times faster one GPU trains than this machine's CPUs, for the estimate with --use-gpu."""
    price_per_cpu_hour: float = Field(default=0.05, ge=0)
    """Price of one CPU for an hour, in the currency of your bill; the default is about that of Google's N2 machines on
    demand, in dollars. Spot machines cost a third or less."""
    price_per_gpu_hour: float = Field(default=0.85, ge=0)
    """Price of a machine with one GPU for an hour; the default is about that of Google's g2-standard-8 (L4)."""
