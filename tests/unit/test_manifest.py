"""The listing of a source, its units of work, and the account of what became of each file."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lib.config.images import ListingConfig
from lib.errors import DataError, SettingsError, TissueError, TooManyBadImagesError
from lib.folders.manifest import LISTING_SCHEMA, MANIFEST_SCHEMA, Accounting, Counts, VerdictCounts
from lib.ingest.listing import Listing, image_id, list_labelled, list_unlabelled
from lib.storage.location import Location

CONFIG = ListingConfig()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes with 6 + 2 and 4 + 1 images, and five files that are none."""
    touch(tmp_path, *(f"train/liver/{n}.tif" for n in range(6)), *(f"test/liver/{n}.tif" for n in range(2)))
    touch(tmp_path, *(f"train/lung/deep/{n}.TIFF" for n in range(4)), "test/lung/0.tif")
    touch(tmp_path, "train/lung/.DS_Store", "train/lung/notes.txt", "train/stray.tif", "other/liver/0.tif", "README")
    return tmp_path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def listing_of(tree: Path, **settings: Any) -> Listing:
    return list_labelled(Location(str(tree)), ListingConfig(**settings))


def splits_of(listing: Listing) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["label"], row["split"]) for row in listing.images.to_pylist()}


def test_every_file_is_an_image_or_excluded_with_its_reason(tree: Path) -> None:
    listing = listing_of(tree)
    assert (len(listing.ids), listing.images.num_rows, listing.excluded.num_rows) == (18, 13, 5)
    assert (listing.images.schema, listing.excluded.schema) == (LISTING_SCHEMA, MANIFEST_SCHEMA)
    assert listing.class_names == ["liver", "lung"]
    excluded = listing.excluded.to_pylist()
    assert {row["verdict"] for row in excluded} == {"excluded"}
    assert {row["path"]: row["reason"] for row in excluded} == {
        "train/lung/.DS_Store": "hidden_file",
        "train/lung/notes.txt": "not_tiff_name",
        "train/stray.tif": "no_label",
        "other/liver/0.tif": "outside_splits",
        "README": "not_tiff_name",
    }


def test_an_image_is_listed_with_its_identity_and_size(tree: Path) -> None:
    rows = {row["path"]: row for row in listing_of(tree).images.to_pylist()}
    row = rows["test/lung/0.tif"]
    assert row["size_bytes"] == len("test/lung/0.tif")
    assert (row["label"], row["split"], row["checksum"]) == ("lung", "test", None)
    assert re.fullmatch("[0-9a-f]{16}", row["image_id"])
    assert row["image_id"] == image_id("test/lung/0.tif")
    assert len({row["image_id"] for row in rows.values()}) == len(rows)


def test_images_are_sorted_by_their_split_and_identity(tree: Path) -> None:
    images = [(row["split"], row["image_id"]) for row in listing_of(tree).images.to_pylist()]
    assert images == sorted(images)
    ids = list_unlabelled(Location(str(tree))).images["image_id"].to_pylist()
    assert ids == sorted(ids)


def test_every_class_has_images_to_train_on_and_to_validate(tree: Path) -> None:
    for fraction, validating in {0.02: (1, 1), 0.5: (3, 2), 0.99: (5, 3)}.items():
        counts = Counter(splits_of(listing_of(tree, validation_fraction=fraction)).values())
        assert (counts["liver", "validation"], counts["lung", "validation"]) == validating
        assert (counts["liver", "train"], counts["lung", "train"]) == (6 - validating[0], 4 - validating[1])
        assert (counts["liver", "test"], counts["lung", "test"]) == (2, 1)


def test_without_validation_everything_below_train_is_trained_on(tree: Path) -> None:
    assert {split for _, split in splits_of(listing_of(tree, validation_fraction=0)).values()} == {"train", "test"}


def test_the_same_source_is_split_alike_and_another_seed_otherwise(tree: Path) -> None:
    assert splits_of(listing_of(tree)) == splits_of(listing_of(tree))
    choices = {frozenset(splits_of(listing_of(tree, seed=seed, validation_fraction=0.5)).items()) for seed in range(4)}
    assert len(choices) > 1


