"""What `evaluate` and `report` do beside running the network: its predictions are there, of thousands of images."""

import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tifffile

from lib.config.prediction import EvaluateConfig
from lib.dataset.shard_source import ShardSource
from lib.dataset.source import first_position
from lib.dataset.thumbnails import unit_thumbnails
from lib.evaluation.predictor import grad_cam_table, most_confident_errors, prediction_table
from lib.folders.evaluation import EvaluationRecord
from lib.folders.model import NETWORK_FILE, ModelRecord, ReferenceRecord, write_reference, write_seen_images
from lib.folders.output import OutputFolder
from lib.folders.parts import part_name
from lib.folders.predictions import (
    EMBEDDING_SCHEMA,
    EMBEDDINGS,
    GRAD_CAM,
    THUMBNAILS,
    ExtraColumns,
    write_part,
    write_predictions,
)
from lib.models.inference import Classified
from lib.models.probabilities import softmax
from lib.models.reference import Reference
from lib.models.registry import build_network
from lib.models.spec import parse_spec
from lib.projector import unit_length
from lib.sample.tissue import TISSUES, draw_tissue
from lib.storage.location import Location
from tests.benchmarks.fit import run_job, run_python
from tests.benchmarks.timing import print_row, seconds
from tests.fakes.records import model_record

COUNT, TRAINING, SIZE = 4000, 480, 180
DIMENSIONS = (1280, 2048)
FIELD_PX = 768
"""Side of a drawn tissue that images are cut out of."""
SURE = 3.5
"""How far the logit of the true class lies above the others, in their standard deviations."""

AFTER_PREDICTING = """
import json, sys, time
from lib.config.chain import ReportConfig
from lib.config.prediction import EvaluateConfig
from lib.runtime.environment import prepare_environment
prepare_environment()
from lib.evaluation.evaluate import evaluate_model
from lib.evaluation.views.map_maker import MapMaker
from lib.report.page import write_report
from lib.runtime.ray_data import start_ray
import numpy as np
config = EvaluateConfig.model_validate_json(sys.argv[1])
start_ray(config)
maker = MapMaker(config.maps)
maker.begin(np.eye(12, dtype=np.float32)).result()  # as far as it would be while thousands of images are predicted
began = time.perf_counter()
evaluate_model(config)
evaluated = time.perf_counter()
write_report(ReportConfig(evaluations=(config.output,), output=config.output + "_report"))
print(json.dumps([evaluated - began, time.perf_counter() - evaluated]))
"""
"""A program that does all that follows predicting, and prints its seconds."""


