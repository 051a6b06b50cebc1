"""Trains one model on a dataset folder, or on TIFFs streamed from storage, and completes its model folder."""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ray.train.v2.api.exceptions import TrainingFailedError

from lib.config.fitting import FitConfig, TrainConfig
from lib.config.resources import DecodeConfig
from lib.dataset.folds import fold_table
from lib.dataset.sampler import IMAGE_ORDER
from lib.dataset.shard_source import ShardSource
from lib.dataset.source import DatasetInfo, ImageSource
from lib.dataset.tiff_source import TiffSource
from lib.errors import SettingsError
from lib.folders.dataset import DatasetRecord
from lib.folders.features import FEATURES
from lib.folders.model import NETWORK_FILE, ModelRecord, read_seen_images, write_seen_images
from lib.folders.output import OutputFolder, read_complete
from lib.models.archive import check_archive
from lib.models.networks import KERAS_NETWORKS
from lib.models.provenance import weights_digest
from lib.models.spec import CLOSED, KERAS_HUB, OPENED_BY, OWN, SAVED, ModelSpec, check_spec, parse_spec
from lib.models.trust import check_earlier
from lib.runtime.gpus import refuse_shared_gpus, require_gpus
from lib.runtime.progress import Progress
from lib.runtime.ray_data import start_ray
from lib.storage.location import Location
from lib.training.feature_extraction import FeatureSource, compute_features
from lib.training.fit.plan import plan_phases
from lib.training.fit.worker import train_on_worker
from lib.training.precision import with_precision_of_run
from lib.training.tracking import Tracker, open_tracker
from lib.training.workers.failures import user_error
from lib.training.workers.lane_shards import FITTED_SPLITS, LaneShards, training_datasets
from lib.training.workers.messages import MessageLog, Messages, ProgressWatcher, RemoteMessages
from lib.training.workers.peers import TrainTask
from lib.training.workers.ray_train import ResilientTrainer, TensorflowAddresses, in_this_process, run_config, scaling
from lib.training.workers.watchdog import StallWatch

logger = logging.getLogger(__name__)

LabelledSource = ShardSource | TiffSource


def train_model(config: TrainConfig) -> ModelRecord:
    """Train one model, unless this very training is already complete.

    Raises:
        TissueError: Of the kind that tells what is wrong; see `open_source`, `check_training`, `train_on_worker`.
    """
    config = with_size_of_dataset(config)
    spec = check_training(config)
    source = open_source(config)
    require_weights_of([spec], config.image_size)
    return train_on(source, config)


def train_on(source: LabelledSource, config: TrainConfig, *, tracked: bool = True) -> ModelRecord:
    """Train one model on images that may be a part of what the settings name, unless that is complete.

    Args:
        source: The images.
        config: Checked; see `check_training`.
        tracked: Whether MLflow is told, if there is a server.

    Raises:
        TissueError: See `train_on_worker`.
    """
    folder = model_folder(config, source)
    return folder.once(lambda: _train(config, source, folder, open_tracker(config, folder) if tracked else Tracker()))


def check_training(config: TrainConfig) -> ModelSpec:
    """Refuse settings that cannot work, without starting anything.

    Raises:
        SettingsError: Naming the setting.
    """
    spec = parse_spec(config.model)
    check_spec(spec, config.image_size)
    check_earlier([spec], trusts_saved_model=config.trust_saved_model)
    check_fit(config, [spec])
    if spec.name in OWN and config.head_units:
        raise SettingsError(f"--head-units is for a new head on a base; {spec.name} has a head of its own")
    return spec


