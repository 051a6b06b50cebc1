"""The range of a data set: measured once, from its training images, and the same for every image of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lib.config.images import ImageConfig, TiffPolicy, parse_ranges
from lib.errors import DataError, StorageError
from lib.folders.output import OutputFolder
from lib.folders.sample_folder import SampleRecord
from lib.ingest.tiff import ranges as tiff_range
from lib.ingest.tiff.ranges import files_to_measure, resolve_policy, with_measured_ranges, with_ranges_of_run
from lib.storage.location import Location
from lib.storage.scan import StoredFile
from tests.fakes.tiff_bytes import NOISE, written

RANDOM = np.random.default_rng(11)
TEXTS = ["path", "checksum", "version", "split", "label"]
SCHEMA = pa.schema([("size_bytes", pa.int64()), *((name, pa.string()) for name in TEXTS)])
AUTO, PERCENTILE = TiffPolicy(), TiffPolicy(tiff_range="percentile", tiff_percentiles=(1, 99))


def measure_ranges(files: list[bytes], policy: TiffPolicy) -> tiff_range.Ranges:
    return tiff_range.measure_files([(f"{number}.tif", data) for number, data in enumerate(files)], policy).ranges


def noise(low: float, high: float, dtype: Any = np.uint16, side: int = 64) -> bytes:
    """A gray image of values evenly between two."""
    samples = RANDOM.uniform(low, high, (side, side)) if np.dtype(dtype).kind == "f" else None
    samples = RANDOM.integers(int(low), int(high), (side, side), endpoint=True) if samples is None else samples
    return written(samples.astype(dtype), "minisblack")


@pytest.mark.parametrize(("darkest", "brightest"), [(0, 200), (100, 4000), (30_000, 31_000), (0, 65_535)])
def test_unsigned_integers_that_state_nothing_go_by_their_percentiles(darkest: int, brightest: int) -> None:
    low, high = measure_ranges([noise(darkest, brightest) for _ in range(3)], AUTO)["uint16"]
    near = 0.002 * (brightest - darkest) + 1
    assert (low, high) == (pytest.approx(darkest, abs=near), pytest.approx(brightest, abs=near))


def test_a_few_hot_pixels_do_not_make_the_others_dark() -> None:
    hot = np.tile(np.arange(3000, dtype=np.uint16), (20, 1))
    hot[0, :30] = 65535  # 30 of 60,000
    low, high = measure_ranges([written(hot, "minisblack")], AUTO)["uint16"]
    assert (low, high) == (pytest.approx(2, abs=2), pytest.approx(2998, abs=2))


def test_an_image_of_one_value_ends_at_the_fewest_usual_bits_that_hold_it() -> None:
    for value, white in ((200, 255), (256, 1023), (3000, 4095), (9000, 16383), (60_000, 65535)):
        assert measure_ranges([written(np.full((8, 8), value, np.uint16), "minisblack")], AUTO) == {
            "uint16": (0, white)
        }


def test_files_of_another_scale_are_refused_unless_one_range_is_asked_for() -> None:
    files = [noise(0, 4000)] * 9 + [noise(0, 60_000)]
    with pytest.raises(DataError, match=r"uint16 samples go from .* in \d\.tif, but from .* in 9\.tif"):
        measure_ranges(files, AUTO)
    assert measure_ranges(files, PERCENTILE)["uint16"][1] > 3900
    between = [noise(0, top) for top in (4000, 12_000, 30_000, 60_000)]
    assert measure_ranges(between, AUTO)["uint16"][1] > 50_000
    blank = [noise(0, 60_000), noise(400, 420)]
    assert measure_ranges(blank, AUTO)["uint16"][1] > 50_000


def test_files_are_measured_of_every_class_every_folder_and_from_small_to_large() -> None:
    rows = [
        {"path": f"train/{label}/{slide}/{size:04d}.tif", "label": label, "size_bytes": size}
        for label, slides in (("common", 40), ("rare", 2))
        for slide in range(slides)
        for size in range(100, 140)
    ]
    images = pa.Table.from_pylist(rows[::-1])
    chosen = files_to_measure(images).to_pylist()
    assert len(chosen) == tiff_range.MEASURED_FILES
    assert {row["path"].rsplit("/", 1)[0] for row in chosen} == {row["path"].rsplit("/", 1)[0] for row in rows}
    assert {row["size_bytes"] for row in chosen if row["label"] == "rare"} >= {100, 139}
    assert files_to_measure(images).equals(files_to_measure(images))
    many = pa.Table.from_pylist([{"path": f"train/{n}/a.tif", "label": str(n), "size_bytes": 1} for n in range(300)])
    assert files_to_measure(many).num_rows == 300
    assert sorted(files_to_measure(images.slice(0, 5))["path"].to_pylist()) == sorted(images["path"].to_pylist()[:5])


def test_what_files_state_is_kept_to() -> None:
    stated = written(np.full((8, 8), 50, np.uint16), "minisblack", extratags=[(281, "H", 1, 4095, True)])
    assert measure_ranges([stated], AUTO) == {"uint16": (0, 4095)}
    assert measure_ranges([stated, noise(0, 200)], AUTO) == {"uint16": (0, 4095)}
    assert measure_ranges([stated, noise(0, 9000)], AUTO) == {"uint16": (0, 16383)}


def test_floats_within_0_and_1_are_left_so_and_others_go_by_percentiles() -> None:
    assert measure_ranges([noise(0, 0.5, np.float32)], AUTO) == {}
    outlier = np.zeros((300, 300), np.float32)
    outlier[7, 7] = 1.5
    outlier[8:] = 0.5
    assert measure_ranges([written(outlier, "minisblack")], AUTO) == {"float32": (0, 0.5)}
    samples = np.linspace(-10, 90, 64 * 64).reshape(64, 64)
    low, high = measure_ranges([written(samples, "minisblack")], AUTO)["float64"]
    assert (low, high) == pytest.approx(tuple(np.percentile(samples, (0.1, 99.9))), abs=0.05)


def test_percentiles_are_those_of_all_samples_together() -> None:
    images = [np.arange(0, 10_000, dtype=np.uint16), np.arange(10_000, 20_000, dtype=np.uint16)]
    files = [written(image.reshape(100, 100), "minisblack") for image in images]
    assert measure_ranges(files, PERCENTILE) == {"uint16": (199, 19_799)}
    assert measure_ranges(files[::-1], PERCENTILE) == {"uint16": (199, 19_799)}
    assert measure_ranges([noise(-500, 500, np.int16)], AUTO)["int16"] == pytest.approx((-499, 499), abs=3)


def test_each_sample_type_has_its_own_range() -> None:
    files = [noise(0, 4000), noise(-1, 1, np.float32), noise(0, 2**20, np.uint32), noise(0, 255, np.uint8)]
    ranges = measure_ranges(files, AUTO)
    low, high = ranges["float32"]
    assert (low, high) == pytest.approx((-1, 1), abs=0.01)
    assert ranges.keys() == {"uint16", "float32", "uint32"}
    assert ranges["uint16"] == (pytest.approx(4, abs=4), pytest.approx(3996, abs=4))
    resolved = resolve_policy(AUTO, ranges)
    assert resolved.tiff_range.startswith(f"float32={low}:{high},uint16=")
    assert parse_ranges(resolved.tiff_range) == ranges


def test_large_images_are_measured_by_a_part_of_their_samples() -> None:
    low, high = measure_ranges([noise(0, 10_000, side=600)], PERCENTILE)["uint16"]
    assert (low, high) == pytest.approx((100, 9900), abs=40)


def test_files_that_tell_nothing_are_passed_over() -> None:
    nothing = [
        b"no tiff",
        written(NOISE),
        noise(0, 4000)[:-9],
        written(np.array([[0, np.nan]], np.float32), "minisblack"),
        written(np.full((4, 4, 4), 30_000, np.uint16), "separated"),
        written(np.zeros((4, 4), np.float32) + 7, "minisblack"),
    ]
    assert measure_ranges(nothing, AUTO) == {}
    assert resolve_policy(AUTO, {}).tiff_range == tiff_range.EIGHT_BITS
    assert measure_ranges([*nothing, noise(0, 4000)], AUTO).keys() == {"uint16"}


def test_the_pages_and_channels_of_the_policy_are_measured() -> None:
    stack = np.stack([np.full((8, 8, 3), value, np.uint16) for value in (100, 3000, 50_000)])
    data = written(stack)
    ends = {"first": (0, 255), "1": (0, 4095), "max-projection": (100, 50_000)}
    for page, range_of_page in ends.items():
        assert measure_ranges([data], TiffPolicy(tiff_page=page)) == {"uint16": range_of_page}
    channels = written(np.full((8, 8, 5), (9, 9, 900, 9, 9), np.uint16), "minisblack", planarconfig="contig")
    assert measure_ranges([channels], TiffPolicy(tiff_channels="2")) == {"uint16": (0, 1023)}
    assert measure_ranges([channels], TiffPolicy(tiff_channels="0")) == {"uint16": (0, 255)}


@pytest.fixture
def source(tmp_path: Path) -> Location:
    """12-bit training images in 16 bits, and brighter test images."""
    for label in ("liver", "lung"):
        for split, count, top in (("train", 6, 4000), ("test", 2, 65_000)):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.tif").write_bytes(noise(0, top, side=24))
    return Location(str(tmp_path))


def listed(source: Location) -> pa.Table:
    """What a listing says of each file, as far as measuring reads it."""
    rows = [
        asdict(file) | dict(zip(("split", "label"), file.path.split("/"), strict=False)) for file in source.list_files()
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_data_set_is_measured_by_its_training_images(source: Location) -> None:
    images, config = listed(source), ImageConfig(image_size=64)
    resolved = with_measured_ranges(source, images, config)
    low, high = parse_ranges(resolved.tiff_range)["uint16"]
    assert (low, high) == (pytest.approx(4, abs=5), pytest.approx(3996, abs=5))
    assert resolved == ImageConfig(image_size=64, tiff_range=resolved.tiff_range)
    assert with_measured_ranges(source, images, resolved) is resolved


def test_a_bounded_number_of_files_is_read(source: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    images, read = listed(source), list[str]()

    read_listed = Location.read_listed

    def recorded(self: Location, files: list[StoredFile]) -> list[tuple[bytes, str]]:
        read.extend(file.path for file in files)
        return read_listed(self, files)

    monkeypatch.setattr(Location, "read_listed", recorded)
    with_measured_ranges(source, images, ImageConfig(tiff_range="0:9"))
    assert read == []
    monkeypatch.setattr(tiff_range, "MEASURED_FILES", 5)
    with_measured_ranges(source, images, ImageConfig())
    assert len(read) == 5
    assert all(name.startswith("train/") for name in read)
    read.clear()
    monkeypatch.setattr(tiff_range, "MEASURED_BYTES", 1)
    assert with_measured_ranges(source, images, ImageConfig()).tiff_range.startswith("uint16=")
    assert len(read) == 1


def test_an_interrupted_run_over_the_same_listing_reads_nothing_to_measure_again(
    source: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = listed(source)
    folder = OutputFolder(Location(str(tmp_path / "out")), SampleRecord, {}, {"listing": "a"})
    folder.begin()
    resolved, most = with_ranges_of_run(folder, source, images, ImageConfig())
    assert resolved.tiff_range.startswith("uint16=")
    assert most > 0
    monkeypatch.setattr(Location, "read_listed", None)
    folder.begin()
    assert with_ranges_of_run(folder, source, images, ImageConfig()) == (resolved, most)
    given = ImageConfig(tiff_range="0:9")
    assert with_ranges_of_run(folder, source, images, given) == (given, 0)


def test_a_file_that_is_not_as_it_was_listed_is_a_fault(source: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.storage.faults.time.sleep", lambda _: None)
    images = listed(source)
    path = Path(source.uri) / images.filter(images["split"].to_numpy() == "train")["path"][0].as_py()
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(StorageError, match=path.name):
        with_measured_ranges(source, images, ImageConfig())
