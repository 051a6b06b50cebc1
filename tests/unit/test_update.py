"""`convert --update`: only what is new or changed is fetched, and nothing that is gone stays."""

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lib.config.conversion import ConvertConfig
from lib.errors import SettingsError
from lib.storage.location import Location, StoredFile
from tests.fakes.conversion import convert_here
from tests.fakes.tiffs import write_source, write_tiff


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_source(tmp_path / "source", train=8, test=2)
    convert_here(config_of(tmp_path))
    return tmp_path


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are fetched from now on."""
    paths: list[str] = []
    fetch = Location.read_listed

    def noted(folder: Location, files: list[StoredFile]) -> Any:
        paths.extend(file.path for file in files)
        return fetch(folder, files)

    monkeypatch.setattr(Location, "read_listed", noted)
    return paths


def config_of(folder: Path, **settings: Any) -> ConvertConfig:
    defaults = {"source": str(folder / "source"), "output": str(folder / "dataset"), "images_per_shard": 3}
    # A range that is given, since files are fetched to measure one too.
    return ConvertConfig.model_validate(defaults | {"image_size": 32, "tiff_range": "0:255"} | settings)


def images(folder: Path) -> dict[str, tuple[str, bytes]]:
    rows = pq.read_table(folder / "dataset" / "images").to_pylist()
    found = {row["path"]: (row["split"], row["image"]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_without_the_flag_a_changed_source_is_refused(folder: Path) -> None:
    write_tiff(folder / "source/train/liver/new.tif", 1)
    with pytest.raises(SettingsError, match="source_listing"):
        convert_here(config_of(folder))


def test_only_new_and_changed_files_are_fetched_and_those_that_are_gone_are_dropped(
    folder: Path, fetched: list[str]
) -> None:
    before = images(folder)
    gone, changed = "train/liver/liver_001.tif", "train/lung/lung_002.tif"
    (folder / "source" / gone).unlink()
    write_tiff(folder / "source" / changed, 77)
    os.utime(folder / "source" / changed, (1, 1))
    for name in ("train/liver/new.tif", "test/lung/new.tif"):
        write_tiff(folder / "source" / name, hash(name) % 1000)
    record = convert_here(config_of(folder, update=True))
    after = images(folder)
    assert sorted(fetched) == sorted([changed, "train/liver/new.tif", "test/lung/new.tif"])
    assert after.keys() == before.keys() - {gone} | {"train/liver/new.tif", "test/lung/new.tif"}
    assert {path: after[path] for path in before.keys() - {gone, changed}} == {
        path: before[path] for path in before.keys() - {gone, changed}
    }
    assert after[changed][1] != before[changed][1]
    assert record.counts.listed == record.counts.accepted == len(after) == 21
    assert sum(shard.images for shard in record.shards) == 21


def test_an_updated_folder_is_complete_for_the_same_command(folder: Path, fetched: list[str]) -> None:
    write_tiff(folder / "source/train/liver/new.tif", 1)
    record = convert_here(config_of(folder, update=True))
    fetched.clear()
    assert convert_here(config_of(folder)) == convert_here(config_of(folder, update=True)) == record
    assert fetched == []


def test_other_settings_are_refused_all_the_same(folder: Path) -> None:
    write_tiff(folder / "source/train/liver/new.tif", 1)
    with pytest.raises(SettingsError, match="image_size"):
        convert_here(config_of(folder, update=True, image_size=48))


def test_an_update_of_jpeg_folders_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="--layout folder"):
        config_of(folder, update=True, layout="folder")
