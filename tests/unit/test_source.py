"""Images by split and position, from shards and from TIFFs: the same ones, in any range."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config.conversion import ConvertConfig
from lib.config.images import ImageConfig, ListingConfig
from lib.config.resources import DecodeConfig
from lib.dataset import source as source_module
from lib.dataset.shard_source import ShardSource
from lib.dataset.source import (
    DECODED_SCHEMA,
    NAMES,
    ImageSource,
    RefusedImage,
    Units,
    decoded_table,
    image_array,
)
from lib.dataset.tiff_source import TiffSource
from lib.errors import DataError, SettingsError, StorageError
from lib.folders.manifest import DuplicateCounts
from lib.folders.model import SEEN_SCHEMA
from lib.ingest.listing import list_unlabelled
from lib.storage.location import Location
from tests.fakes.conversion import convert_here
from tests.fakes.tiffs import write_source

SIZE = 32
SPLITS = {"train": 14, "validation": 4, "test": 6}  # 20 % of 9 images are 1.8, so 2 of each class validate


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ConvertConfig:
    """A source of two classes with a stray file, converted."""
    folder = tmp_path_factory.mktemp("organs")
    write_source(folder / "source", train=9, test=3)
    (folder / "source/train/liver/notes.txt").write_text("not an image")
    config = ConvertConfig(
        source=str(folder / "source"), output=str(folder / "dataset"),
        image_size=SIZE, images_per_shard=4, validation_fraction=0.2, quality=90, group_by=r"(.+)\.tif$",
    )  # fmt: skip
    convert_here(config)
    return config


@pytest.fixture(scope="module")
def shards(config: ConvertConfig) -> ShardSource:
    return ShardSource.open(Location(config.output))


@pytest.fixture(scope="module")
def tiffs(config: ConvertConfig) -> TiffSource:
    return TiffSource.list_labelled(Location(config.source), config.part(ImageConfig), config.part(ListingConfig))


@pytest.fixture(scope="module", params=["shards", "tiffs"])
def source(request: pytest.FixtureRequest) -> ImageSource:
    return request.getfixturevalue(request.param)


def test_streamed_training_tells_what_became_of_the_pixels_of_some_training_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dark = np.random.default_rng(0).integers(0, 200, (48, 48), np.uint16)
    for split, label in itertools.product(("train", "test"), ("liver", "lung")):
        (tmp_path / split / label).mkdir(parents=True)
        for number in range(3):
            tifffile.imwrite(tmp_path / split / label / f"{number}.tif", dark + number, photometric="minisblack")
    images, listing = ImageConfig(tiff_range="0:65535", image_size=SIZE), ListingConfig()
    TiffSource.list_labelled(Location(str(tmp_path)), images, listing).look_at_pixels()
    [told] = caplog.messages
    assert "2 of 2 of liver (uint16)" in told
    assert "try --tiff-range percentile" in told


def units(source: ImageSource, split: str, start: int = 0, stop: int = 10**9) -> list[pa.Table]:
    return Units(source.units(split)).between(start, stop)


def decoded(source: ImageSource, split: str, start: int = 0, stop: int = 10**9) -> pa.Table:
    """What Ray Data would deliver for a range, in its order."""
    return pa.concat_tables([DECODED_SCHEMA.empty_table(), *map(source.decoder, units(source, split, start, stop))])


@pytest.mark.parametrize(("split", "count"), SPLITS.items())
def test_a_split_has_its_images_in_whole_numbers_of_positions(source: ImageSource, split: str, count: int) -> None:
    table = decoded(source, split)
    assert table.schema == DECODED_SCHEMA
    assert source.count(split) == table.num_rows == count
    assert table["position"].to_pylist() == list(range(count))
    assert len(set(table["image_id"].to_pylist())) == count
    assert set(table["reason"].to_pylist()) == {None}
    for row in table.select(["path", "label"]).to_pylist():
        folder = "test" if split == "test" else "train"
        assert row["path"].startswith(f"{folder}/{row['label']}/")


def test_no_image_is_in_two_splits(source: ImageSource) -> None:
    ids = [image for split in SPLITS for image in decoded(source, split)["image_id"].to_pylist()]
    assert len(set(ids)) == len(ids) == 24


@pytest.mark.parametrize("split", ["train", "validation"])
def test_names_are_known_without_decoding(source: ImageSource, split: str) -> None:
    start, stop = 1, source.count(split)
    known = pa.concat_tables([source.names(unit) for unit in units(source, split, start, stop)])
    assert known.column_names == NAMES
    names = ["position", "image_id", "path", "label"]
    assert known.select(names).to_pylist() == decoded(source, split, start, stop).select(names).to_pylist()
    assert known["group"].to_pylist() == [path.removesuffix(".tif") for path in known["path"].to_pylist()]


def test_a_split_that_does_not_exist_is_empty(source: ImageSource) -> None:
    assert source.count("holdout") == 0
    assert source.units("holdout") == []


@settings(max_examples=40)
@given(start=st.integers(0, 16), length=st.integers(0, 16))
@pytest.mark.parametrize("kind", ["shards", "tiffs"])
def test_any_range_is_cut_from_the_whole(kind: str, request: pytest.FixtureRequest, start: int, length: int) -> None:
    source = request.getfixturevalue(kind)
    found = units(source, "train", start, start + length)
    positions = [position for unit in found for position in unit["position"].to_pylist()]
    assert positions == list(range(min(start, 14), min(start + length, 14)))
    assert all(0 < unit.num_rows <= 4 for unit in found)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 5), (4, 8), (5, 14), (13, 99)])
def test_a_range_holds_the_same_images_as_the_whole(source: ImageSource, start: int, stop: int) -> None:
    whole = decoded(source, "train")
    assert decoded(source, "train", start, stop).equals(whole.slice(start, stop - start))


@pytest.mark.parametrize("split", SPLITS)
def test_both_sources_have_the_same_images_in_the_same_order(
    shards: ShardSource, tiffs: TiffSource, split: str
) -> None:
    assert shards.class_names == tiffs.class_names == ["liver", "lung"]
    assert shards.image_size == tiffs.image_size == SIZE
    measured = {"tiff_range": "uint8=0:255"}  # by `convert`, or else when a run begins
    assert shards.image_policy == tiffs.image_policy.model_copy(update=measured)
    compressed, plain = decoded(shards, split), decoded(tiffs, split)
    for name in ("position", "image_id", "path", "label"):
        assert compressed[name].to_pylist() == plain[name].to_pylist()
    difference = image_array(compressed, SIZE).astype(int) - image_array(plain, SIZE)
    assert 0 < np.abs(difference).mean() < 3
    others = np.roll(image_array(plain, SIZE), 1, axis=0).astype(int)
    assert np.abs(image_array(compressed, SIZE) - others).mean() > 10


@pytest.mark.parametrize("split", SPLITS)
def test_tiffs_of_the_same_quality_give_the_pixels_of_the_shards(
    config: ConvertConfig, shards: ShardSource, split: str
) -> None:
    listing = TiffSource.list_labelled(Location(config.source), config, config).listing
    as_stored = TiffSource(Location(config.source), listing, config, jpeg_quality=config.quality)
    assert decoded(as_stored, split)["image"].to_pylist() == decoded(shards, split)["image"].to_pylist()


def test_a_refused_tiff_keeps_its_position_and_its_reason(tmp_path: Path) -> None:
    write_source(tmp_path, train=4, test=1)
    (tmp_path / "train/lung/lung_001.tif").write_bytes(b"this is text")
    listing = ListingConfig(validation_fraction=0)
    source = TiffSource.list_labelled(Location(str(tmp_path)), ImageConfig(image_size=SIZE), listing)
    table = decoded(source, "train")
    assert table["position"].to_pylist() == list(range(8))
    (refused,) = [row for row in table.to_pylist() if row["reason"]]
    assert (refused["path"], refused["reason"], refused["image"]) == ("train/lung/lung_001.tif", "not_tiff", None)
    assert sum(image is None for image in table["image"].to_pylist()) == 1


@pytest.fixture
def doubled(tmp_path: Path) -> TiffSource:
    """A source of which one image is in two classes."""
    write_source(tmp_path, train=4, test=1)
    (tmp_path / "train/lung/zz.tif").write_bytes(min(tmp_path.glob("train/liver/*.tif")).read_bytes())
    return TiffSource.list_labelled(Location(str(tmp_path)), ImageConfig(image_size=SIZE), ListingConfig())


def test_the_same_image_in_two_classes_is_refused_before_it_is_used(doubled: TiffSource) -> None:
    with pytest.raises(DataError, match=r"the same image is in two classes: .* and train/lung/zz.tif .*--duplicates"):
        doubled.count_duplicates("refuse")
    assert doubled.count_duplicates("keep") == DuplicateCounts(
        sets=1, images=2, sets_across_classes=1, sets_across_test=0
    )


def test_an_image_for_testing_that_is_also_in_training_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path, train=4, test=1)
    (tmp_path / "test/lung/zz.tif").write_bytes(min(tmp_path.glob("train/lung/*.tif")).read_bytes())
    source = TiffSource.list_labelled(Location(str(tmp_path)), ImageConfig(image_size=SIZE), ListingConfig())
    with pytest.raises(DataError, match="in the test split and in training"):
        source.count_duplicates("refuse")


def test_images_without_labels_are_one_split(config: ConvertConfig) -> None:
    folder = Location(f"{config.source}/test")
    source = TiffSource(folder, list_unlabelled(folder), config.part(ImageConfig), images_per_unit=4)
    table = decoded(source, None)
    assert (source.count(None), table["position"].to_pylist()) == (6, list(range(6)))
    assert set(table["label"].to_pylist()) == {None}


def test_a_file_that_changed_since_it_was_listed_stops_the_run(tmp_path: Path) -> None:
    write_source(tmp_path, train=3, test=1)
    config = ListingConfig(validation_fraction=0)
    source = TiffSource.list_labelled(Location(str(tmp_path)), ImageConfig(image_size=SIZE), config)
    with (tmp_path / "train/lung/lung_001.tif").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StorageError, match=r"lung_001\.tif: it was removed or replaced since it was listed"):
        decoded(source, "train")


def test_an_image_array_has_the_pixels_of_the_table(tiffs: TiffSource) -> None:
    table = decoded(tiffs, "test").slice(2, 3)
    images = image_array(table, SIZE)
    assert (images.shape, images.dtype) == ((3, SIZE, SIZE, 3), np.uint8)
    assert [image.tobytes() for image in images] == table["image"].to_pylist()


def refused_between(count: int) -> pa.Table:
    """Images of value 0, 1, ... of which every third was refused."""
    unit = pa.table({"position": pa.array(range(count), pa.int64())})
    rows: list[dict[str, object]] = [{"image_id": str(number), "path": str(number)} for number in range(count)]
    images = [None if number % 3 == 0 else np.full((SIZE, SIZE, 3), number, np.uint8) for number in range(count)]
    return decoded_table(rows, images, unit)


@pytest.mark.parametrize("piece_bytes", [2**30, 2 * SIZE * SIZE * 3, 1])
@pytest.mark.parametrize("count", [0, 1, 8])
def test_decoded_images_lie_beside_each_other_without_refused_ones(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int, count: int
) -> None:
    monkeypatch.setattr(source_module, "PIECE_BYTES", piece_bytes)
    table = refused_between(count)
    table.validate(full=True)
    assert table.schema == DECODED_SCHEMA
    expected = [number for number in range(count) if number % 3]
    assert image_array(table, SIZE)[:, 0, 0, 0].tolist() == expected
    assert image_array(table.slice(3, 4), SIZE)[:, 0, 0, 0].tolist() == [n for n in expected if 3 <= n < 7]
    values = [image and image[:1] for image in table["image"].to_pylist()]
    assert values == [None if number % 3 == 0 else bytes([number]) for number in range(count)]


def test_the_images_of_a_unit_are_looked_at_where_they_are() -> None:
    table = refused_between(8)
    images, memory = image_array(table, SIZE), table["image"].chunk(0).buffers()[2]
    assert (images.ctypes.data, images.nbytes) == (memory.address, memory.size)


def test_a_folder_that_is_not_complete_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"dataset\.json is missing; make it with `python -m jobs\.convert`"):
        ShardSource.open(Location(str(tmp_path)))


def test_the_identity_of_a_source_changes_with_an_image(tmp_path: Path) -> None:
    write_source(tmp_path, train=3, test=1)

    def identity() -> str:
        return TiffSource.list_labelled(Location(str(tmp_path)), ImageConfig(), ListingConfig()).content_hash

    before = identity()
    assert identity() == before
    (tmp_path / "train/lung/lung_001.tif").unlink()
    assert identity() != before


def record_of(config: ConvertConfig) -> dict[str, Any]:
    return dict(json.loads(Path(config.output, "dataset.json").read_bytes()))


def test_the_content_hash_of_a_dataset_is_that_of_its_record(config: ConvertConfig, shards: ShardSource) -> None:
    assert shards.content_hash == record_of(config)["content_hash"]


def test_a_streamed_source_accounts_for_every_listed_file(config: ConvertConfig, tiffs: TiffSource) -> None:
    *others, last = tiffs.listing.images["image_id"].to_pylist()
    damaged = RefusedImage(3, last, "not_tiff", "is text")
    told = pa.table([others, ["a checksum"] * len(others)], schema=SEEN_SCHEMA)
    found = tiffs.trained_on(["train", "validation"], {"validation": [damaged]}, told, DecodeConfig())
    assert found.checksums.equals(told)
    assert found.counts is not None
    assert (found.counts.listed, found.counts.accepted, found.counts.quarantined, found.counts.excluded) == (
        25,
        17,
        1,
        7,
    )


def test_shards_have_an_account_of_their_own(shards: ShardSource) -> None:
    found = shards.trained_on(["train", "validation"], {}, SEEN_SCHEMA.empty_table(), DecodeConfig())
    assert found.counts is None
    assert len(set(found.checksums["image_id"].to_pylist())) == 18
    assert shards.prepared("refuse", None) == (shards, None)  # type: ignore[arg-type]  # is not looked at
