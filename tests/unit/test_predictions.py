"""Predictions as rows, and the account of `predict`: what became of each listed file, and what is doubtful."""

import logging
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from lib.config.conversion import ConvertConfig
from lib.config.prediction import PredictConfig
from lib.dataset.graph import without_parts
from lib.dataset.shard_source import ShardSource
from lib.errors import SettingsError, TissueError
from lib.evaluation import predict
from lib.evaluation.predictor import most_confident_errors, prediction_table
from lib.folders.manifest import FILE_FIELDS, LISTING_SCHEMA, MANIFEST_SCHEMA, PIXEL_FIELDS, Accounting
from lib.folders.parts import part_name
from lib.folders.predictions import (
    ABSTAINING_LOGIT_SCHEMA,
    ABSTAINING_SCHEMA,
    LOGIT_SCHEMA,
    PREDICTION_SCHEMA,
    VERDICT_SCHEMA,
    ExtraColumns,
    PredictionAccount,
    PredictionsRecord,
    read_account,
    with_account,
)
from lib.ingest.listing import Listing, list_unlabelled
from lib.runs.summaries import prediction_summary
from lib.storage.location import Location
from lib.storage.tables import write_table
from tests.fakes.conversion import convert_here
from tests.fakes.records import model_record

CLASS_NAMES = ["liver", "lung"]
NULLABLE = ("label", "correct", "feature_distance", "unfamiliar", "group", "site", "columns")


class FakeReference:
    """The distance of an image is its first feature; beyond 0.5 it is unfamiliar."""

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings[:, 0]

    def unfamiliar(self, distances: np.ndarray) -> np.ndarray:
        return distances > 0.5


def images_table(labels: list[str | None]) -> pa.Table:
    names = [f"id-{row}" for row in range(len(labels))]
    said = [f"of {name}" if row else None for row, name in enumerate(names)]
    columns = {"image_id": names, "path": names, "label": labels} | dict.fromkeys(("group", "site", "columns"), said)
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def classified(second_class: list[float], distances: list[float] | None = None) -> Any:
    """Images with these probabilities of the second of two classes."""
    probabilities = np.array([[1 - p, p] for p in second_class], np.float32).reshape(-1, 2)
    embeddings = np.array([[d, 1] for d in distances or [0.0] * len(second_class)], np.float32).reshape(-1, 2)
    return SimpleNamespace(probabilities=probabilities, logits=probabilities - 3, embeddings=embeddings)


def table_of(labels: list[str | None], said: Any, reference: Any = None, **columns: Any) -> pa.Table:
    return prediction_table(images_table(labels), said, CLASS_NAMES, reference, ExtraColumns(**columns))


def test_a_row_says_what_was_predicted_and_whether_it_is_right() -> None:
    table = table_of(["liver", "liver", None], classified([0.25, 0.75, 0.5]))
    assert table.schema == PREDICTION_SCHEMA
    assert table["predicted"].to_pylist() == ["liver", "lung", "liver"]
    assert table["correct"].to_pylist() == [True, False, None]
    assert [table[name].to_pylist() for name in ("group", "site", "columns")] == [[None, "of id-1", "of id-2"]] * 3
    assert table["confidence"].to_pylist() == [0.75, 0.75, 0.5]
    assert table["probabilities"].to_pylist() == [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("columns", "schema", "further"),
    [
        ({}, PREDICTION_SCHEMA, []),
        ({"logits": True}, LOGIT_SCHEMA, ["logits"]),
        ({"min_confidence": 0.0}, ABSTAINING_SCHEMA, ["abstained"]),
        ({"logits": True, "min_confidence": 0.9}, ABSTAINING_LOGIT_SCHEMA, ["logits", "abstained"]),
    ],
)
@pytest.mark.parametrize("count", [0, 2])
def test_the_columns_are_those_of_the_contract_whatever_the_rows(
    columns: dict[str, Any], schema: pa.Schema, further: list[str], count: int
) -> None:
    table = table_of([None] * count, classified([0.4] * count), **columns)
    assert table.schema == schema
    always = ["image_id", "path", "label", "predicted", "correct", "confidence", "probabilities"]
    assert schema.names == [*always, "feature_distance", "unfamiliar", "group", "site", "columns", *further]
    assert [field.name for field in schema if field.nullable] == list(NULLABLE)


