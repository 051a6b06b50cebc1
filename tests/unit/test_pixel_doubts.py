"""What the conversion made of the pixels is looked at, counted, and told with the setting that helps."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from lib.config.conversion import ConvertConfig
from lib.config.images import TiffPolicy
from lib.errors import DataError, TooManyBadImagesError
from lib.folders.dataset import DatasetRecord
from lib.ingest.pixel_use import pixel_use
from lib.ingest.tiff.decode import read_tiff
from tests.fakes.conversion import convert_here
from tests.fakes.tiff_bytes import written

Draw = Callable[[np.random.Generator], np.ndarray]
SIDE = 48
TRAINED, TESTED = 6, 2


def cells(random: np.random.Generator, ground: float, light: float, noise: float) -> np.ndarray:
    """A few bright spots that fade into a dark ground, as float64 of SIDE x SIDE."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.full((SIDE, SIDE), ground) + random.normal(0, noise, (SIDE, SIDE))
    for row, column in random.integers(6, SIDE - 6, (5, 2)):
        image += light * random.uniform(0.5, 1) * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 60)
    return image.clip(0)


def fluorescence(random: np.random.Generator) -> np.ndarray:
    return cells(random, 300, 15_000, 60).astype(np.uint16)


def twelve_bits(random: np.random.Generator) -> np.ndarray:
    return cells(random, 500, 3500, 40).clip(0, 4095).astype(np.uint16)


def sixteen_bits(random: np.random.Generator) -> np.ndarray:
    return cells(random, 8000, 57_000, 400).clip(0, 65_535).astype(np.uint16)