def run(repeats: int) -> None:
    """Seconds after predicting, and of commands that find everything predicted."""
    print_row(f"after predicting {COUNT:,} images, s", "evaluation", "report", "`jobs.evaluate` in all")
    print_row(*["---"] * 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = write_dataset(folder, COUNT)
        for dimensions in DIMENSIONS:
            config = write_predicted(folder / str(dimensions), dataset, dimensions)
            turns = [_after_predicting(config, folder / f"{dimensions}_{turn}") for turn in range(repeats)]
            evaluation, report = np.median(turns, axis=0)
            whole = np.median([_whole_job(config, folder / f"{dimensions}_job_{turn}") for turn in range(repeats)])
            print_row(f"{dimensions:,} numbers an embedding", f"{evaluation:.1f}", f"{report:.1f}", f"{whole:.1f}")


def _after_predicting(config: EvaluateConfig, output: Path) -> tuple[float, float]:
    copied = _copied(config, output)
    evaluation, report = json.loads(run_python("-c", AFTER_PREDICTING, copied.model_dump_json()).splitlines()[-1])
    return evaluation, report


def _whole_job(config: EvaluateConfig, output: Path) -> float:
    copied = _copied(config, output)
    flags = ("--model-dir", copied.model_dir, "--dataset", copied.dataset, "--output", copied.output)
    return seconds(lambda: run_job("evaluate", *flags))


def _copied(config: EvaluateConfig, output: Path) -> EvaluateConfig:
    """The same evaluation in a folder that is not complete yet."""
    shutil.copytree(config.output, output)
    return config.model_copy(update={"output": str(output)})


def write_dataset(folder: Path, count: int) -> Path:
    """A converted dataset of so many test images of 12 classes, all different, and some for training."""
    for number, tissue in enumerate(TISSUES):
        random = np.random.default_rng(number)
        field = draw_tissue(tissue, random, FIELD_PX)
        for split, images in (("train", TRAINING), ("test", count)):
            below = folder / "source" / split / f"class_{number:02d}"
            below.mkdir(parents=True)
            for place in range(number, images, len(TISSUES)):
                top, left = random.integers(FIELD_PX - SIZE, size=2)
                cut = field[top : top + SIZE, left : left + SIZE]
                tifffile.imwrite(below / f"{place:05d}.tif", cut, photometric="rgb", compression="jpeg")
    dataset = folder / "dataset"
    run_job("convert", "--source", folder / "source", "--output", dataset, "--image-size", SIZE, "--duplicates", "keep")
    return dataset


def write_predicted(folder: Path, dataset: Path, dimensions: int) -> EvaluateConfig:
    """An evaluation whose test images are predicted, as a network of some accuracy might have, and its model."""
    source, random = ShardSource.open(Location(str(dataset))), np.random.default_rng(0)
    output, model_dir = folder / "evaluation", folder / "model"
    config = EvaluateConfig(model_dir=str(model_dir), dataset=str(dataset), output=str(output))
    centres = random.normal(size=(len(source.class_names), dimensions))
    model = _write_model(model_dir, source, centres, random)
    inputs = {"model_completed_at": model.completed_at, "dataset_hash": source.content_hash}
    OutputFolder(Location(config.output), EvaluationRecord, config.identity(), inputs).begin()
    reference = Reference.read(Location(str(model_dir)), model.reference)
    for unit in source.units("test"):
        _write_unit(source.decoder(unit), source, centres, reference, Location(config.output), random)
    return config


def _write_unit(
    decoded: pa.Table,
    source: ShardSource,
    centres: npt.NDArray[np.float64],
    reference: Reference | None,
    output: Location,
    random: np.random.Generator,
) -> None:
    name, classes = part_name(first_position(decoded)), _classes(decoded, source)
    logits = random.normal(size=(len(classes), len(centres))).astype(np.float32)
    logits[np.arange(len(classes)), classes] += SURE
    embeddings = _embeddings(classes, centres, random)
    classified = Classified(softmax(logits), logits, embeddings)
    predictions = prediction_table(decoded, classified, source.class_names, reference, ExtraColumns())
    table = pa.table({"image_id": decoded["image_id"], "embedding": list(embeddings)}, schema=EMBEDDING_SCHEMA)
    write_part(table, output, EMBEDDINGS, name)
    write_part(unit_thumbnails(decoded, source.image_size), output, THUMBNAILS, name)
    wrong = most_confident_errors(predictions)
    looked = grad_cam_table(predictions.take(wrong), decoded.take(wrong), source.class_names, _Warm())
    write_part(looked, output, GRAD_CAM, name)
    write_predictions(predictions, decoded, output, name)


class _Warm:
    """Heat that lies in the middle of every image."""

    image_size = SIZE

    def __call__(self, pixels: npt.NDArray[np.uint8], _classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        middle = np.zeros((6, 6), np.float32)
        middle[2:4, 2:4] = 1
        return np.stack([cv2.resize(middle, (SIZE, SIZE))] * len(pixels))


def _classes(images: pa.Table, source: ShardSource) -> npt.NDArray[np.int64]:
    return np.array([source.class_names.index(label) for label in images["label"].to_pylist()])


def _embeddings(
    classes: npt.NDArray[np.int64], centres: npt.NDArray[np.float64], random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """As behind a ReLU: never negative, many zeros, those of a class alike."""
    drawn = centres[classes] + random.normal(size=(len(classes), centres.shape[1]))
    return np.maximum(drawn, 0).astype(np.float32)


def _write_model(
    folder: Path, source: ShardSource, centres: npt.NDArray[np.float64], random: np.random.Generator
) -> ModelRecord:
    folder.mkdir(parents=True)
    build_network(parse_spec("cnn"), len(centres), source.image_size, seed=0).model.save(folder / NETWORK_FILE)
    images = pa.concat_tables(source.names(unit) for unit in source.units("train"))
    classes = _classes(images, source)
    embeddings = unit_length(_embeddings(classes, centres, random))
    probabilities = np.eye(len(centres), dtype=np.float32)[classes]
    write_reference(images, source.class_names, probabilities, embeddings, Location(str(folder)))
    write_seen_images(source.checksums(["train"]), Location(str(folder)))
    reference = ReferenceRecord(
        images=len(classes), neighbours=5, threshold=0.5, quantile=0.99, validation_images=len(classes)
    )
    record = model_record(
        class_names=source.class_names,
        image_size=source.image_size,
        dataset_hash=source.content_hash,
        reference=reference,
        image_policy=source.image_policy,
    )
    record.write(Location(str(folder)))
    return record