def test_familiarity_is_open_without_a_reference() -> None:
    table = table_of([None, None], classified([0.1, 0.2], [0.0, 0.9]))
    assert table["feature_distance"].to_pylist() == table["unfamiliar"].to_pylist() == [None, None]


def test_distances_come_from_the_reference_of_the_model() -> None:
    table = table_of([None, None], classified([0.1, 0.2], [0.25, 0.75]), FakeReference())
    assert table["feature_distance"].to_pylist() == [0.25, 0.75]
    assert table["unfamiliar"].to_pylist() == [False, True]


def test_the_model_abstains_below_the_least_confidence_and_not_at_it() -> None:
    said = classified([0.25, 0.75, 0.5, 0.99])
    assert table_of([None] * 4, said, min_confidence=0.75)["abstained"].to_pylist() == [False, False, True, False]
    assert table_of([None] * 4, said, min_confidence=0.0)["abstained"].to_pylist() == [False] * 4


def test_logits_are_in_the_order_of_the_classes() -> None:
    said = classified([0.25, 0.75])
    np.testing.assert_array_equal(table_of([None] * 2, said, logits=True)["logits"].to_pylist(), said.logits)


ROWS = st.lists(st.tuples(st.sampled_from([*CLASS_NAMES, None]), st.floats(0, 1, width=32)), max_size=12)


@given(rows=ROWS, most=st.integers(0, 4))
def test_the_most_confident_errors_are_wrong_and_no_other_error_is_more_confident(rows: list[Any], most: int) -> None:
    table = table_of([label for label, _ in rows], classified([p for _, p in rows]))
    found = most_confident_errors(table, most).tolist()
    correct, confidence = table["correct"].to_pylist(), table["confidence"].to_pylist()
    errors = [row for row, is_right in enumerate(correct) if is_right is False]
    assert found == sorted(errors, key=lambda row: (-confidence[row], row))[:most]


def unit(verdicts: list[tuple[str, str | None]]) -> pa.Table:
    rows = [{"image_id": name, "checksum": "c", "reason": why, "detail": why} for name, why in verdicts]
    return pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)


def write_part(folder: Path, place: int, predictions: pa.Table, refused: int) -> None:
    verdicts = [
        (f"{place}-{row}", "not_tiff" if row < refused else None) for row in range(predictions.num_rows + refused)
    ]
    table = with_account(predictions, unit(verdicts))
    write_table(table, Location(str(folder)) / "predictions" / f"part-{place}.parquet")


def test_findings_add_up_over_parts_and_know_refused_images(tmp_path: Path) -> None:
    for place, distances in enumerate(([0.1, 0.9], [], [0.8, 0.9, 0.2])):
        said = classified([0.25] * len(distances), distances)
        predictions = table_of([None] * len(distances), said, FakeReference(), min_confidence=0.8)
        write_part(tmp_path, place, predictions, refused=place)
    account = read_account(Location(str(tmp_path)))
    assert (account.unfamiliar, account.abstained) == (3, 5)
    assert account.verdicts.schema == VERDICT_SCHEMA
    ids = ["0-0", "0-1", "1-0", "2-0", "2-1", "2-2", "2-3", "2-4"]
    assert account.verdicts["image_id"].to_pylist() == ids
    reasons = dict(zip(ids, account.verdicts["reason"].to_pylist(), strict=True))
    assert [name for name in ids if reasons[name]] == ["1-0", "2-0", "2-1"]


