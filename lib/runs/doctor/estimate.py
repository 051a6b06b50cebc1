"""What a run will take, from what a few images and steps took on this machine."""

from dataclasses import dataclass

import pyarrow.compute as pc

from lib.config.chain import DoctorConfig
from lib.dataset.folds import FOLDS
from lib.ingest.listing import Listing
from lib.models.spec import ModelSpec
from lib.runs.doctor.speed import ModelSpeed, duration
from lib.runs.doctor.storage import Sample
from lib.runtime.gpus import visible_gpus


@dataclass(frozen=True)
class Estimate:
    """Hours and money.

    Attributes:
        convert_s: Seconds to convert, with all CPUs.
        train_s: Seconds to train and evaluate all models, with all workers.
        cost: In the currency of the prices.
    """

    convert_s: float
    train_s: float
    cost: float

    def __str__(self) -> str:
        times = f"convert {duration(self.convert_s)}, train and evaluate {duration(self.train_s)}"
        return f"{times}, cost about {self.cost:,.2f}"


def estimate(
    config: DoctorConfig,
    splits: dict[str, int],
    sample: Sample,
    plan: dict[str, ModelSpec],
    speeds: dict[str, ModelSpeed],
    cpus: int,
) -> Estimate:
    """The time and the price of a pipeline, starting machines not included.

    Args:
        splits: Images by split.
        sample: What a few of them took.
        plan: What is trained.
        speeds: How fast each of that is on this machine.
        cpus: That convert side by side.
    """
    convert_s = sum(splits.values()) * max(sample.convert_s, sample.fetch_s) / cpus
    per_model = [_training_s(spec, speeds[name], config, splits) for name, spec in plan.items()]
    workers = config.num_workers.fewest
    train_s = (max(per_model) if config.chooses else sum(per_model)) / workers
    if config.chooses:  # one worker tries all, and the slowest may be chosen
        train_s += sum(_trying_s(spec, speeds[name], config, splits) for name, spec in plan.items())
    train_s /= config.gpu_speedup if config.use_gpu and not visible_gpus() else 1
    trainer_price = config.price_per_gpu_hour if config.use_gpu else config.price_per_cpu_hour * cpus
    cost = (convert_s * cpus * config.price_per_cpu_hour + train_s * workers * trainer_price) / 3600
    return Estimate(convert_s, train_s, cost)


def images_by_split(listing: Listing) -> dict[str, int]:
    """How many images each split has."""
    return {row["values"]: row["counts"] for row in pc.value_counts(listing.images["split"]).to_pylist()}


def _training_s(spec: ModelSpec, speed: ModelSpeed, config: DoctorConfig, splits: dict[str, int]) -> float:
    """Seconds of all epochs of a model and its evaluation."""
    training, test = splits.get("train", 0), splits.get("test", 0)
    validation = splits.get("validation", 0)
    epoch_s = speed.step_s * training + speed.forward_s * validation
    if not spec.has_frozen_base:
        return config.epochs * epoch_s + speed.forward_s * test
    once = _copies(config) * training + validation + test
    return speed.forward_s * once + config.fine_tune_epochs * epoch_s


def _trying_s(spec: ModelSpec, speed: ModelSpeed, config: DoctorConfig, splits: dict[str, int]) -> float:
    """The same of a candidate that is tried on training images."""
    tried = min(config.choice_images, splits.get("train", 0))
    if spec.has_frozen_base:
        return speed.forward_s * _copies(config) * tried
    return speed.forward_s * tried + config.epochs * speed.step_s * (FOLDS - 1) * tried


def _copies(config: DoctorConfig) -> int:
    return config.augmented_features if config.changes(from_scratch=False) else 1
