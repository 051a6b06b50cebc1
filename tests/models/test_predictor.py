"""What an actor writes of a decoded unit, and the mean over several views of an image. No Ray."""

from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.config.prediction import PredictionConfig
from lib.dataset.source import DECODED_SCHEMA
from lib.dataset.thumbnails import thumbnail_table
from lib.evaluation.predictor import Predictor
from lib.folders.model import write_reference
from lib.folders.predictions import (
    ABSTAINING_LOGIT_SCHEMA,
    EMBEDDING_SCHEMA,
    GRAD_CAM_SCHEMA,
    PREDICTION_SCHEMA,
    THUMBNAIL_SCHEMA,
    read_account,
    read_grad_cam,
    read_predictions,
    read_thumbnails,
)
from lib.ingest.image import decode_jpeg
from lib.models.grad_cam import GradCam
from lib.models.inference import Classified, Forward, classify, views_of
from lib.models.probabilities import softmax
from lib.models.reference import reference_record
from lib.models.registry import build_network
from lib.models.spec import parse_spec
from lib.projector import unit_length
from lib.storage.location import Location
from tests.fakes.records import model_record

SIZE, CLASS_NAMES = 32, ["liver", "lung", "skin"]


def random_images(count: int = 5, seed: int = 0) -> np.ndarray:
    """Blotches of 4 x 4 pixels, which survive JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, SIZE // 4, SIZE // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def decoded(images: np.ndarray, labels: list[str | None] | None = None, refused: int = 0) -> pa.Table:
    """A unit of these images, after some that were refused."""
    rows: list[dict[str, Any]] = [{"image": None, "reason": "not_tiff", "detail": "text"} for _ in range(refused)]
    rows += [
        {"image": image.tobytes(), "label": label}
        for image, label in zip(images, labels or [None] * len(images), strict=True)
    ]
    for position, row in enumerate(rows):
        row |= {"position": position, "image_id": f"id-{position}", "path": f"{position}.tif", "checksum": "c"}
    return pa.Table.from_pylist(rows, schema=DECODED_SCHEMA)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """Untrained, but with opinions: logits that differ by several units from image to image."""
    network = build_network(parse_spec("cnn"), len(CLASS_NAMES), SIZE, seed=0).model
    logits = network.get_layer("logits")
    logits.kernel.assign(20 * logits.kernel)
    logits.bias.assign(-keras.ops.mean(network(random_images(50)), axis=0))
    return network


@pytest.fixture(scope="module")
def folder(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A model folder with a reference: the embeddings of five images, at distance 0 from themselves."""
    folder = Location(str(tmp_path_factory.mktemp("model")))
    network.save(Path(folder.uri) / "model.keras")
    embeddings = unit_length(run(network, random_images()).embeddings)
    names = pa.table({name: [f"{name} {row}" for row in range(5)] for name in ("image_id", "path", "label")})
    write_reference(names, CLASS_NAMES, np.full((5, 3), 1 / 3, np.float32), embeddings, folder)
    reference = reference_record(5, np.full(20, 1e-4, np.float32))
    assert reference is not None
    nearest = reference.model_copy(update={"neighbours": 1})
    model_record(class_names=CLASS_NAMES, image_size=SIZE, reference=nearest).write(folder)
    return folder


def run(network: keras.Model, images: np.ndarray, augmentation: str = "none") -> Classified:
    with_embedding = keras.Model(network.input, [network.output, network.layers[-1].input])
    return classify(Forward(with_embedding, 2), decoded(images), views_of(augmentation))


SYMMETRIES = {
    "none": [lambda images: images],
    "flips": [lambda i: i, lambda i: i[:, ::-1], lambda i: i[:, :, ::-1], lambda i: i[:, ::-1, ::-1]],
}
SYMMETRIES["quarter_turns"] = [
    *SYMMETRIES["flips"],
    *[lambda images, flip=flip: flip(images).transpose(0, 2, 1, 3) for flip in SYMMETRIES["flips"]],
]


@pytest.mark.parametrize("augmentation", SYMMETRIES)
def test_the_views_of_an_image_are_the_symmetries_each_once_and_itself_first(augmentation: str) -> None:
    images, positions = random_images(2), np.arange(2)
    images.flags.writeable = False  # as those of a table
    first, *others = views_of(augmentation)
    assert first is None
    found = [images.tobytes(), *(change(images, positions).tobytes() for change in others)]
    assert found[0] == images.tobytes()
    assert sorted(found) == sorted(np.ascontiguousarray(way(images)).tobytes() for way in SYMMETRIES[augmentation])
    assert len(set(found)) == len(found) == {"none": 1, "flips": 4, "quarter_turns": 8}[augmentation]


