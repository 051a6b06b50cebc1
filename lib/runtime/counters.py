"""What Prometheus can ask of a running job: each metric by its name, its meaning, its unit and its tags.

Ray collects them from every process and exports them on each node with the prefix `ray_`, the process (`WorkerId`) and
the node (`NodeAddress`). `cluster/grafana-dashboard.json` shows them.

In a process without Ray, as in a plain script or a unit test, nothing is counted, and Ray is not imported either. What
is counted, is counted once a unit of work or an epoch, never once an image.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any, Literal

from lib.runtime.environment import JOB_VARIABLE, job_variables


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As this project calls it; Prometheus has `ray_` before it.
        kind: A counter only rises, and begins at 0 in each process; a gauge is the last value.
        description: What it says, for people.
        unit: Unit of its values.
        tags: What it is told apart by. Not `job`, which Prometheus keeps for what it scrapes.
    """

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    unit: str
    tags: tuple[str, ...] = ()

    def add(self, amount: float, **tags: str) -> None:
        """Raise a counter; nothing happens for 0, and in a process without Ray."""
        if amount and _ray_runs():
            _exported(self).inc(amount, tags)

    def set(self, value: float, **tags: str) -> None:
        """Set a gauge; nothing happens in a process without Ray."""
        if _ray_runs():
            _exported(self).set(value, tags)


IMAGES = Metric(
    "tissue_images_total",
    "counter",
    "Images that a stage is done with in this run, by verdict: accepted or quarantined; while training, of each epoch",
    "images",
    ("job_name", "stage", "verdict"),
)
IMAGES_PER_SECOND = Metric(
    "tissue_images_per_second",
    "gauge",
    "Images through training steps a second, over all workers, in the last epoch",
    "images/s",
    ("job_name", "stage"),
)
WAIT_SHARE = Metric(
    "tissue_wait_share",
    "gauge",
    "Share of the training time that steps of the first worker waited for images, in the last epoch",
    "0 to 1",
    ("job_name", "stage"),
)
GPU_UTILISATION = Metric(
    "tissue_gpu_utilisation",
    "gauge",
    "Share of the training time in which the GPU of the first worker ran a kernel, in the last epoch",
    "0 to 1",
    ("job_name", "stage"),
)
GPU_MEMORY = Metric(
    "tissue_gpu_memory_bytes",
    "gauge",
    "Most memory of the GPU of the first worker that was taken while training, in the last epoch",
    "bytes",
    ("job_name", "stage"),
)
STORAGE_RETRIES = Metric(
    "tissue_storage_retries_total",
    "counter",
    "Requests to storage that are made again, by what went wrong before",
    "requests",
    ("reason",),
)
DRIVE_UNITS = Metric(
    "tissue_drive_units_total",
    "counter",
    "Quota units of Google Drive that the cluster's limiter has given out",
    "units",
)
METRICS = (IMAGES, IMAGES_PER_SECOND, WAIT_SHARE, GPU_UTILISATION, GPU_MEMORY, STORAGE_RETRIES, DRIVE_UNITS)


def count_images(stage: str, accepted: int, quarantined: int) -> None:
    """A unit of work is done.

    Args:
        stage: What was done with it, as `convert`.
        accepted: Its images that were good.
        quarantined: Its images that were refused.
    """
    for verdict, images in {"accepted": accepted, "quarantined": quarantined}.items():
        IMAGES.add(images, job_name=_job(), stage=stage, verdict=verdict)


def count_epoch(images: int, images_per_s: float, wait_share: float) -> None:
    """An epoch of training is over; for one worker to say, since the numbers are those of all.

    Args:
        images: Through training steps.
        wait_share: Share of the time in which steps waited for images, 0 to 1.
    """
    count_images("train", images, 0)
    IMAGES_PER_SECOND.set(images_per_s, job_name=_job(), stage="train")
    WAIT_SHARE.set(wait_share, job_name=_job(), stage="train")


def show_gpu(utilisation: float | None, memory_bytes: int | None) -> None:
    """How much of its GPU training has used in an epoch, as far as it is known.

    Args:
        utilisation: Share of the time in which it ran a kernel, 0 to 1.
        memory_bytes: The most that was taken.
    """
    for metric, value in {GPU_UTILISATION: utilisation, GPU_MEMORY: memory_bytes}.items():
        if value is not None:
            metric.set(value, job_name=_job(), stage="train")


def _job() -> str:
    return job_variables().get(JOB_VARIABLE, "none")


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")  # a process that has not imported Ray has not started it
    return ray is not None and bool(ray.is_initialized())


@functools.cache
def _exported(metric: Metric) -> Any:
    """Ray's side of a metric, made when it is first needed."""
    from ray.util.metrics import Counter, Gauge

    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, f"{metric.description} ({metric.unit})", metric.tags)
