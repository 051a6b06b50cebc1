"""Trains one model on a dataset folder, or on TIFFs streamed from storage, and completes its model folder."""

import logging
import time
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from lib.config import TrainConfig
from lib.dataset.source import ImageSource, ShardSource, TiffSource
from lib.environment import ray_is_ours
from lib.errors import SettingsError, TissueError
from lib.ingest.manifest import MANIFEST_SCHEMA, Accounting
from lib.models.folder import MODEL_FILE, read_seen_images, write_seen_images
from lib.models.spec import KERAS_NETWORKS, SAVED, ModelSpec, check_spec, parse_spec
from lib.progress import Progress
from lib.ray_data import start_ray
from lib.storage.filesystem import Location
from lib.storage.output import OutputFolder
from lib.training.backend import TensorflowAddresses
from lib.training.board import BoardClient, BoardWatcher, LocalBoard, RemoteBoard
from lib.training.loop import TrainTask, train_on_worker
from lib.training.shards import FITTED_SPLITS, LaneShards

logger = logging.getLogger(__name__)

NEXT_TO_NOTHING = 0.001  # Ray refuses a worker that asks for nothing at all
NOT_IDENTITY = {"verbose", "output", "num_workers", "use_gpu", "max_bad_fraction"}


def open_source(config: TrainConfig) -> ShardSource | TiffSource:
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


def check_training(config: TrainConfig) -> ModelSpec:
    """Refuse settings that cannot work, without starting anything.

    Raises:
        SettingsError: Naming the setting.
    """
    spec = parse_spec(config.model)
    check_spec(spec, config.image_size)
    if config.batch_size < config.num_workers:
        raise SettingsError(f"--batch-size {config.batch_size} cannot be shared by --num-workers {config.num_workers}")
    return spec


def require_imagenet_weights(specs: Iterable[ModelSpec], image_size: int) -> None:
    """Fetch ImageNet weights before anything long is started; imports Keras only if there are any to fetch.

    Raises:
        TissueError: If they cannot be had; the message names the file and where to put it.
    """
    for spec in specs:
        if spec.name in KERAS_NETWORKS and spec.weights == "imagenet":
            from lib.models.transfer import require_weights

            require_weights(spec, image_size)


def train_model(config: TrainConfig) -> dict[str, Any]:
    """Train one model, unless this very training is already complete.

    Returns:
        The content of `model.json`.

    Raises:
        TissueError: Of the kind that tells what is wrong; see `open_source`, `check_training`, `train_on_worker`.
    """
    spec = check_training(config)
    source = open_source(config)
    require_imagenet_weights([spec], config.image_size)
    settings = config.model_dump(mode="json", exclude=NOT_IDENTITY)
    folder = OutputFolder(Location(config.output), MODEL_FILE, settings, {"dataset_hash": source.content_hash})
    return folder.once(lambda: _train(config, spec, source, folder))


def _train(
    config: TrainConfig, spec: ModelSpec, source: ShardSource | TiffSource, folder: OutputFolder
) -> dict[str, Any]:
    started = time.monotonic()
    record: dict[str, Any] = {}
    if isinstance(source, TiffSource):
        record["duplicates"] = source.count_duplicates(config.duplicates)
        source = source.with_ranges(folder)
    start_ray(config)
    logger.info("train %s: %s", folder.location.name, spec.beginning)
    board = LocalBoard() if _in_this_process(config) else RemoteBoard()
    results = _run(config, spec, source, board)
    record |= _record(folder.location.name, spec, source) | results
    seen = read_seen_images(Location(spec.weights)) if spec.name == SAVED else set()
    if isinstance(source, TiffSource):
        record["counts"] = _account(source, board.ask("refused")).counts
        seen |= set(board.ask("checksums").items())
    else:
        seen |= set(source.checksums(FITTED_SPLITS).items())
    write_seen_images(seen, folder.location)
    return folder.complete(record | {"seconds": round(time.monotonic() - started, 3)})


def _in_this_process(config: TrainConfig) -> bool:
    """A single worker needs no process of its own, unless this one runs on the head of a cluster."""
    return config.num_workers == 1 and ray_is_ours()


def _run(config: TrainConfig, spec: ModelSpec, source: ImageSource, board: BoardClient) -> dict[str, Any]:
    counts = {split: source.count(split) for split in FITTED_SPLITS}
    shards = LaneShards(source, config, config.seed)
    trainer = DataParallelTrainer(
        train_on_worker,
        train_loop_config={"task": TrainTask(config, spec, source.class_names, source.image_size, counts, board)},
        backend_config=TensorflowAddresses(),
        scaling_config=_scaling(config),
        run_config=_run_config(Location(config.output)),
        datasets=shards.datasets(),
        dataset_config=shards,
    )
    with (
        Progress(f"train {spec.name}", counts["train"] * config.epochs) as progress,
        BoardWatcher(board, progress),
    ):
        try:
            result = trainer.fit()
        except WorkerGroupError as error:
            raise _cause(error) from error
    return dict(result.return_value)


def _scaling(config: TrainConfig) -> ScalingConfig:
    workers = 0 if _in_this_process(config) else config.num_workers
    # On one machine, workers that hold CPUs for as long as they live would leave none to decode their images.
    resources = {"CPU": NEXT_TO_NOTHING, "GPU": int(config.use_gpu)} if ray_is_ours() else None
    return ScalingConfig(num_workers=workers, use_gpu=config.use_gpu, resources_per_worker=resources)


def _run_config(output: Location) -> RunConfig:
    storage: dict[str, Any] = {"storage_path": (output / "checkpoints").path}
    if not output.is_local:
        storage["storage_filesystem"] = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(output.filesystem))
    return RunConfig(name="ray", failure_config=FailureConfig(max_failures=0), **storage)


def _cause(error: WorkerGroupError) -> Exception:
    """What went wrong on the first worker that says so, rather than that workers failed."""
    failures = [getattr(failure, "cause", failure) for failure in error.worker_failures.values()]
    return next((failure for failure in failures if isinstance(failure, TissueError)), failures[0])


def _record(name: str, spec: ModelSpec, source: ShardSource | TiffSource) -> dict[str, Any]:
    return {
        "name": name,
        "spec": spec.text,
        "class_names": source.class_names,
        "image_size": source.image_size,
        "input": "uint8 RGB (n, image_size, image_size, 3)",
        "output": "logits",
        "preprocessing": "inside the model",
        "image_policy": source.image_policy.model_dump(mode="json"),
        "image_encoding": source.record["encoding"] if isinstance(source, ShardSource) else None,
        "weights": spec.weights,
        "dataset_hash": source.content_hash,
    }


def _account(source: TiffSource, refused: list[dict[str, Any]]) -> Accounting:
    """What became of the listed files of a source that was streamed into training."""
    by_place = {(row["split"], row["position"]): row for row in refused}
    rows = []
    for split in (*FITTED_SPLITS, "test"):
        for unit in source.units(split, 0, source.count(split)):
            rows += [row | _verdict(split, by_place.get((split, row["position"]))) for row in unit.to_pylist()]
    manifest = pa.concat_tables([pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), source.listing.excluded])
    return Accounting.of(manifest, source.listing.ids)


def _verdict(split: str, refusal: dict[str, Any] | None) -> dict[str, Any]:
    if split not in FITTED_SPLITS:
        return {"verdict": "excluded", "reason": "test_split"}
    if refusal is None:
        return {"verdict": "accepted"}
    return {"verdict": "quarantined", "reason": refusal["reason"], "detail": refusal["detail"]}
