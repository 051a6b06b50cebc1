"""Images with the same bytes, within and across classes and splits."""

from pathlib import Path

import pyarrow as pa
import pytest

from lib.config.conversion import ConvertConfig
from lib.config.images import ListingConfig
from lib.errors import DataError
from lib.folders.manifest import LISTING_SCHEMA, DuplicateCounts
from lib.ingest.duplicates import find_duplicates, make_sure, with_checksums
from lib.ingest.listing import list_labelled
from lib.storage.location import Location
from tests.fakes.conversion import convert_here
from tests.fakes.tiffs import write_source

KEEP, DROP = ListingConfig(duplicates="keep"), ListingConfig(duplicates="drop")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source", train=4)


def copy(source: Path, original: str, name: str) -> None:
    (source / name).write_bytes((source / original).read_bytes())


def first(source: Path, split: str, label: str) -> str:
    return min((source / split / label).glob("*.tif")).relative_to(source).as_posix()


def dropped(source: Path) -> dict[str, str]:
    excluded = list_labelled(Location(str(source)), DROP).excluded.to_pylist()
    return {row["path"]: row["reason"] for row in excluded}


def config(source: Path, **changes: object) -> ConvertConfig:
    return ConvertConfig.model_validate(
        {"source": str(source), "output": str(source.parent / "out"), "image_size": 16} | changes
    )


def test_of_two_in_a_class_the_first_stays(source: Path) -> None:
    original = first(source, "train", "liver")
    copy(source, original, "train/liver/zz.tif")
    assert dropped(source) == {"train/liver/zz.tif": "duplicate"}


def test_of_two_in_train_and_test_that_of_the_test_stays(source: Path) -> None:
    copy(source, first(source, "test", "lung"), "train/lung/aa.tif")
    assert dropped(source) == {"train/lung/aa.tif": "duplicate"}


def test_of_two_with_different_labels_none_stays(source: Path) -> None:
    original = first(source, "train", "liver")
    copy(source, original, "train/lung/zz.tif")
    assert dropped(source) == {original: "duplicate_conflict", "train/lung/zz.tif": "duplicate_conflict"}


def test_the_same_image_in_two_classes_is_refused_by_default(source: Path) -> None:
    copy(source, first(source, "train", "liver"), "train/lung/zz.tif")
    with pytest.raises(DataError, match=r"the same image is in two classes: .* and train/lung/zz.tif"):
        convert_here(config(source))


def test_the_same_image_in_train_and_test_is_refused_by_default(source: Path) -> None:
    copy(source, first(source, "train", "liver"), "test/liver/zz.tif")
    with pytest.raises(DataError, match="in the test split and in training"):
        convert_here(config(source))


def test_the_same_image_twice_in_a_class_is_counted_and_kept_by_default(source: Path) -> None:
    copy(source, first(source, "train", "liver"), "train/liver/zz.tif")
    record = convert_here(config(source, validation_fraction=0))
    assert record.duplicates == DuplicateCounts(sets=1, images=2, sets_across_classes=0, sets_across_test=0)
    assert record.counts.accepted == 13


def test_kept_duplicates_are_counted(source: Path) -> None:
    copy(source, first(source, "train", "liver"), "test/lung/zz.tif")
    record = convert_here(config(source, duplicates="keep"))
    assert record.duplicates == DuplicateCounts(sets=1, images=2, sets_across_classes=1, sets_across_test=1)


def test_equal_checksums_of_different_bytes_are_no_duplicates(source: Path) -> None:
    images = list_labelled(Location(str(source)), KEEP).images
    alike = images.to_pylist()[:2]
    rows = [row | {"size_bytes": 1, "checksum": "crc32c:AAAAAA=="} for row in alike]
    assert len(find_duplicates(pa.Table.from_pylist(rows, schema=LISTING_SCHEMA))) == 1
    real = with_checksums(images, Location(str(source)))
    assert len(make_sure(real.slice(0, 2), Location(str(source)))) == 0
