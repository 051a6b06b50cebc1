"""What a source has that is not read is told, with the way to have it read."""

import os
import unicodedata
from pathlib import Path

import pyarrow.compute as pc
import pytest

from lib.config.images import ListingConfig
from lib.errors import DataError, SettingsError
from lib.ingest.listing import Listing, list_labelled, list_unlabelled
from lib.storage.location import Location
from tests.fakes.tiffs import write_source, write_tiff


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source", train=3, test=1)


def listing_of(source: Path, **settings: object) -> Listing:
    return list_labelled(Location(str(source)), ListingConfig.model_validate(settings))


def splits_of(listing: Listing) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(listing.images["split"]).to_pylist()}


def rename(source: Path, old: str, new: str) -> None:
    (source / new).parent.mkdir(parents=True, exist_ok=True)
    (source / old).rename(source / new)


def test_nothing_is_told_of_an_ordinary_source(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source / "train/liver/.DS_Store").write_bytes(b"")
    (source / "train/liver/notes.txt").write_text("seen on Monday")
    (source / "train/.ipynb_checkpoints").mkdir()
    listing_of(source)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("moves", "advice"),
    [
        ({"train": "Train"}, "Train/ has 6: rename Train/ to train/"),
        ({"train": "organs/train", "test": "organs/test"}, "there is organs/train/: use --source {source}/organs"),
        ({"train/liver": "liver", "train/lung": "lung"}, r"liver/ has 3, lung/ has 3: move them into train/<label>/"),
        ({"train/liver/liver_000.tif": "train/a.tif", "train/lung": "lung", "train/liver": "x"}, "directly in train/"),
    ],
)
def test_a_source_without_training_images_says_what_it_has_and_how_to_have_it_read(
    moves: dict[str, str], advice: str, source: Path
) -> None:
    for old, new in moves.items():
        rename(source, old, new)
    with pytest.raises(SettingsError, match=advice.format(source=source)) as caught:
        listing_of(source)
    assert "has no TIFF below train/; expected train/<label>/*.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tiffs_in_no_folder_are_counted(tmp_path: Path) -> None:
    write_tiff(tmp_path / "source/a.tif", 0)
    with pytest.raises(SettingsError, match=r"1 TIFFs are in no folder: name their labels in a table \(--labels\)"):
        listing_of(tmp_path / "source")


def test_a_folder_of_a_class_that_gives_no_image_is_named(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source / "train/skin").mkdir()
    for number in range(2):
        (source / f"train/heart/{number}.svs").parent.mkdir(exist_ok=True)
        (source / f"train/heart/{number}.svs").write_bytes(b"1")
    assert listing_of(source).class_names == ["liver", "lung"]
    assert "train/heart/ gives no image (2 not_tiff_name), so it is no class" in caplog.text
    assert "train/skin/ gives no image (it is empty), so it is no class" in caplog.text
    assert len(caplog.records) == 2


def test_a_class_whose_link_leads_nowhere_is_named(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source / "train/skin").symlink_to(source / "nowhere")
    listing_of(source)
    assert "train/skin, left out: it is a symbolic link to something that is not there" in caplog.text


def test_a_class_that_is_a_link_is_read(source: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (source / split / "liver").rename(tmp_path / f"{split}_liver")
        (source / split / "liver").symlink_to(tmp_path / f"{split}_liver")
    listing = listing_of(source)
    assert listing.class_names == ["liver", "lung"]
    assert listing.images.num_rows == 8


def test_tiffs_beside_train_and_test_are_named(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    rename(source, "test", "Test")
    assert set(splits_of(listing_of(source))) == {"train", "validation"}
    assert "left out, since they are not in train/ or test/: TIFFs of Test/ has 2" in caplog.text


def test_a_folder_val_is_the_validation_split_and_nothing_else_validates(source: Path) -> None:
    for number, label in enumerate(("liver", "lung")):
        write_tiff(source / "val" / label / "v.tif", 50 + number)
    assert splits_of(listing_of(source)) == {"train": 6, "validation": 2, "test": 2}
    assert splits_of(listing_of(source, validation_fraction=0.5)) == {"train": 6, "validation": 2, "test": 2}


def test_a_class_that_is_only_validated_is_refused(source: Path) -> None:
    write_tiff(source / "val/skin/v.tif", 50)
    with pytest.raises(DataError, match="class 'skin' is in validation/ but not in train/"):
        listing_of(source)


def test_a_label_is_one_whether_its_accents_are_apart_or_not(source: Path) -> None:
    for split, form in (("train", "NFC"), ("test", "NFD")):
        rename(source, f"{split}/liver", f"{split}/{unicodedata.normalize(form, 'rénal')}")
    assert len(set(os.listdir(source / "train")) & set(os.listdir(source / "test"))) == 1  # noqa: PTH208
    listing = listing_of(source)
    assert listing.class_names == ["lung", "rénal"]
    assert listing.images.num_rows == 8


def test_a_label_in_another_case_is_refused_with_the_one_that_is_meant(source: Path) -> None:
    rename(source, "test/liver", "test/Liver")
    with pytest.raises(DataError, match=r"class 'Liver' is in test/ but not in train/.*; 'liver' is: give both one"):
        listing_of(source)


def test_images_to_predict_that_cannot_be_read_are_told(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        (source / f"broken_{number}.tif").symlink_to(source / "nowhere")
    listing = list_unlabelled(Location(str(source)))
    assert (listing.images.num_rows, listing.excluded.num_rows) == (8, 3)
    assert "broken_0.tif, the first of 3 left out: it is a symbolic link" in caplog.text