@pytest.mark.parametrize("images_per_unit", [None, 1, 2, 5, 100])
def test_units_cover_every_image_once_and_are_each_of_one_split(tree: Path, images_per_unit: int | None) -> None:
    listing = listing_of(tree, validation_fraction=0.5)
    units = listing.units(images_per_unit)
    paths = [path for unit in units for path in unit["path"].to_pylist()]
    assert sorted(paths) == sorted(listing.images["path"].to_pylist())
    shards = [set(unit["shard"].to_pylist()) for unit in units]
    assert all(len(names) == 1 for names in shards)
    assert len(set.union(*shards)) == len(units)
    for unit, (shard,) in zip(units, shards, strict=True):
        (split,) = set(unit["split"].to_pylist())
        assert re.fullmatch(rf"{split}-\d{{5}}-[0-9a-f]{{8}}\.parquet", shard)
        assert unit.num_rows <= (images_per_unit or 16)
        assert unit["image_id"].to_pylist() == sorted(unit["image_id"].to_pylist())


def large_listing(images: int) -> Listing:
    rows = [
        {"image_id": f"{n:016x}", "path": f"train/x/{n}.tif", "size_bytes": 1, "split": "train"} for n in range(images)
    ]
    return Listing(pa.Table.from_pylist(rows, schema=LISTING_SCHEMA), MANIFEST_SCHEMA.empty_table(), ["x"])


@pytest.mark.parametrize(("images", "size"), [(10, 10), (100, 16), (1600, 100), (9000, 512)])
def test_a_unit_is_a_sixteenth_of_the_images_within_bounds(images: int, size: int) -> None:
    assert large_listing(images).units(None)[0].num_rows == size


def test_a_shard_has_another_name_when_an_image_of_it_changes_and_the_others_keep_theirs(tree: Path) -> None:
    def shards() -> dict[str, str]:
        return {unit["path"][0].as_py(): unit["shard"][0].as_py() for unit in listing_of(tree).units(1)}

    before = shards()
    assert shards() == before
    (tree / "train/liver/3.tif").write_bytes(b"longer than it was before")
    after = shards()
    assert {path for path in before if before[path] != after[path]} == {"train/liver/3.tif"}


def test_the_content_hash_changes_with_every_change_of_the_source(tree: Path) -> None:
    hashes = [listing_of(tree).content_hash]
    assert listing_of(tree).content_hash == hashes[0]
    (tree / "train/liver/3.tif").write_bytes(b"another size")
    hashes.append(listing_of(tree).content_hash)
    touch(tree, "train/liver/new.tif")
    hashes.append(listing_of(tree).content_hash)
    (tree / "train/liver/new.tif").rename(tree / "train/lung/new.tif")
    hashes.append(listing_of(tree).content_hash)
    (tree / "README").unlink()
    hashes.append(listing_of(tree).content_hash)
    hashes.append(listing_of(tree, validation_fraction=0.5).content_hash)
    assert len(set(hashes)) == len(hashes)


def test_the_content_hash_changes_with_a_stated_checksum() -> None:
    def with_checksum(checksum: str | None) -> str:
        row = {"image_id": "0" * 16, "path": "a.tif", "size_bytes": 1, "checksum": checksum}
        table = pa.Table.from_pylist([row], schema=LISTING_SCHEMA)
        return Listing(table, MANIFEST_SCHEMA.empty_table(), []).content_hash

    assert len({with_checksum(checksum) for checksum in (None, "md5:0", "md5:1")}) == 3


def test_a_source_without_labels_lists_every_tiff(tree: Path) -> None:
    listing = list_unlabelled(Location(str(tree)))
    assert (listing.images.num_rows, listing.excluded.num_rows, listing.class_names) == (15, 3, [])
    assert set(listing.images["label"].to_pylist()) == set(listing.images["split"].to_pylist()) == {None}
    (unit,) = listing.units(None)
    assert unit.num_rows == 15
    assert unit["shard"][0].as_py().startswith("images-00000-")


def test_a_source_that_is_missing_or_has_no_images_is_a_wrong_setting(tmp_path: Path) -> None:
    source = Location(str(tmp_path / "source"))
    for list_source in (lambda: list_labelled(source, CONFIG), lambda: list_unlabelled(source)):
        with pytest.raises(SettingsError, match=re.escape(f"--source {source.uri} is missing or empty")):
            list_source()
    touch(tmp_path / "source", "notes.txt", "README")
    with pytest.raises(SettingsError, match=r"has no TIFF \(2 other files\)"):
        list_unlabelled(source)
    touch(tmp_path / "source", "test/liver/a.tif")
    with pytest.raises(SettingsError, match=r"no TIFF below train/.*\(found 3 files, 1 of them below test/\)"):
        list_labelled(source, CONFIG)