def test_a_view_is_mirrored_and_turned_as_numpy_does() -> None:
    images, positions = random_images(2), np.arange(2)
    ways = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)][1:]
    for change, (turns, mirrored) in zip(views_of("quarter_turns")[1:], ways, strict=True):
        expected = np.rot90(images[:, ::-1] if mirrored else images, turns, axes=(1, 2))
        np.testing.assert_array_equal(change(images, positions), expected)


@pytest.mark.parametrize("augmentation", ["flips", "quarter_turns"])
def test_an_image_and_its_views_have_the_same_probabilities(network: keras.Model, augmentation: str) -> None:
    images = random_images()
    expected = run(network, images, augmentation)
    assert np.abs(run(network, images[:, ::-1]).probabilities - run(network, images).probabilities).max() > 1e-3
    for change in SYMMETRIES[augmentation]:
        found = run(network, change(images), augmentation)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_flips_do_not_make_up_for_quarter_turns(network: keras.Model) -> None:
    images = random_images()
    turned = run(network, np.rot90(images, axes=(1, 2)), "flips")
    assert np.abs(turned.probabilities - run(network, images, "flips").probabilities).max() > 1e-3


@pytest.mark.parametrize("augmentation", ["flips", "quarter_turns"])
def test_probabilities_and_logits_are_means_over_the_views_and_embeddings_those_of_the_image(
    network: keras.Model, augmentation: str
) -> None:
    images = random_images()
    found, plain = run(network, images, augmentation), run(network, images)
    logits = np.stack([run(network, way(images)).logits for way in SYMMETRIES[augmentation]])
    np.testing.assert_allclose(found.logits, logits.mean(axis=0), rtol=1e-4, atol=1e-4)
    mean = np.mean([softmax(of_view) for of_view in logits], axis=0)
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
    assert np.abs(found.probabilities - softmax(logits.mean(axis=0))).max() > 1e-3  # the softmax of the mean is another
    np.testing.assert_array_equal(found.embeddings, plain.embeddings)


def test_without_test_time_augmentation_nothing_changes(network: keras.Model) -> None:
    images = random_images()
    with_embedding = keras.Model(network.input, [network.output, network.layers[-1].input])
    logits, embeddings = Forward(with_embedding, 2)(decoded(images))
    found = run(network, images)
    np.testing.assert_array_equal(found.logits, logits)
    np.testing.assert_array_equal(found.probabilities, softmax(logits))
    np.testing.assert_array_equal(found.embeddings, embeddings)


def predict(
    folder: Location, unit: pa.Table, output: Path, min_confidence: float | None = None, **options: Any
) -> None:
    config = PredictionConfig(model_dir=folder.uri, output=str(output), **options)
    Predictor(config, min_confidence)(unit)


def test_images_are_predicted_and_shrunk_in_one_go(folder: Location, tmp_path: Path) -> None:
    images = random_images()
    config = PredictionConfig(model_dir=folder.uri, output=str(tmp_path))
    Predictor(config, thumbnails=True)(decoded(images, refused=1))
    (file,), (predicted,) = (tmp_path / "thumbnails").iterdir(), (tmp_path / "predictions").iterdir()
    assert (file.name, pq.read_schema(file)) == (predicted.name, THUMBNAIL_SCHEMA)
    found = read_thumbnails(Location(str(tmp_path)), ["id-5", "id-2", "no such image"])
    assert found.keys() == {"id-2", "id-5"}
    for name, jpeg in found.items():  # small images keep their size
        differences = np.abs(decode_jpeg(jpeg).astype(int) - images).mean(axis=(1, 2, 3))
        assert differences.argmin() == int(name[-1]) - 1
        assert differences.min() < np.sort(differences)[1] / 3


def test_a_large_image_has_a_thumbnail_of_its_colours() -> None:
    halves = np.zeros((300, 150, 3), np.uint8)
    halves[:150], halves[150:] = (200, 40, 90), (20, 160, 220)
    (jpeg,) = thumbnail_table(["a"], [halves])["thumbnail"].to_pylist()
    thumbnail = decode_jpeg(jpeg)
    assert thumbnail.shape == (128, 64, 3)
    np.testing.assert_allclose(thumbnail[32, 32], (200, 40, 90), atol=3)
    np.testing.assert_allclose(thumbnail[96, 32], (20, 160, 220), atol=3)


def test_an_image_of_the_reference_is_familiar_and_another_is_not(folder: Location, tmp_path: Path) -> None:
    blank = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    predict(folder, decoded(np.concatenate([random_images(), blank]), refused=1), tmp_path)
    predictions = read_predictions(Location(str(tmp_path)))
    assert predictions.schema.remove_metadata() == PREDICTION_SCHEMA
    np.testing.assert_allclose(predictions["feature_distance"].to_numpy()[:5], 0, atol=1e-5)
    assert predictions["unfamiliar"].to_pylist() == [False] * 5 + [True]
    account = read_account(Location(str(tmp_path)))
    assert (account.unfamiliar, account.abstained) == (1, None)
    assert account.verdicts["image_id"].to_pylist() == [f"id-{position}" for position in range(7)]
    assert account.verdicts["reason"].to_pylist() == ["not_tiff"] + [None] * 6


