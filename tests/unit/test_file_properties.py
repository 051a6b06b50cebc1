"""The floor that sees files alone: what gives classes away is named, and nothing is where there is nothing."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile

from lib.config.images import TiffPolicy
from lib.evaluation.checks.file_properties import MOST_IMAGES, file_properties, in_words, name_patterns
from lib.folders.manifest import MANIFEST_SCHEMA
from lib.ingest.tiff.decode import read_tiff
from lib.ingest.tiff.traits import file_traits

CLASSES = ("liver", "lung", "skin")


def manifest(count: int = 120, seed: int = 0, groups: int | None = None, **columns: Any) -> pa.Table:
    """Training images of three classes in turns, all written alike but for their sizes, which are drawn."""
    random = np.random.default_rng(seed)
    rows = [
        {
            "image_id": f"{number:05d}",
            "path": f"train/{CLASSES[number % 3]}/{CLASSES[number % 3]}_{number:04d}.tif",
            "label": CLASSES[number % 3],
            "split": "test" if number % 10 == 9 else "validation" if number % 10 == 8 else "train",
            "group": None if groups is None else f"slide {number % groups}",
            "verdict": "accepted",
            "size_bytes": int(random.integers(10_000, 20_000)),
            "compression": "lzw",
            "tags": "abcdef",
            "sample_type": "uint8",
            "width": 512,
            "height": 512,
        }
        | {name: value(number) for name, value in columns.items()}
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def test_files_that_are_alike_give_nothing_away() -> None:
    found = file_properties(manifest())
    assert found.images == 108  # without those for testing
    assert found.chance == pytest.approx(1 / 3)
    assert not found.beats_chance
    assert [one.name for one in found.properties] == ["size of the file"]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("size of the file", {"size_bytes": lambda number: 10_000 + 5_000 * (number % 3) + number}),
        ("size in pixels", {"width": lambda number: 1024 if number % 3 else 512}),
        ("compression", {"jpeg_tables": lambda number: "aaaaaa" if number % 3 == 1 else None}),
        ("tags and software", {"software": lambda number: "Aperio" if number % 3 == 1 else "ImageJ"}),
        ("bits", {"sample_type": lambda number: "uint16" if number % 3 == 2 else "uint8"}),
        ("pages", {"pages": lambda number: 1 + (number % 3 == 2)}),
        ("resolution", {"micrometres": lambda number: 0.5 if number % 3 else None}),
        ("pattern of the name", {"path": lambda number: f"train/x/{'IMG' if number % 3 else 'a-b'}{number:04d}.tif"}),
    ],
)
def test_what_gives_a_class_away_is_named(name: str, columns: dict[str, Any]) -> None:
    found = file_properties(manifest(**columns))
    assert found.beats_chance
    assert [one.name for one in found.telling] == [name]
    assert found.telling[0].accuracy > 0.6
    assert f"by the {name} (" in in_words(found)
    assert ("depends on what it shows" in in_words(found)) == (name == "size of the file")


def test_a_slide_is_told_by_other_slides() -> None:
    """Each slide has a scanner of its own: known images of it would tell its class, other slides do not."""
    software = {"software": lambda number: f"scanner {number % 12}"}
    assert file_properties(manifest(**software)).beats_chance
    assert not file_properties(manifest(groups=12, **software)).beats_chance


def test_few_false_alarms_are_raised() -> None:
    alarms = sum(
        file_properties(manifest(60, seed, pages=lambda number, seed=seed: hash((number, seed)) % 4)).beats_chance
        for seed in range(8)
    )
    assert alarms <= 1


def test_there_is_no_floor_where_no_image_can_be_left_out() -> None:
    assert file_properties(manifest(0)) is None
    assert file_properties(manifest(groups=3)) is None  # each class is one slide
    assert file_properties(manifest(label=lambda number: "liver")) is None


def test_of_many_images_some_of_each_class_are_looked_at() -> None:
    found = file_properties(manifest(7000))
    assert found.images == MOST_IMAGES
    assert found.chance == pytest.approx(1 / 3, abs=0.001)


def test_the_label_in_a_name_is_no_pattern() -> None:
    rows = [("t/Liver/liver_001.tif", "liver"), ("t/lung/LUNG_012.tif", "lung"), ("t/skin/AT2-7.b.tif", "skin")]
    table = pa.table({"path": [path for path, _ in rows], "label": [label for _, label in rows]})
    assert name_patterns(table).to_pylist() == ["_000", "_000", "a0-0.a"]


def traits(**options: Any) -> Any:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    tifffile.imwrite(stream, pixels, photometric="rgb", **options)
    return read_tiff(stream.getvalue(), TiffPolicy()).traits


def test_how_a_file_was_written_is_read_from_it() -> None:
    plain = traits(software="Scanner 3")
    assert (plain["compression"], plain["jpeg_tables"], plain["software"]) == ("none", None, "Scanner 3")
    assert traits(compression="lzw")["compression"] == "lzw"
    assert (
        traits(description="x")["tags"]
        == traits(description="y")["tags"]
        != traits(extratags=[(270, 2, 1, "x"), (315, 2, 1, "x")])["tags"]
    )


def test_a_file_without_a_tag_for_its_compression_is_uncompressed() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.arange(64, dtype=np.uint8).reshape(8, 8))
    with tifffile.TiffFile(io.BytesIO(stream.getvalue())) as file:
        file.pages.first.compression = 1  # as tifffile leaves it then: a number, not one of its names
        assert file_traits(stream.getvalue(), file.pages.first)["compression"] == "none"


def test_jpegs_of_one_quality_have_the_same_tables_and_those_of_another_have_others() -> None:
    tables = [traits(compression="jpeg", compressionargs={"level": level})["jpeg_tables"] for level in (75, 75, 90)]
    assert tables[0] == tables[1] != tables[2]
    assert None not in tables
