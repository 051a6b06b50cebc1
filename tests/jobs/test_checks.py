"""The checks of a converted data set: planted copies, the colour baseline, and what a rerun or a fault leaves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import lib.evaluation.checks.run
from lib.config.base import JobConfig
from lib.config.conversion import ConvertConfig
from lib.dataset.shard_source import ShardSource
from lib.errors import SettingsError, StorageError
from lib.evaluation.checks.pairs import write_pair_thumbnails
from lib.evaluation.checks.run import run_checks
from lib.folders.checks import DESCRIPTOR_SCHEMA, NEAR_DUPLICATE_SCHEMA, ChecksRecord
from lib.ingest.convert import convert_images
from lib.storage.location import Location
from tests.fakes.sources import write_tiff
from tests.fakes.textures import CHANGES, textured_image

pytestmark = pytest.mark.usefixtures("local_ray")

TINTS = {"liver": (1.0, 0.5, 0.5), "lung": (0.5, 1.0, 0.5)}


@pytest.fixture(scope="module")
def dataset(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    """Two classes that colour tells apart, and a changed copy of `train/liver/0.tif` in `test/` for each change."""
    folder = tmp_path_factory.mktemp("checks")
    for number, (label, tint) in enumerate(TINTS.items()):
        for split, count in (("train", 10), ("test", 4)):
            for index in range(count):
                image = textured_image(1000 * number + index + 100 * (split == "test")) * np.array(tint)
                write_tiff(folder / "source" / split / label / f"{index}.tif", image.astype(np.uint8))
    original = (textured_image(0) * np.array(TINTS["liver"])).astype(np.uint8)
    for name, change in CHANGES.items():
        write_tiff(folder / "source" / "test" / "liver" / f"{name}.tif", change(original))
    convert_images(
        ConvertConfig(
            source=str(folder / "source"), output=str(folder / "dataset"), image_size=64, images_per_shard=6,
            validation_fraction=0.0,
        )
    )  # fmt: skip
    return ShardSource.open(Location(str(folder / "dataset")))


@pytest.fixture(scope="module")
def checked(dataset: ShardSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked")
    run_checks(dataset, "test", Location(str(folder)), JobConfig())
    return folder


def files(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_planted_copies_and_only_these_are_named(checked: Path) -> None:
    table = pq.read_table(checked / "near_duplicates.parquet")
    assert table.schema.equals(NEAR_DUPLICATE_SCHEMA)
    assert {row["path"] for row in table.to_pylist()} == {f"test/liver/{name}.tif" for name in CHANGES}
    assert set(table["other_path"].to_pylist()) == {"train/liver/0.tif"}
    record = json.loads((checked / "checks.json").read_text())
    assert record["near_duplicates"] == record["near_duplicate_images"] == len(CHANGES)
    assert max(table["hamming"].to_pylist()) <= record["most_different_bits"] == 10


def test_pictures_are_taken_of_the_training_images_alone_from_the_shards_that_hold_them(
    checked: Path, dataset: ShardSource, tmp_path: Path
) -> None:
    (original,) = set(pq.read_table(checked / "near_duplicates.parquet")["other_image_id"].to_pylist())
    table = pq.read_table(checked / "thumbnails")
    assert table["image_id"].to_pylist() == [original]
    shutil.copytree(dataset.folder.path, tmp_path / "dataset")
    for shard in (tmp_path / "dataset" / "images").iterdir():
        if original not in pq.read_table(shard)["image_id"].to_pylist():
            shard.unlink()
    assert len(list((tmp_path / "dataset" / "images").iterdir())) == 1
    alone = ShardSource.open(Location(str(tmp_path / "dataset")))
    shutil.copytree(checked / "descriptors", tmp_path / "checks" / "descriptors")
    checks, pairs = Location(str(tmp_path / "checks")), pq.read_table(checked / "near_duplicates.parquet")
    write_pair_thumbnails(pairs, "test", alone, checks, checks)
    assert pq.read_table(tmp_path / "checks" / "thumbnails").equals(table)
    write_pair_thumbnails(pairs, "test", alone, checks, Location(str(tmp_path / "evaluation")))
    assert not (tmp_path / "evaluation").exists()  # the checks have them all


def test_every_image_has_one_row_of_descriptors_in_the_file_of_its_shard(checked: Path, dataset: ShardSource) -> None:
    shards = {shard.file: shard.images for shard in dataset.record.shards}
    tables = {file.name: pq.read_table(file) for file in (checked / "descriptors").iterdir()}
    assert {name: table.num_rows for name, table in tables.items()} == shards
    assert all(table.schema.equals(DESCRIPTOR_SCHEMA) for table in tables.values())
    images = pq.read_table(dataset.folder.path + "/images", columns=["image_id"])["image_id"].to_pylist()
    assert sorted(images) == sorted(name for table in tables.values() for name in table["image_id"].to_pylist())


def test_the_baseline_tells_colours_apart(checked: Path) -> None:
    record = json.loads((checked / "checks.json").read_text())
    rows = pq.read_table(checked / "baseline.parquet").to_pylist()
    assert record["baseline"]["accuracy"] == sum(row["correct"] for row in rows) / len(rows) == 1
    assert record["baseline"]["images"] == len(rows) == 8 + len(CHANGES)


def test_a_second_model_finds_the_checks_done(checked: Path, dataset: ShardSource) -> None:
    before = files(checked)
    again = run_checks(dataset, "test", Location(str(checked)), JobConfig(verbose=True))
    assert again == ChecksRecord.read(Location(str(checked)))
    assert files(checked) == before


def test_checks_of_another_split_are_refused(checked: Path, dataset: ShardSource) -> None:
    with pytest.raises(SettingsError, match="split is 'test' there and 'train' here"):
        run_checks(dataset, "train", Location(str(checked)), JobConfig())


def test_checks_that_were_cut_short_do_not_count_and_are_finished_by_a_rerun(
    dataset: ShardSource, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(lib.evaluation.checks.run, "write_baseline", fail)
        with pytest.raises(StorageError):
            run_checks(dataset, "test", Location(str(tmp_path)), JobConfig())
    assert not (tmp_path / "checks.json").exists()
    lost = min((tmp_path / "descriptors").iterdir())
    lost.unlink()
    before = files(tmp_path / "descriptors")
    run_checks(dataset, "test", Location(str(tmp_path)), JobConfig())
    after = files(tmp_path / "descriptors")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {lost.name}
    for name in ("near_duplicates.parquet", "baseline.parquet"):
        assert pq.read_table(tmp_path / name).equals(pq.read_table(checked / name))