def test_findings_that_nobody_looked_for_are_none_and_not_zero(tmp_path: Path) -> None:
    write_part(tmp_path, 0, table_of([None], classified([0.25])), refused=0)
    account = read_account(Location(str(tmp_path)))
    assert (account.unfamiliar, account.abstained) == (None, None)


def listing_of(images: list[str], excluded: list[str]) -> Listing:
    def table(names: list[str], schema: pa.Schema, **columns: Any) -> pa.Table:
        rows = [{"image_id": name, "path": f"{name}.tif", "size_bytes": 7, "version": "v", **columns} for name in names]
        return pa.Table.from_pylist(rows, schema=schema)

    return Listing(
        table(images, LISTING_SCHEMA, checksum="listed"),
        table(excluded, MANIFEST_SCHEMA, verdict="excluded", reason="not_tiff_name"),
        [],
    )


@given(
    names=st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=12),
    refused=st.sets(st.integers(0, 11)),
    order=st.randoms(use_true_random=False),
)
def test_the_manifest_has_each_listed_file_once_with_its_own_verdict(
    names: list[str], refused: set[int], order: Any
) -> None:
    listing = listing_of(names, ["notes"])
    verdicts = [(name, "not_tiff" if row in refused else None) for row, name in enumerate(names)]
    shuffled = order.sample(verdicts, len(verdicts))
    manifest = predict.manifest_of(listing, pa.concat_tables([unit(shuffled[:5]), unit(shuffled[5:])]))
    assert manifest.schema == MANIFEST_SCHEMA
    nothing = dict.fromkeys(field.name for field in [*PIXEL_FIELDS, *FILE_FIELDS])
    expected = [
        row | nothing | {"checksum": "c", "reason": why, "detail": why, "verdict": "quarantined" if why else "accepted"}
        for row, (_, why) in zip(listing.images.to_pylist(), verdicts, strict=True)
    ]
    assert manifest.to_pylist() == [*expected, *listing.excluded.to_pylist()]
    Accounting.of(manifest, listing.ids)


def test_an_image_without_a_verdict_does_not_go_unnoticed() -> None:
    listing = listing_of(["a", "b", "c"], [])
    manifest = predict.manifest_of(listing, unit([("c", None), ("a", None)]))
    assert manifest["image_id"].to_pylist() == ["a", "c"]
    with pytest.raises(TissueError, match="image b is missing"):
        Accounting.of(manifest, listing.ids)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PredictConfig:
    """A complete model folder with a network of no layers, and one TIFF, of which an actor is sure not at all."""
    model_record().write(Location(str(tmp_path / "model")))
    with zipfile.ZipFile(tmp_path / "model/model.keras", "w") as network:
        network.writestr("config.json", "{}")
    (tmp_path / "source").mkdir()
    tifffile.imwrite(tmp_path / "source/a.tif", np.zeros((20, 20, 3), np.uint8), photometric="rgb")
    folders = {name: str(tmp_path / name) for name in ("source", "output")}
    config = PredictConfig(model_dir=str(tmp_path / "model"), **folders)
    listing = list_unlabelled(Location(config.source))
    verdicts = unit([(name, None) for name in listing.images["image_id"].to_pylist()])
    monkeypatch.setattr(predict, "source_for", lambda *_: None)
    monkeypatch.setattr(predict, "predict_units", lambda *_: SimpleNamespace(seconds=2.0, images=1))
    monkeypatch.setattr(predict, "read_account", lambda _: PredictionAccount(verdicts, None, 1))
    return config


@pytest.mark.parametrize(
    "change", [{"test_time_augmentation": "flips"}, {"logits": True}, {"min_confidence": 0.5}, {"images_per_shard": 3}]
)
def test_a_setting_that_changes_the_predictions_is_another_run(prepared: PredictConfig, change: dict[str, Any]) -> None:
    first = predict.predict_images(prepared)
    assert predict.predict_images(prepared.part(PredictConfig, num_actors=2)) == first
    with pytest.raises(SettingsError, match=rf"another run \({next(iter(change))} is"):
        predict.predict_images(prepared.part(PredictConfig, **change))