def check_fit(config: FitConfig, specs: Sequence[ModelSpec]) -> None:
    """Refuse settings of the fit that do not go together.

    Raises:
        SettingsError: Naming the settings.
    """
    if config.batch_size < config.num_workers.most:
        raise SettingsError(f"--batch-size {config.batch_size} is too small for --num-workers {config.num_workers}")
    if config.use_gpu and config.num_workers.most > 1:
        refuse_shared_gpus(config)
    if config.sampling == "balanced" and config.cache == "none":
        raise SettingsError("--sampling balanced needs the images in memory; do not combine it with --cache none")
    closed = [CLOSED[spec.name] for spec in specs if spec.name in CLOSED]
    if config.fine_tune_epochs and closed:
        raise SettingsError(f"--fine-tune-epochs: the layers of {closed[0]} cannot be fine-tuned; leave it at 0")
    if config.head == "solved" and any(spec.has_frozen_base for spec in specs):
        if config.head_units:
            raise SettingsError("--head-units is for a head that is trained: add --head adam")
        if config.sampling == "balanced":
            raise SettingsError(
                "--sampling balanced draws images step by step, which a solved head does not: take --class-weight "
                "balanced, or --head adam"
            )


def with_size_of_dataset(config: TrainConfig) -> TrainConfig:
    """The settings with the image size of the dataset folder, unless one was given.

    Raises:
        SettingsError: If the dataset folder is not complete.
    """
    if config.dataset is None or "image_size" in config.model_fields_set:
        return config
    dataset = read_complete(Location(config.dataset), DatasetRecord)
    return config.model_copy(update={"image_size": dataset.image_size})


def open_source(config: TrainConfig) -> LabelledSource:
    """The images to train on.

    Raises:
        SettingsError: If the dataset folder is not complete, of another image size, or the source has no images.
        DataError: If the classes of a source cannot be trained on.
    """
    if config.source is not None:
        return TiffSource.list_labelled(Location(config.source), config, config)
    dataset = ShardSource.open(Location(str(config.dataset)))
    if dataset.image_size != config.image_size:
        raise SettingsError(
            f"--image-size is {config.image_size}, but {config.dataset} holds images of {dataset.image_size} px"
        )
    return dataset


def require_weights_of(specs: Iterable[ModelSpec], image_size: int) -> None:
    """Fetch what is downloaded before anything long is started; imports Keras only for ImageNet weights.

    Raises:
        TissueError: If it cannot be had; the message names the file and where to put it.
    """
    for spec in specs:
        if spec.is_archive:
            check_archive(spec)
        if spec.name == KERAS_HUB and not spec.is_folder:
            from lib.models.keras_hub_encoder import preset_folder

            with preset_folder(spec):
                continue
        if spec.name in KERAS_NETWORKS and spec.weights == "imagenet":
            from lib.models.applications import require_weights

            require_weights(spec, image_size)


def model_folder(config: TrainConfig, source: LabelledSource, **more: Any) -> OutputFolder[ModelRecord]:
    """The model folder of a run.

    Args:
        config: Has the settings that it depends on.
        **more: Further settings that it depends on.
    """
    settings = config.identity() | {"image_order": IMAGE_ORDER} | more
    return OutputFolder(Location(config.output), ModelRecord, settings, {"dataset_hash": source.content_hash})


def _train(
    config: TrainConfig, source: LabelledSource, folder: OutputFolder[ModelRecord], tracker: Tracker
) -> ModelRecord:
    started, spec = time.monotonic(), parse_spec(config.model)
    source, record = prepare_source(config, source, folder)
    start_ray(config)
    require_gpus(config, config.num_workers.fewest)
    logger.info("train %s: %s", folder.location.name, spec.beginning)
    config = with_precision_of_run(config, folder)
    messages = MessageLog() if in_this_process(config) else RemoteMessages()
    features = frozen_features(config, spec, source)
    with tracker.following(messages):
        record |= _fit_on_workers(config, spec, source, features, messages)
    record |= describe_model(spec, source, messages, folder.location, config)
    model = ModelRecord.model_validate(record | {"seconds": round(time.monotonic() - started, 3)})
    tracker.finish(model)
    if spec.name in OPENED_BY:
        logger.info("%s opens with Keras only with %s of this project", NETWORK_FILE, OPENED_BY[spec.name])
    return folder.complete(model)


