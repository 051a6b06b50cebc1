"""The whole chain on a tiny source: what it writes is what other programs rely on."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lib
from lib.folders.evaluation import EvaluationRecord
from lib.folders.model import ModelRecord
from lib.storage.location import Location
from tests.fakes.chain import Chain
from tests.fakes.jobs import job_here

SUMMARY_KEYS = {"listed", "accepted", "quarantined", "excluded", "images", "seconds", "images_per_s", "accuracy"}
SUMMARY_KEYS |= {"world_size", "output"}
FOLDER_NAMES = ("cnn", "mobilenet", "saved")
CLASS_NAMES = ["liver", "lung", "skin"]
PNG_START = b"\x89PNG\r\n\x1a\n"

# The contract, written out once more: a change of the constants in `lib` must not go unnoticed.
SHARD_COLUMNS = {
    "image_id": pa.string(),
    "path": pa.string(),
    "label": pa.string(),
    "split": pa.string(),
    "group": pa.string(),
    "height": pa.int32(),
    "width": pa.int32(),
    "image": pa.binary(),
    "site": pa.string(),
    "columns": pa.string(),
}
MANIFEST_COLUMNS = {
    "image_id": pa.string(),
    "path": pa.string(),
    "size_bytes": pa.int64(),
    "checksum": pa.string(),
    "label": pa.string(),
    "split": pa.string(),
    "group": pa.string(),
    "verdict": pa.string(),
    "reason": pa.string(),
    "detail": pa.string(),
    "version": pa.string(),  # beside the contract: which version of the object was listed
    "sample_type": pa.string(),
    "pages": pa.int32(),
    "micrometres": pa.float32(),
    "black": pa.float32(),
    "white": pa.float32(),
    "levels": pa.int16(),
    "note": pa.string(),
    "height": pa.int32(),
    "width": pa.int32(),
    "compression": pa.string(),
    "jpeg_tables": pa.string(),
    "tags": pa.string(),
    "software": pa.string(),
    "site": pa.string(),
    "columns": pa.string(),
}
PREDICTION_COLUMNS = {
    "image_id": pa.string(),
    "path": pa.string(),
    "label": pa.string(),
    "predicted": pa.string(),
    "correct": pa.bool_(),
    "confidence": pa.float32(),
    "probabilities": pa.list_(pa.float32()),
    "feature_distance": pa.float32(),
    "unfamiliar": pa.bool_(),
    "group": pa.string(),
    "site": pa.string(),
    "columns": pa.string(),
}
GRAD_CAM_COLUMNS = {
    "image_id": pa.string(),
    "label": pa.string(),
    "predicted": pa.string(),
    "confidence": pa.float32(),
    "image": pa.binary(),
    "heatmap": pa.binary(),
}
THUMBNAIL_COLUMNS = {"image_id": pa.string(), "thumbnail": pa.binary()}
EMBEDDING_COLUMNS = {"image_id": pa.string(), "embedding": pa.list_(pa.float32())}
HISTORY_COLUMNS = {
    "epoch": pa.int32(),
    "phase": pa.string(),
    "loss": pa.float64(),
    "accuracy": pa.float64(),
    "val_loss": pa.float64(),
    "val_accuracy": pa.float64(),
    "learning_rate": pa.float64(),
    "seconds": pa.float64(),
    "images_per_s": pa.float64(),
    "wait_share": pa.float64(),
    "penalty": pa.float64(),
    "left_out_loss": pa.float64(),
    "left_out_accuracy": pa.float64(),
    "keeps_last": pa.bool_(),
    "gpu_utilisation": pa.float64(),
    "gpu_memory_gib": pa.float64(),
}


def columns(file: Path) -> dict[str, pa.DataType]:
    schema = pq.read_schema(file)
    return dict(zip(schema.names, schema.types, strict=True))


def read_json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def probabilities_by_name(predictions: Path) -> dict[str, list[float]]:
    table = pd.read_parquet(predictions)
    return {Path(row.path).name: list(row.probabilities) for row in table.itertuples()}


@pytest.fixture(scope="module")
def unlabelled(chain: Chain, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """`predict` with the small network on the test images, moved to folders that say nothing of their classes."""
    folder = tmp_path_factory.mktemp("predict")
    for index, file in enumerate(sorted((chain.source / "test").rglob("*.tif"))):
        place = folder / "slides" / f"tray_{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / file.name)
    flags = ("--model-dir", chain.output / "models" / "cnn", "--source", folder / "slides", "--output", folder / "out")
    return folder / "out", job_here("predict", *flags, "--max-bad-fraction", 0.2, "--min-confidence", 0.9)


def test_the_summary_counts_every_file_and_names_the_best_accuracy(chain: Chain) -> None:
    summary = chain.result.summary
    assert summary.keys() >= SUMMARY_KEYS
    counts = {name: summary[name] for name in ("listed", "accepted", "quarantined", "excluded", "images")}
    assert counts == {"listed": 41, "accepted": 37, "quarantined": 2, "excluded": 2, "images": 37}
    assert summary["models"].keys() == set(FOLDER_NAMES)
    assert summary["accuracy"] == max(summary["models"].values())
    assert (summary["world_size"], summary["output"]) == (1, str(chain.output))


def test_stdout_holds_nothing_but_the_summary_and_stderr_no_warning(chain: Chain) -> None:
    assert len(chain.result.stdout.splitlines()) == 1
    assert not [line for line in chain.result.stderr.splitlines() if "arning" in line or "rror" in line]


def test_the_small_network_learns_the_stripes(chain: Chain) -> None:
    assert chain.result.summary["models"]["cnn"] >= 0.75


def test_the_manifest_has_one_row_a_file_with_its_verdict_and_reason(chain: Chain) -> None:
    file = chain.output / "dataset" / "manifest.parquet"
    assert columns(file) == MANIFEST_COLUMNS
    manifest = pd.read_parquet(file).set_index("path")
    assert sorted(manifest.index) == sorted(
        path.relative_to(chain.source).as_posix() for path in chain.source.rglob("*") if path.is_file()
    )
    refused = manifest[manifest["verdict"] != "accepted"]
    assert refused["verdict"].to_dict() == {
        "train/lung/lung_train_003.tif": "quarantined",
        "test/liver/no_tiff.tif": "quarantined",
        "train/liver/notes.txt": "excluded",
        "train/liver/.DS_Store": "excluded",
    }
    reasons = refused["reason"].to_dict()
    assert reasons["test/liver/no_tiff.tif"] == "not_tiff"
    assert reasons["train/liver/notes.txt"] == "not_tiff_name"
    assert reasons["train/liver/.DS_Store"] == "hidden_file"
    assert "truncated" in reasons["train/lung/lung_train_003.tif"]
    assert manifest.loc[manifest["verdict"] == "quarantined", "detail"].str.len().min() > 0
    sizes = {path: (chain.source / path).stat().st_size for path in manifest.index}
    assert manifest["size_bytes"].to_dict() == sizes


def test_the_shards_read_as_one_table_with_each_accepted_image_once(chain: Chain) -> None:
    dataset = chain.output / "dataset"
    for file in (dataset / "images").glob("*.parquet"):
        assert columns(file) == SHARD_COLUMNS
    images = pq.read_table(dataset / "images").to_pandas()
    manifest = pd.read_parquet(dataset / "manifest.parquet")
    accepted = manifest[manifest["verdict"] == "accepted"]
    assert sorted(images["image_id"]) == sorted(accepted["image_id"])
    assert images.set_index("image_id")["split"].to_dict() == accepted.set_index("image_id")["split"].to_dict()
    assert set(images["height"]) == set(images["width"]) == {64}
    decoded = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for image in images["image"]]
    assert {image.shape for image in decoded} == {(48, 48, 3)}


def test_the_account_of_the_dataset_adds_up_by_split_class_and_verdict(chain: Chain) -> None:
    record = read_json(chain.output / "dataset" / "dataset.json")
    assert record["class_names"] == CLASS_NAMES
    assert record["image_size"] == 48
    assert record["encoding"] == {"format": "jpeg", "quality": 95}
    for name in ("source", "settings", "versions", "content_hash"):
        assert record[name]
    totals = dict.fromkeys(("accepted", "quarantined", "excluded"), 0)
    for by_class in record["counts_by_split"].values():
        for by_verdict in by_class.values():
            for verdict, count in by_verdict.items():
                totals[verdict] += count
    assert totals | {"listed": sum(totals.values())} == record["counts"]
    train = record["counts_by_split"]["train"]
    assert {name: counts["accepted"] for name, counts in train.items()} == {"liver": 9, "lung": 8, "skin": 9}
    assert {
        name: counts["accepted"] for name, counts in record["counts_by_split"]["validation"].items()
    } == dict.fromkeys(CLASS_NAMES, 1)
    assert {name: counts["accepted"] for name, counts in record["counts_by_split"]["test"].items()} == {
        "liver": 4,
        "lung": 4,
    }


def test_the_folder_layout_opens_with_keras(chain: Chain) -> None:
    import keras

    for split, count, names in (("train", 26, CLASS_NAMES), ("test", 8, ["liver", "lung"])):
        images = keras.utils.image_dataset_from_directory(
            chain.output / "dataset" / split, image_size=(48, 48), batch_size=64, shuffle=False, verbose=False
        )
        assert images.class_names == names
        assert len(images.file_paths) == count
        (batch, _), *others = list(images)
        assert (batch.shape, others) == ((count, 48, 48, 3), [])


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_a_model_folder_is_complete(chain: Chain, name: str) -> None:
    folder = chain.output / "models" / name
    record = read_json(folder / "model.json")
    assert record["name"] == name
    assert record["class_names"] == CLASS_NAMES
    assert record["image_size"] == 48
    assert record["output"] == "logits"
    assert record["world_size"] == 1
    assert record["dataset_hash"] == read_json(chain.output / "dataset" / "dataset.json")["content_hash"]
    model = ModelRecord.read(Location(str(folder)))
    assert set(ModelRecord.model_fields) - model.model_fields_set == {"sweep", "duplicates", "counts"}
    assert columns(folder / "history.parquet") == HISTORY_COLUMNS
    history = pd.read_parquet(folder / "history.parquet")
    assert list(history["epoch"]) == list(range(1, record["metrics"]["epochs"] + 1))
    is_solved = name != "cnn"  # a head on features
    assert history["keeps_last"].all() != is_solved  # six validation images choose no epoch
    best = history.loc[history["left_out_loss"].idxmin()] if is_solved else history.iloc[-1]
    assert record["metrics"]["best_epoch"] == best["epoch"]
    assert record["metrics"]["val_loss"] == best["val_loss"]
    assert (folder / "curves.png").read_bytes().startswith(PNG_START)
    assert list((folder / "tensorboard").rglob("events.out.tfevents.*"))
    for kind in ("checkpoint", "best"):  # solving again is as quick as reading one
        assert bool(list((folder / "checkpoints").glob(f"{kind}-*.npz"))) != is_solved


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_an_evaluation_folder_is_complete(chain: Chain, name: str) -> None:
    folder = chain.output / "evaluations" / name
    files = list((folder / "predictions").glob("*.parquet"))
    assert files
    for file in files:
        assert columns(file) == PREDICTION_COLUMNS
        assert columns(folder / "embeddings" / file.name) == EMBEDDING_COLUMNS
    record, metrics = read_json(folder / "evaluation.json"), read_json(folder / "metrics.json")
    assert record["metrics"] == metrics
    assert EvaluationRecord.read(Location(str(folder))).model_fields_set == set(EvaluationRecord.model_fields)
    assert metrics["accuracy"] == chain.result.summary["models"][name]
    for plot in ("confusion_matrix", "scatter", "swarm", "reliability", "per_class"):
        assert (folder / "plots" / f"{plot}.png").read_bytes().startswith(PNG_START)


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_predictions_open_as_one_table_with_one_row_an_image(chain: Chain, name: str) -> None:
    folder = chain.output / "evaluations" / name
    predictions = pd.read_parquet(folder / "predictions")
    assert predictions.equals(pq.read_table(folder / "predictions").to_pandas())
    images = pq.read_table(chain.output / "dataset" / "images").to_pandas()
    test = images[images["split"] == "test"].set_index("image_id")
    assert sorted(predictions["image_id"]) == sorted(test.index)
    assert list(predictions["label"]) == list(test.loc[predictions["image_id"], "label"])
    probabilities = np.stack(predictions["probabilities"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert list(predictions["predicted"]) == [CLASS_NAMES[best] for best in probabilities.argmax(axis=1)]
    assert list(predictions["correct"]) == list(predictions["label"] == predictions["predicted"])
    np.testing.assert_array_equal(predictions["confidence"], probabilities.max(axis=1))
    assert predictions["correct"].mean() == chain.result.summary["models"][name]
    embeddings = pd.read_parquet(folder / "embeddings")
    assert list(embeddings["image_id"]) == list(predictions["image_id"])
    assert len({len(embedding) for embedding in embeddings["embedding"]}) == 1


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_every_image_has_a_thumbnail_in_the_part_of_its_prediction(chain: Chain, name: str) -> None:
    folder = chain.output / "evaluations" / name
    parts = {file.name: pq.read_table(file) for file in (folder / "thumbnails").glob("part-*.parquet")}
    assert parts.keys() == {file.name for file in (folder / "predictions").iterdir()}
    for file, table in parts.items():
        assert columns(folder / "thumbnails" / file) == THUMBNAIL_COLUMNS
        assert table["image_id"].equals(pq.read_table(folder / "predictions" / file)["image_id"])
        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in table["thumbnail"].to_pylist())


def test_the_shards_of_the_test_images_are_read_once_a_model_and_once_for_the_checks(chain: Chain) -> None:
    shards = read_json(chain.output / "dataset" / "dataset.json")["shards"]
    of_test = [shard["file"] for shard in shards if shard["split"] == "test"]
    assert {shard: chain.shard_reads[shard] for shard in of_test} == dict.fromkeys(of_test, len(FOLDER_NAMES) + 1)


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_the_most_confident_errors_have_a_heatmap(chain: Chain, name: str) -> None:
    folder = chain.output / "evaluations" / name
    for part in (folder / "predictions").glob("*.parquet"):
        predictions = pd.read_parquet(part)
        errors = predictions[~predictions["correct"].astype(bool)].sort_values("confidence", ascending=False)
        file = folder / "grad_cam" / part.name
        assert file.exists() == bool(len(errors))
        if len(errors):
            assert columns(file) == GRAD_CAM_COLUMNS
            assert set(pd.read_parquet(file)["confidence"]) == set(errors["confidence"][:3])


def test_a_class_without_test_image_has_no_recall_and_does_not_shift_the_others(chain: Chain) -> None:
    metrics = read_json(chain.output / "evaluations" / "cnn" / "metrics.json")
    by_class = {row["class_name"]: row for row in metrics["per_class"]}
    assert list(by_class) == CLASS_NAMES
    assert (by_class["skin"]["support"], by_class["skin"]["recall"], by_class["skin"]["f1"]) == (0, None, None)
    predictions = pd.read_parquet(chain.output / "evaluations" / "cnn" / "predictions")
    for name in ("liver", "lung"):
        assert by_class[name]["recall"] == predictions[predictions["label"] == name]["correct"].mean()
    assert np.array(metrics["confusion_matrix"]).sum(axis=1).tolist() == [4, 4, 0]


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_the_saved_network_opens_in_safe_mode_and_gives_the_same_probabilities(chain: Chain, name: str) -> None:
    import keras

    images = pq.read_table(chain.output / "dataset" / "images").to_pandas().set_index("image_id")
    predictions = pd.read_parquet(chain.output / "evaluations" / name / "predictions")
    encoded = [np.frombuffer(image, np.uint8) for image in images.loc[predictions["image_id"], "image"]]
    pixels = np.stack([cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for data in encoded])
    network = keras.saving.load_model(chain.output / "models" / name / "model.keras", safe_mode=True)
    logits = network(pixels, training=False)
    probabilities = np.asarray(keras.ops.softmax(logits))
    np.testing.assert_allclose(probabilities, np.stack(predictions["probabilities"]), atol=1e-4)


def test_the_report_names_every_model_and_needs_no_network(chain: Chain) -> None:
    page = (chain.output / "report" / "report.html").read_text()
    record = read_json(chain.output / "report" / "report.json")
    assert [model["name"] for model in record["models"]] == list(FOLDER_NAMES)
    assert all(name in page for name in FOLDER_NAMES)
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_no_partial_file_is_left(chain: Chain) -> None:
    assert not list(chain.output.rglob("*.partial"))
    assert not list(chain.output.rglob("run.json"))


def test_images_without_labels_are_predicted_as_the_evaluation_did(
    chain: Chain, unlabelled: tuple[Path, dict[str, Any]]
) -> None:
    folder, summary = unlabelled
    assert summary.keys() >= SUMMARY_KEYS - {"accuracy", "world_size"}
    assert {name: summary[name] for name in ("listed", "accepted", "quarantined", "excluded")} == {
        "listed": 9,
        "accepted": 8,
        "quarantined": 1,
        "excluded": 0,
    }
    found = probabilities_by_name(folder / "predictions")
    expected = probabilities_by_name(chain.output / "evaluations" / "cnn" / "predictions")
    assert found.keys() == expected.keys()
    for name, probabilities in expected.items():
        np.testing.assert_allclose(found[name], probabilities, atol=1e-5)


def test_predictions_without_labels_have_no_verdict_but_say_what_is_doubtful(
    unlabelled: tuple[Path, dict[str, Any]],
) -> None:
    folder, summary = unlabelled
    for file in (folder / "predictions").glob("*.parquet"):
        assert columns(file) == PREDICTION_COLUMNS | {"abstained": pa.bool_()}
    predictions = pd.read_parquet(folder / "predictions")
    assert list(predictions["abstained"]) == list(predictions["confidence"] < 0.9)
    for counted in (summary, read_json(folder / "predictions.json")):
        assert {name: counted[name] for name in ("unfamiliar", "abstained")} == {
            name: None if predictions[name].isna().all() else predictions[name].sum()
            for name in ("unfamiliar", "abstained")
        }
    assert not (folder / "grad_cam").exists()
    assert predictions["label"].isna().all()
    assert predictions["correct"].isna().all()
    manifest = pd.read_parquet(folder / "manifest.parquet")
    assert list(manifest[manifest["verdict"] == "quarantined"]["reason"]) == ["not_tiff"]


@pytest.mark.usefixtures("local_ray")
def test_a_run_from_python_finds_what_the_command_has_done_and_returns_its_tables(chain: Chain) -> None:
    before = chain.file_times("dataset", "models", "evaluations")
    result = lib.run(**chain.keywords)
    assert chain.file_times("dataset", "models", "evaluations") == before
    summary = chain.result.summary
    assert result.manifest["verdict"].value_counts().to_dict() == {"accepted": 37, "quarantined": 2, "excluded": 2}
    assert result.measures["accuracy"].to_dict() == summary["models"]
    assert result.history.groupby("model")["epoch"].max().to_dict()["cnn"] == 8
    assert result.predictions.groupby("model").size().to_dict() == dict.fromkeys(summary["models"], 8)
    cnn = result.evaluations["cnn"]
    assert int(cnn.confusion_matrix.to_numpy().sum()) == len(cnn.predictions) == 8
    assert cnn.per_class.loc["liver", "support"] == 4
    shown = result._repr_html_()
    assert shown.startswith(f"<p><strong>{result.verdict}")
    assert shown.count("<img") == 2
    assert result.report == f"{chain.output}/report/report.html"


@pytest.mark.usefixtures("local_ray")
def test_the_same_command_again_does_nothing_and_another_model_only_trains_that_one(chain: Chain) -> None:
    folders = ("dataset", *(f"{kind}/{name}" for kind in ("models", "evaluations") for name in FOLDER_NAMES))
    before, first = chain.file_times(*folders), chain.result.summary
    again = chain.again()
    assert chain.file_times(*folders) == before
    repeated = ("accuracy", "models", "listed", "accepted", "quarantined", "excluded")
    assert {name: again[name] for name in repeated} == {name: first[name] for name in repeated}
    more = chain.again("cnn")
    assert chain.file_times(*folders) == before
    assert more["models"] == first["models"] | {"cnn-2": first["models"]["cnn"]}  # the same seed