@pytest.mark.parametrize(("unfamiliar", "warns"), [(2, True), (1, False), (0, False), (None, False)])
def test_a_tenth_of_unfamiliar_images_is_worth_a_warning(
    unfamiliar: int | None, warns: bool, caplog: pytest.LogCaptureFixture, prepared: PredictConfig
) -> None:
    with caplog.at_level(logging.WARNING):
        predict.warn_of_unfamiliar(unfamiliar, 10, prepared)
    assert (f"{unfamiliar} of 10 images" in caplog.text) == warns


def test_the_record_and_the_summary_count_what_is_doubtful(prepared: PredictConfig) -> None:
    record = predict.predict_images(prepared)
    assert (record.images, record.unfamiliar, record.abstained) == (1, None, 1)
    assert record.model_fields_set == set(PredictionsRecord.model_fields)
    summary = prediction_summary(record, prepared.output)
    assert (summary["accepted"], summary["unfamiliar"], summary["abstained"]) == (1, None, 1)


KINDS = {
    "8-bit": (np.uint8, 255, "uint8=0:255"),
    "16-bit": (np.uint16, 65535, "uint16="),
    "12 of 16 bits": (np.uint16, 4095, "uint16="),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
def test_predict_sees_the_very_bytes_that_training_saw(kind: str, compression: str | None, tmp_path: Path) -> None:
    """The pixels that reach the network, from `convert`'s shards, and from the same TIFFs by `model.json`."""
    dtype, white, tiff_range = KINDS[kind]
    random = np.random.default_rng(7)
    for number in range(6):
        place = tmp_path / "source/train" / CLASS_NAMES[number % 2] / f"{number}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = blotches(random, white).astype(dtype)
        tifffile.imwrite(place, pixels, photometric="rgb", compression=compression)
    config = ConvertConfig(
        source=str(tmp_path / "source"), output=str(tmp_path / "dataset"),
        image_size=24, quality=90, validation_fraction=0,
    )  # fmt: skip
    convert_here(config)
    dataset = ShardSource.open(Location(config.output))
    assert dataset.image_policy.tiff_range.startswith(tiff_range)
    # As `lib.training` records them.
    model = model_record(image_policy=dataset.image_policy, image_encoding=dataset.record.encoding)
    source = Location(config.source)
    tiffs = predict.source_for(model, source, list_unlabelled(source), None)

    seen, found = (
        {row["path"]: row["image"] for unit in units for row in decoder(unit).to_pylist()}
        for units, decoder in (
            (dataset.units("train"), dataset.decoder),
            (tiffs.units(None), tiffs.decoder),
        )
    )
    assert len(seen) == 6
    assert min(np.frombuffer(image, np.uint8).std() for image in seen.values()) > 10
    assert found == seen


def blotches(random: np.random.Generator, white: int) -> np.ndarray:
    """Blotches of all colours, up to white, of 40 x 56 pixels."""
    coarse = random.uniform(0, white, (5, 7, 3))
    return np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1) * random.uniform(0.7, 1, (40, 56, 1))


def test_a_unit_is_done_when_each_folder_has_its_part_as_an_earlier_version_wrote_no_thumbnails(tmp_path: Path) -> None:
    units = [pa.table({"position": [0, 1]}), pa.table({"position": [2]}), pa.table({"position": [3]})]
    predictions, thumbnails = Location(str(tmp_path / "predictions")), Location(str(tmp_path / "thumbnails"))
    for folder, firsts in ((predictions, (0, 2)), (thumbnails, (2,))):
        folder.write_many({part_name(first): b"" for first in firsts})
    assert without_parts(units, predictions) == [units[2]]
    assert without_parts(units, predictions, thumbnails) == [units[0], units[2]]