def prepare_source(
    config: TrainConfig, source: LabelledSource, folder: OutputFolder[ModelRecord]
) -> tuple[LabelledSource, dict[str, Any]]:
    """The source with all decided that is decided once for a run, and what `model.json` says of that."""
    source, duplicates = source.prepared(config.duplicates, folder)
    return source, {} if duplicates is None else {"duplicates": duplicates}


def frozen_features(
    config: TrainConfig, spec: ModelSpec, source: LabelledSource, only: npt.NDArray[np.int64] | None = None
) -> FeatureSource | None:
    """The features of the images that a model is fitted to, if it has a frozen base; computed unless they are there.

    Args:
        only: See `compute_features`.
    """
    if not spec.has_frozen_base:
        return None
    kept = Location(config.features) if config.features else Location(config.output) / FEATURES
    return compute_features(source, spec, config, kept, FITTED_SPLITS, only)


def _fit_on_workers(
    config: TrainConfig, spec: ModelSpec, source: ImageSource, features: FeatureSource | None, messages: Messages
) -> dict[str, Any]:
    trainer = ResilientTrainer(
        train_on_worker,
        train_loop_config={"task": TrainTask(config, spec, DatasetInfo.of(source, FITTED_SPLITS), features, messages)},
        datasets=training_datasets(
            source, folds_to_solve(source, config, [features] if config.head == "solved" else [])
        ),
        dataset_config=LaneShards(config.batch_size),
        backend_config=TensorflowAddresses(),
        scaling_config=scaling(config),
        run_config=run_config(config),
        reporter=messages,
    )
    images = source.count("train") * sum(phase.epochs for phase in plan_phases(spec, config))
    watch = StallWatch(messages, config.stall_timeout, in_this_process=in_this_process(config))
    with Progress(f"train {spec.name}", images) as progress, watch, ProgressWatcher(messages, progress, watch.look):
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise user_error(error, config.max_failures) from error
    return dict(result.return_value)


def folds_to_solve(
    source: ImageSource, config: TrainConfig, features: Iterable[FeatureSource | None]
) -> pa.Table | None:
    """The folds of the images by which penalties of solved heads are chosen; None where no head is solved.

    Args:
        source: The images.
        config: Has the memory that features may take.
        features: Of the frozen bases whose heads are solved on the same folds.

    Raises:
        StorageError: If names of images cannot be read.
    """
    numbers = [found.width * len(found.folder.variants("train")) for found in features if found is not None]
    if not numbers:
        return None
    fitting = int(config.head_memory_gib * 2**30 / 8 / max(numbers))
    return fold_table(source, max(fitting, len(source.class_names)), config.seed)


def describe_model(
    spec: ModelSpec, source: LabelledSource, messages: Messages, folder: Location, decode: DecodeConfig
) -> dict[str, Any]:
    """What `model.json` says of a trained model, after writing which images it has seen.

    Args:
        spec: What was trained.
        messages: What the workers told.
        decode: What Ray reserves for reading images that they have not told of.
    """
    record = _record(folder.name, spec, source)
    before = [read_seen_images(Location(spec.weights))] if spec.name == SAVED else []
    verdicts = messages.image_verdicts()
    images = source.trained_on(FITTED_SPLITS, verdicts.refused, verdicts.checksums, decode)
    write_seen_images(pa.concat_tables([*before, images.checksums]), folder)
    return record if images.counts is None else record | {"counts": images.counts}


def _record(name: str, spec: ModelSpec, source: LabelledSource) -> dict[str, Any]:
    return {
        "name": name,
        "spec": spec.text,
        "class_names": source.class_names,
        "image_size": source.image_size,
        "input": "uint8 RGB (n, image_size, image_size, 3)",
        "output": "logits",
        "preprocessing": "inside the model",
        "image_policy": source.image_policy,
        "image_encoding": source.image_encoding,
        "weights": spec.weights,
        "weights_sha256": weights_digest(spec, source.image_size),
        "dataset_hash": source.content_hash,
        "micrometres": source.micrometres,
    }