def ordinary(random: np.random.Generator) -> np.ndarray:
    return np.repeat(cells(random, 60, 180, 9)[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)


def write(folder: Path, draws: dict[str, Draw], test: dict[str, Draw] | None = None, **options: Any) -> ConvertConfig:
    """A source with a class for each way of drawing."""
    random = np.random.default_rng(3)
    for split, of_split, count in (("train", draws, TRAINED), ("test", test or draws, TESTED)):
        for label, draw in of_split.items():
            for number in range(count):
                place = folder / "source" / split / label / f"{number}.tif"
                place.parent.mkdir(parents=True, exist_ok=True)
                pixels = draw(random)
                photometric = "rgb" if pixels.ndim > 2 and pixels.shape[-1] in {3, 4} else "minisblack"
                tifffile.imwrite(place, pixels, photometric=photometric, metadata=None, **options)
    return ConvertConfig(source=str(folder / "source"), output=str(folder / "dataset"), image_size=32)


def convert(config: ConvertConfig, **settings: Any) -> tuple[DatasetRecord, pd.DataFrame]:
    config = config.model_copy(update=settings)
    return convert_here(config), pd.read_parquet(Path(config.output) / "manifest.parquet")


def doubts(record: DatasetRecord) -> dict[tuple[str, str | None], tuple[int, int]]:
    return {(doubt.kind, doubt.label): (doubt.images, doubt.of) for doubt in record.pixels}


@pytest.mark.parametrize("shape", [(200, 130, 3), (12, 9, 3), (1, 1, 3), (5000, 4, 3)])
def test_shares_and_levels_are_those_of_the_image_before_it_is_resized(shape: tuple[int, int, int]) -> None:
    image = np.zeros(shape, np.uint8)
    image[: shape[0] // 2] = 255
    image[:, :, 1] = 7
    black, white = (shape[0] + 1) // 2 / shape[0] * 2 / 3, shape[0] // 2 / shape[0] * 2 / 3
    use = pixel_use(read_tiff(written(image), TiffPolicy()).some_rows)
    assert use["black"] == pytest.approx(black, abs=0.06)
    assert use["white"] == pytest.approx(white, abs=0.06)
    assert use["levels"] == (3 if shape[0] > 1 else 2)


def test_nothing_is_said_of_ordinary_images(tmp_path: Path) -> None:
    record, manifest = convert(write(tmp_path, {"liver": ordinary, "lung": ordinary}))
    assert (record.pixels, record.micrometres) == ([], None)
    assert set(manifest["sample_type"]) == {"uint8"}
    assert set(manifest["pages"]) == {1}
    assert manifest["levels"].min() > 50
    assert manifest["black"].max() < 0.5


def test_fluorescence_of_16_bits_uses_the_levels_that_there_are(tmp_path: Path) -> None:
    record, manifest = convert(write(tmp_path, {"liver": fluorescence, "lung": fluorescence}))
    assert record.pixels == []
    assert manifest["levels"].median() > 120
    assert manifest["white"].max() < 0.05


def test_values_in_a_narrow_band_far_from_zero_use_all_levels(tmp_path: Path) -> None:
    def narrow(random: np.random.Generator) -> np.ndarray:
        return (30_000 + cells(random, 100, 700, 20)).astype(np.uint16)

    record, manifest = convert(write(tmp_path, {"liver": narrow, "lung": narrow}))
    assert record.pixels == []
    assert manifest["levels"].median() > 100


def zero_to_one(random: np.random.Generator) -> np.ndarray:
    return (cells(random, 60, 180, 9) / 255).clip(0, 1).astype(np.float32)


def zero_to_255(random: np.random.Generator) -> np.ndarray:
    return cells(random, 60, 180, 9).clip(0, 255).astype(np.float32)


@pytest.mark.parametrize(
    ("usual", "rare"), [(twelve_bits, sixteen_bits), (sixteen_bits, twelve_bits), (zero_to_one, zero_to_255)]
)
def test_a_class_of_another_scale_is_refused_with_the_choice_to_make(tmp_path: Path, usual: Draw, rare: Draw) -> None:
    config = write(tmp_path, {"a": usual, "b": usual, "c": usual, "rare": rare})
    with pytest.raises(DataError, match=r"(?s)samples go from .* no one range fits both.*--tiff-range percentile"):
        convert(config)
    record, _ = convert(config, tiff_range="percentile", output=str(tmp_path / "chosen"))
    assert record.counts.accepted == 4 * (TRAINED + TESTED)


def dim(random: np.random.Generator) -> np.ndarray:
    return cells(random, 200, 1200, 20).astype(np.uint16)


def test_levels_that_a_range_loses_are_told_by_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        record, _ = convert(write(tmp_path, {"liver": dim, "lung": sixteen_bits}), tiff_range="0:65535")
    assert doubts(record) == {("few_levels", "liver"): (8, 8)}
    (message,) = [text for text in caplog.messages if "levels" in text]
    assert "8 of 8 of liver (uint16); try --tiff-range percentile" in message


def test_a_range_that_ends_too_low_is_told(tmp_path: Path) -> None:
    draws: dict[str, Draw] = {"liver": sixteen_bits, "lung": twelve_bits}
    record, _ = convert(write(tmp_path, draws), tiff_range="0:12000")
    assert doubts(record) == {("clipped", "liver"): (8, 8)}
    draws["liver"] = lambda random: 65_535 - sixteen_bits(random) // 2
    record, _ = convert(write(tmp_path / "bright", draws), tiff_range="0:12000")
    assert doubts(record) == {("one_colour", "liver"): (8, 8)}


def test_an_alpha_channel_that_hides_everything_is_left_out_and_told(tmp_path: Path) -> None:
    def unseen(random: np.random.Generator) -> np.ndarray:
        return np.dstack([ordinary(random), np.zeros((SIDE, SIDE), np.uint8)])

    config = write(tmp_path, {"liver": unseen, "lung": unseen}, extrasamples=["unassalpha"])
    record, manifest = convert(config)
    assert doubts(record) == {("empty_alpha", "liver"): (8, 8), ("empty_alpha", "lung"): (8, 8)}
    assert set(manifest["note"]) == {"empty_alpha"}
    assert manifest["levels"].min() > 50


def test_a_blank_first_page_is_told_with_the_page_to_choose(tmp_path: Path) -> None:
    def blank_first(random: np.random.Generator) -> np.ndarray:
        picture = ordinary(random)[..., 0]
        return np.stack([np.full_like(picture, 255), picture])

    record, manifest = convert(write(tmp_path, {"liver": blank_first, "lung": ordinary}))
    assert doubts(record) == {("one_colour", "liver"): (8, 8), ("unused_pages", "liver"): (8, 8)}
    assert {doubt.kind: doubt.advice for doubt in record.pixels}["one_colour"].endswith("--tiff-page")
    assert manifest["pages"].max() == 2
    chosen, _ = convert(write(tmp_path / "again", {"liver": blank_first, "lung": blank_first}), tiff_page="1")
    assert {doubt.kind for doubt in chosen.pixels} == {"unused_pages"}


def test_a_sample_type_that_training_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    draws: dict[str, Draw] = {"liver": ordinary, "lung": ordinary}
    with pytest.raises(TooManyBadImagesError, match=r"test/liver/0\.tif \(uint16 samples, of which.*--tiff-range"):
        convert(write(tmp_path, draws, test={"liver": sixteen_bits, "lung": ordinary}))
    assert "no_range" in (tmp_path / "dataset/quarantined.csv").read_text("utf-8-sig")


def test_a_type_that_says_itself_what_is_white_is_read_and_told(tmp_path: Path) -> None:
    config = write(tmp_path, {"liver": ordinary, "lung": ordinary}, test={"liver": zero_to_one, "lung": ordinary})
    record, _ = convert(config)
    assert [(doubt.kind, doubt.sample_type, doubt.images) for doubt in record.pixels] == [
        ("untrained_type", "float32", TESTED)
    ]


def test_widths_of_pixels_are_summarised_and_mixed_ones_told(tmp_path: Path) -> None:
    config = write(tmp_path, {"liver": ordinary, "lung": ordinary}, resolution=(20_000, 20_000), resolutionunit=3)
    record, manifest = convert(config)
    assert record.micrometres is not None
    assert (record.micrometres.images, record.micrometres.median, record.pixels) == (16, 0.5, [])
    assert set(manifest["micrometres"]) == {0.5}
    tifffile.imwrite(
        tmp_path / "source/train/lung/other.tif",
        ordinary(np.random.default_rng(1)), photometric="rgb", resolution=(10_000, 10_000), resolutionunit=3,
    )  # fmt: skip
    mixed, _ = convert(config, output=str(tmp_path / "mixed"))
    assert [doubt.kind for doubt in mixed.pixels] == ["mixed_scales"]
    assert "0.5 to 1 micrometres" in mixed.pixels[0].advice


def test_bad_images_are_named_with_what_reads_them_and_stand_in_a_table(tmp_path: Path) -> None:
    def fourth(random: np.random.Generator) -> np.ndarray:
        return np.dstack([ordinary(random), ordinary(random)[..., 0]])

    config = write(tmp_path, {"liver": fourth, "lung": fourth}, extrasamples=["unspecified"])
    with pytest.raises(TooManyBadImagesError) as caught:
        convert(config)
    message = str(caught.value)
    assert message.count(".tif (") == 5
    assert "quarantined.csv" in message
    assert "--tiff-alpha ignore" in message
    table = pd.read_csv(tmp_path / "dataset/quarantined.csv")
    assert list(table.columns) == ["path", "label", "split", "reason", "detail"]
    assert len(table) == 16
    record, _ = convert(config, tiff_alpha="ignore", output=str(tmp_path / "read"))
    assert record.counts.quarantined == 0
    assert not (tmp_path / "read/quarantined.csv").exists()