def test_classes_that_cannot_be_trained_on_are_refused(tree: Path) -> None:
    touch(tree, "test/skin/0.tif")
    with pytest.raises(DataError, match="'skin' is in test/ but not in train/"):
        listing_of(tree)


def test_what_lies_in_a_hidden_folder_is_hidden(tree: Path) -> None:
    touch(tree, "train/.Trashes/0.tif", "train/.Trashes/1.tif")
    assert listing_of(tree).class_names == ["liver", "lung"]


def test_a_source_that_is_a_file_is_a_wrong_setting(tree: Path) -> None:
    with pytest.raises(SettingsError, match="--source"):
        list_unlabelled(Location(str(tree / "train/liver/0.tif")))


def manifest_of(listing: Listing, bad: tuple[str, ...] = ()) -> pa.Table:
    """A manifest in which some paths are quarantined."""
    rows = [
        row | ({"verdict": "quarantined", "reason": "truncated"} if row["path"] in bad else {"verdict": "accepted"})
        for row in listing.images.to_pylist()
    ]
    return pa.concat_tables([pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), listing.excluded])


def test_the_account_adds_up_in_all_and_by_split_and_class(tree: Path) -> None:
    listing = listing_of(tree)
    bad = ("test/liver/0.tif", "test/lung/0.tif", "train/liver/1.tif")
    accounting = Accounting.of(manifest_of(listing, bad), listing.ids)
    assert accounting.counts == Counts(listed=18, accepted=10, quarantined=3, excluded=5)
    assert accounting.by_split["test"] == {
        "liver": VerdictCounts(accepted=1, quarantined=1, excluded=0),
        "lung": VerdictCounts(accepted=0, quarantined=1, excluded=0),
    }
    assert accounting.by_split["-"] == {"-": VerdictCounts(accepted=0, quarantined=0, excluded=5)}
    cells = [cell for by_class in accounting.by_split.values() for cell in by_class.values()]
    assert sum(cell.accepted + cell.quarantined + cell.excluded for cell in cells) == 18
    assert sum(cell.quarantined for cell in cells) == 3
    assert next(iter(accounting.reasons.items())) == ("truncated", 3)
    assert accounting.reasons["not_tiff_name"] == 2


def test_a_lost_a_doubled_or_a_foreign_row_stops_the_run(tree: Path) -> None:
    listing = listing_of(tree)
    manifest = manifest_of(listing)
    lost = manifest.slice(1)
    doubled = pa.concat_tables([manifest, manifest.slice(0, 1)])
    one_for_another = pa.concat_tables([manifest.slice(1), manifest.slice(5, 1)])
    without_excluded = manifest.slice(0, listing.images.num_rows)
    for wrong in (lost, doubled, one_for_another, without_excluded):
        with pytest.raises(TissueError, match="the account does not add up: 18 files were listed"):
            Accounting.of(wrong, listing.ids)


def accounting_with(accepted: int, quarantined: int) -> Accounting:
    counts = Counts(listed=accepted + quarantined + 9, accepted=accepted, quarantined=quarantined, excluded=9)
    return Accounting(counts, {}, {"truncated": quarantined})


@pytest.mark.parametrize(
    ("accepted", "quarantined", "allowed"),
    [(10, 0, 0.0), (9, 1, 0.1), (9, 1, 1.0), (0, 10, 1.0), (99, 1, 0.01), (75, 25, 0.25), (93, 7, 0.07), (0, 0, 0.0)],
)
def test_up_to_the_allowed_share_of_bad_images_a_run_goes_on(accepted: int, quarantined: int, allowed: float) -> None:
    accounting_with(accepted, quarantined).refuse_too_many_bad(allowed, Location("out"))


@pytest.mark.parametrize(
    ("accepted", "quarantined", "allowed"), [(9, 1, 0.0), (999, 1, 0.0), (8, 2, 0.1), (74, 26, 0.25), (0, 1, 0.999)]
)
def test_beyond_the_allowed_share_a_run_is_refused(accepted: int, quarantined: int, allowed: float) -> None:
    with pytest.raises(
        TooManyBadImagesError, match=rf"^{quarantined} of {accepted + quarantined} images are bad"
    ) as caught:
        accounting_with(accepted, quarantined).refuse_too_many_bad(allowed, Location("out"))
    assert f"({quarantined} truncated)" in str(caught.value)


def test_just_the_allowed_share_is_allowed_whatever_the_rounding() -> None:
    for percent in range(101):
        accounting_with(100 - percent, percent).refuse_too_many_bad(percent / 100, Location("out"))