def test_a_model_without_a_reference_leaves_familiarity_open(folder: Location, network: Any, tmp_path: Path) -> None:
    network.save(tmp_path / "model.keras")
    model_record(class_names=CLASS_NAMES, image_size=SIZE).write(Location(str(tmp_path)))
    predict(Location(str(tmp_path)), decoded(random_images()), tmp_path / "out")
    predictions = read_predictions(Location(str(tmp_path / "out")))
    assert predictions.schema.remove_metadata() == PREDICTION_SCHEMA
    assert predictions["feature_distance"].null_count == predictions["unfamiliar"].null_count == 5
    assert read_account(Location(str(tmp_path / "out"))).unfamiliar is None


def test_logits_and_abstention_are_written_where_they_are_asked_for(
    folder: Location, network: keras.Model, tmp_path: Path
) -> None:
    predict(folder, decoded(random_images()), tmp_path, 0.5, logits=True, test_time_augmentation="flips")
    predictions = read_predictions(Location(str(tmp_path)))
    assert predictions.schema.remove_metadata() == ABSTAINING_LOGIT_SCHEMA
    found = run(network, random_images(), "flips")
    np.testing.assert_allclose(predictions["logits"].to_pylist(), found.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(predictions["probabilities"].to_pylist(), found.probabilities, atol=1e-5)
    expected = [confidence < 0.5 for confidence in predictions["confidence"].to_pylist()]
    assert predictions["abstained"].to_pylist() == expected
    assert read_account(Location(str(tmp_path))).abstained == sum(expected)


def test_a_unit_of_refused_images_alone_has_no_row(folder: Location, tmp_path: Path) -> None:
    predict(folder, decoded(random_images(0), refused=2), tmp_path, 0.5, test_time_augmentation="quarter_turns")
    assert read_predictions(Location(str(tmp_path))).num_rows == 0
    assert pq.read_table(tmp_path / "embeddings").schema == EMBEDDING_SCHEMA
    assert not (tmp_path / "thumbnails").exists()  # without labels nothing shows the images
    account = read_account(Location(str(tmp_path)))
    assert (account.verdicts.num_rows, account.unfamiliar, account.abstained) == (2, 0, 0)


def test_the_three_most_confident_errors_get_a_heatmap_of_the_predicted_class(
    folder: Location, network: keras.Model, tmp_path: Path
) -> None:
    images = random_images(6, seed=3)
    probabilities = run(network, images).probabilities
    best = probabilities.argmax(axis=1)
    labels = [CLASS_NAMES[(number + (row != 2)) % 3] for row, number in enumerate(best)]  # only the third is right
    predict(folder, decoded(images, labels, refused=1), tmp_path)
    found = read_grad_cam(Location(str(tmp_path)))
    assert found.schema == GRAD_CAM_SCHEMA
    worst = sorted({0, 1, 3, 4, 5}, key=lambda row: -probabilities[row].max())[:3]
    assert found["image_id"].to_pylist() == [f"id-{row + 1}" for row in worst]  # the refused one is before them
    assert found["label"].to_pylist() == [labels[row] for row in worst]
    assert found["predicted"].to_pylist() == [CLASS_NAMES[best[row]] for row in worst]
    grad_cam = GradCam.of(network)
    assert grad_cam is not None
    expected = grad_cam(images[worst], best[worst])
    heatmaps = [
        cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) for png in found["heatmap"].to_pylist()
    ]
    np.testing.assert_allclose(np.stack(heatmaps) / 255, expected, atol=0.003)
    for jpeg, row in zip(found["image"].to_pylist(), worst, strict=True):
        other = np.abs(decode_jpeg(jpeg).astype(int) - images[row - 1]).mean()
        assert np.abs(decode_jpeg(jpeg).astype(int) - images[row]).mean() < other / 2


def test_images_without_labels_or_errors_have_no_heatmap(folder: Location, network: Any, tmp_path: Path) -> None:
    images = random_images()
    labels = [CLASS_NAMES[number] for number in run(network, images).probabilities.argmax(axis=1)]
    for name, unit in (("unknown", decoded(images)), ("right", decoded(images, labels))):
        predict(folder, unit, tmp_path / name)
        assert not (tmp_path / name / "grad_cam").exists()
        assert read_grad_cam(Location(str(tmp_path / name))).schema == GRAD_CAM_SCHEMA
