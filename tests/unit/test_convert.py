"""Conversion, unit by unit in this process: what is written, what is counted, what a second run does."""

import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.config.conversion import ConvertConfig
from lib.dataset.shard_source import ShardSource
from lib.errors import DataError, SettingsError, TissueError, TooManyBadImagesError
from lib.folders.dataset import DatasetRecord
from lib.folders.manifest import LISTING_SCHEMA, MANIFEST_SCHEMA, Counts, read_manifest
from lib.folders.output import RunRecord
from lib.folders.shards import SHARD_SCHEMA
from lib.ingest.convert import convert_unit
from lib.ingest.image import decode_jpeg
from lib.ingest.jpeg_folder import jpeg_path
from lib.ingest.listing import Listing, list_labelled
from lib.storage.location import Location
from tests.fakes.conversion import convert_here
from tests.fakes.tiffs import write_source, write_tiff


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_source(tmp_path / "source", train=5, test=2)
    return tmp_path


def config_of(folder: Path, **settings: Any) -> ConvertConfig:
    defaults = {"source": str(folder / "source"), "output": str(folder / "dataset"), "images_per_shard": 3}
    return ConvertConfig.model_validate(defaults | {"image_size": 32} | settings)


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "source" / name).write_bytes(b"this is text")


def files_of(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def interrupted(dataset: Path) -> None:
    """Leave a complete data set as a run leaves it that is ended before its last write."""
    folder = Location(str(dataset))
    record = DatasetRecord.read(folder)
    RunRecord(marker=record.marker, settings=record.settings, inputs=record.inputs).write(folder)
    (folder / DatasetRecord.FILE).delete()


def test_the_record_the_manifest_and_the_shards_tell_the_same_story(folder: Path) -> None:
    spoil(folder, "train/lung/lung_002.tif")
    (folder / "source/notes.txt").write_text("not an image")
    record = convert_here(config_of(folder, max_bad_fraction=0.5))
    assert record.counts == Counts(listed=15, accepted=13, quarantined=1, excluded=1)
    assert record.reasons == {"not_tiff": 1, "not_tiff_name": 1}
    assert record.class_names == ["liver", "lung"]
    assert DatasetRecord.read(Location(str(folder / "dataset"))) == record
    assert record.model_fields_set == set(DatasetRecord.model_fields)
    manifest = pq.read_table(folder / "dataset/manifest.parquet")
    assert manifest.schema.equals(MANIFEST_SCHEMA)
    accepted = {row["image_id"]: row for row in manifest.to_pylist() if row["verdict"] == "accepted"}
    stored = {}
    for shard in record.shards:
        table = pq.read_table(folder / "dataset/images" / shard.file)
        assert table.schema.names == SHARD_SCHEMA.names
        assert table.num_rows == shard.images > 0
        assert set(table["split"].to_pylist()) == {shard.split}
        stored |= {row["image_id"]: row for row in table.to_pylist()}
    assert stored.keys() == accepted.keys()
    for name, row in stored.items():
        assert {key: row[key] for key in ("path", "label", "split")} == {
            key: accepted[name][key] for key in ("path", "label", "split")
        }
        assert (row["height"], row["width"]) == (40, 40)
        assert decode_jpeg(row["image"]).shape == (32, 32, 3)


def test_a_second_run_does_nothing_and_says_the_same(folder: Path) -> None:
    record = convert_here(config_of(folder))
    before = files_of(folder / "dataset")
    assert convert_here(config_of(folder)) == record
    assert files_of(folder / "dataset") == before


def test_an_interrupted_run_goes_on_with_the_units_it_has(folder: Path) -> None:
    convert_here(config_of(folder))
    interrupted(folder / "dataset")
    gone, *kept = sorted((folder / "dataset/images").iterdir())
    before = {path: path.stat().st_mtime_ns for path in kept}
    gone.unlink()
    record = convert_here(config_of(folder))
    assert record.counts.accepted == 14
    assert gone.exists()
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_a_unit_that_is_run_twice_writes_one_shard_and_the_same_verdicts(folder: Path) -> None:
    spoil(folder, "train/lung/lung_002.tif")
    config = config_of(folder)
    for unit in list_labelled(Location(config.source), config).units(3):
        first, second = convert_unit(unit, config), convert_unit(unit, config)
        assert first.equals(second)
        assert first["path"].to_pylist() == unit["path"].to_pylist()


def test_another_source_needs_another_folder(folder: Path) -> None:
    convert_here(config_of(folder))
    write_tiff(folder / "source/train/lung/new.tif", 99)
    with pytest.raises(SettingsError, match="source_listing is"):
        convert_here(config_of(folder))
    with pytest.raises(SettingsError, match="quality is 95 there and 50 here"):
        convert_here(config_of(folder, quality=50))


def test_shards_of_no_unit_are_removed(folder: Path) -> None:
    config = config_of(folder)
    stray = folder / "dataset/images/train-00000-00000000.parquet"
    convert_here(config)
    interrupted(folder / "dataset")
    stray.write_bytes(b"of an earlier listing")
    record = convert_here(config)
    on_disk = {path.name for path in (folder / "dataset/images").iterdir()}
    assert on_disk == {shard.file for shard in record.shards}


def test_too_many_bad_images_are_named_in_a_manifest_but_make_no_dataset(folder: Path) -> None:
    spoil(folder, "train/lung/lung_002.tif")
    with pytest.raises(TooManyBadImagesError, match=r"1 of 14 images are bad \(1 not_tiff\)"):
        convert_here(config_of(folder))
    assert not (folder / "dataset/dataset.json").exists()
    rows = pq.read_table(folder / "dataset/manifest.parquet").to_pylist()
    assert [row["path"] for row in rows if row["verdict"] == "quarantined"] == ["train/lung/lung_002.tif"]
    assert convert_here(config_of(folder, max_bad_fraction=0.1)).counts.quarantined == 1


def test_a_class_whose_training_images_are_all_bad_stops_the_run(folder: Path) -> None:
    spoil(folder, *(f"train/lung/lung_{n:03d}.tif" for n in range(5)))
    with pytest.raises(DataError, match="class 'lung' has no usable training image left"):
        convert_here(config_of(folder, max_bad_fraction=1))


def test_folder_layout_has_one_jpeg_for_each_accepted_image(folder: Path) -> None:
    spoil(folder, "test/lung/lung_001.tif")
    write_tiff(folder / "source/train/liver/deep/liver_000.tif", 99)
    write_tiff(folder / "source/train/liver/liver_000.tiff", 98)
    convert_here(config_of(folder, layout="folder", max_bad_fraction=1))
    jpegs = list((folder / "dataset").rglob("*.jpg"))
    assert len(jpegs) == 15
    assert {path.relative_to(folder / "dataset").parts[:2] for path in jpegs} == {
        (split, label) for split in ("train", "validation", "test") for label in ("liver", "lung")
    }
    assert decode_jpeg(jpegs[0].read_bytes()).shape == (32, 32, 3)


def test_a_jpeg_keeps_the_name_of_its_tiff_where_that_is_unique() -> None:
    row = {"image_id": "0123456789abcdef", "split": "validation", "label": "liver"}
    names = {
        "train/liver/a.tif": "validation/liver/a.jpg",
        "train/liver/a.tiff": "validation/liver/a-0123456789abcdef.jpg",
        "train/liver/deep/a.tif": "validation/liver/a-0123456789abcdef.jpg",
        "slides/one/a.tif": "validation/liver/a-0123456789abcdef.jpg",
        "test/liver/a.tif": "validation/liver/a-0123456789abcdef.jpg",
        "x/" + "ä" * 125 + ".tif": "validation/liver/" + "ä" * 117 + "-0123456789abcdef.jpg",
    }
    assert max(len(name.rsplit("/", 1)[1].encode()) for name in names.values()) == 255
    for path, expected in names.items():
        assert jpeg_path(row | {"path": path}) == expected


def labelled_by_table(folder: Path, *rows: str) -> ConvertConfig:
    (folder / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
    return config_of(folder, labels=str(folder / "labels.csv"), layout="folder")


@pytest.mark.parametrize("label", ["../../x", "..", "a/b", "ä" * 128])
def test_a_label_that_can_be_no_folder_is_refused_before_anything_is_written(label: str, folder: Path) -> None:
    rows = [
        f"train/{name}/{name}_{n:03d}.tif,{label if name == 'lung' else name}"
        for name in ("liver", "lung")
        for n in range(5)
    ]
    before = files_of(folder)
    config = labelled_by_table(folder, *rows)
    with pytest.raises(SettingsError, match="cannot be the name of a folder; change it in --labels, or leave out"):
        convert_here(config)
    assert files_of(folder).keys() - before.keys() == {"labels.csv"}
    assert convert_here(config.model_copy(update={"layout": "shards"})).class_names == sorted(["liver", label])


def test_images_of_the_same_name_from_two_slides_have_a_jpeg_each(folder: Path) -> None:
    rows = []
    for number, path in enumerate(f"slides/{s}/{n}.tif" for s in ("one", "two", "three") for n in ("a", "b")):
        write_tiff(folder / "source" / path, number)
        rows.append(f"{path},{'liver' if path.endswith('a.tif') else 'lung'},{'test' if 'three' in path else 'train'}")
    record = convert_here(labelled_by_table(folder, *rows))
    jpegs = list((folder / "dataset").rglob("*.jpg"))
    assert len(jpegs) == len({path.read_bytes() for path in jpegs}) == record.counts.accepted == 6


def test_a_jpeg_that_is_missing_is_told_and_one_of_an_earlier_listing_removed(folder: Path) -> None:
    config = config_of(folder, layout="folder")
    convert_here(config)
    interrupted(folder / "dataset")
    stray, lost = (
        folder / "dataset/train/liver/of_another_listing.jpg",
        next((folder / "dataset").rglob("test/*/*.jpg")),
    )
    stray.write_bytes(b"")
    convert_here(config)
    assert not stray.exists()
    interrupted(folder / "dataset")
    lost.unlink()
    with pytest.raises(TissueError, match=rf"1 JPEGs are missing, as test/.*{lost.name}; delete"):
        convert_here(config)


def test_files_that_cannot_be_read_are_accounted_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    liver = folder / "source/train/liver"
    (liver / "broken.tif").symlink_to(folder / "nowhere")
    for number, name in enumerate((b"Pr\xe4parat.tif", b"Pr\xe4parat.txt")):
        (liver / f"liver_{number:03d}.tif").rename(liver / os.fsdecode(name))
    write_tiff(liver / r"Pr\xe4parat.tif", 77)  # a name that is spelled as the other one is told
    with caplog.at_level(logging.WARNING):
        record = convert_here(config_of(folder))
    assert record.counts == Counts(listed=16, accepted=13, quarantined=0, excluded=3)
    assert record.reasons == {"not_utf8": 2, "broken_link": 1}
    assert "train/liver/broken.tif, left out: it is a symbolic link to something that is not there" in caplog.text
    assert r"train/liver/Pr\xe4parat.tif, left out: its name is not UTF-8" in caplog.text


def test_the_content_hash_follows_the_images_and_their_conversion(folder: Path) -> None:
    hashes = {
        convert_here(config_of(folder, output=str(folder / name), **settings)).content_hash
        for name, settings in {"a": {}, "b": {"images_per_shard": 7}}.items()
    }
    assert len(hashes) == 1
    for name, settings in {"c": {"quality": 50}, "d": {"image_size": 48}, "e": {"validation_fraction": 0.5}}.items():
        hashes.add(convert_here(config_of(folder, output=str(folder / name), **settings)).content_hash)
    write_tiff(folder / "source/train/lung/lung_000.tif", 1234)
    hashes.add(convert_here(config_of(folder, output=str(folder / "f"))).content_hash)
    assert len(hashes) == 5


def with_columns(folder: Path, *columns: str, **settings: Any) -> ConvertConfig:
    """The source with a table that says the site, a scanner and the like of some images."""
    rows = [
        f"{split}/{name}/{name}_{n:03d}.tif,{name},{split}," + ("Kiel,A1" if n % 2 else ",")
        for split, count in (("train", 5), ("test", 2))
        for name in ("liver", "lung")
        for n in range(count)
    ]
    (folder / "labels.csv").write_text("\n".join([",".join(["path,label,split", *columns]), *rows]))
    return config_of(folder, labels=str(folder / "labels.csv"), **settings)


def test_columns_of_the_table_are_kept_in_manifest_and_shards(folder: Path) -> None:
    record = convert_here(with_columns(folder, "hospital", "scanner", site_by="hospital"))
    assert (record.columns, record.columns_hash is None) == (["scanner"], False)
    manifest = read_manifest(Location(str(folder / "dataset")), ["path", "site", "columns"]).to_pylist()
    for row in manifest:
        odd = int(row["path"][-5]) % 2
        assert (row["site"], row["columns"]) == (("Kiel", '{"scanner": "A1"}') if odd else (None, None))
    shards = pq.read_table(folder / "dataset/images", columns=["path", "site", "columns"]).to_pylist()
    assert sorted(shards, key=str) == sorted(manifest, key=str)


def test_another_site_in_the_table_is_noticed(folder: Path) -> None:
    record = convert_here(with_columns(folder, "site", "scanner"))
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("liver_001.tif,liver,train,Kiel", "liver_001.tif,liver,train,Bonn"))
    with pytest.raises(SettingsError, match="source_listing is"):
        convert_here(config_of(folder, labels=str(table)))
    updated = convert_here(config_of(folder, labels=str(table), update=True))
    assert updated.columns_hash != record.columns_hash
    assert updated.content_hash == record.content_hash  # so a model that was trained on it is still a model of it
    assert "Bonn" in read_manifest(Location(str(folder / "dataset")), ["site"])["site"].to_pylist()


def test_sites_are_found_in_paths_and_a_pattern_that_finds_none_is_refused(folder: Path) -> None:
    config = config_of(folder, site_by=r"_00(\d)")
    assert set(list_labelled(Location(config.source), config).images["site"].to_pylist()) == set("01234")
    config = config_of(folder, site_by="hospital-(.)")
    with pytest.raises(SettingsError, match=r"--site-by 'hospital-.*' is not a column of --labels and is not found in"):
        list_labelled(Location(config.source), config)


def test_a_dataset_of_an_earlier_version_is_read_as_one_without_sites(folder: Path) -> None:
    record = convert_here(config_of(folder))
    dataset = folder / "dataset"
    for path in (dataset / "manifest.parquet", *(dataset / "images").iterdir()):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["site", "columns"]), path)
    assert record.columns_hash is None
    assert set(read_manifest(Location(str(dataset)), ["site"])["site"].to_pylist()) == {None}
    source = ShardSource.open(Location(str(dataset)))
    decoded = source.decoder(source.units("test")[0])
    assert decoded["site"].null_count == decoded["columns"].null_count == decoded.num_rows > 0


def test_a_listing_without_sites_has_the_hash_and_the_shards_that_it_had_before_there_were_any(folder: Path) -> None:
    rows = [{"image_id": "a", "path": "a.tif", "size_bytes": 1, "label": "x", "split": "train"}]
    listing = Listing(pa.Table.from_pylist(rows, schema=LISTING_SCHEMA), MANIFEST_SCHEMA.empty_table(), ["x"])
    assert listing.content_hash == "65ce03851419cf5b08878fb82e6b1dd9"
    assert listing.units(4)[0]["shard"].to_pylist() == ["train-00000-2e5abce4.parquet"]
