import io
import pickle
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
import tifffile
from sklearn.linear_model import LogisticRegression

from lib.config.conversion import SampleConfig
from lib.sample.tiffs import ENCODINGS, KINDS, SIZES, SampleImage, sample_images, write_sample
from lib.sample.tissue import TISSUES, TissueKind, draw_tissue

CYCLE = range(len(ENCODINGS))
BINS = 16
COMPRESSION_TAGS = {None: 1, "lzw": 5, "jpeg": 7, "zlib": 8, "zstd": 50000}


def decode(data: bytes) -> np.ndarray:
    return tifffile.imread(io.BytesIO(data))


def eight_bit_rgb(data: bytes) -> np.ndarray:
    image = decode(data)[..., :3]
    return (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image


def colour_histogram(image: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [np.histogram(image[..., channel], BINS, (0, 256))[0] / image[..., channel].size for channel in range(3)]
    )


def test_there_are_twelve_kinds_with_different_names() -> None:
    assert len(TISSUES) == len(KINDS) == 12


@pytest.mark.parametrize("kind", TISSUES, ids=lambda kind: kind.name)
def test_every_kind_is_drawn_as_rgb_from_light_glass_to_dark_nuclei(kind: TissueKind) -> None:
    image = draw_tissue(kind, np.random.default_rng(1), 192)
    assert image.shape == (192, 192, 3)
    assert image.dtype == np.uint8
    assert np.percentile(image, 95) > 200
    assert np.percentile(image, 3) < 100


def test_the_generator_alone_decides_the_picture() -> None:
    first, again, other = (draw_tissue(TISSUES[0], np.random.default_rng(seed), 128) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_every_kind_gets_the_same_colours_from_the_same_staining(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 16, axis=1).repeat(3, axis=2)
    monkeypatch.setattr("lib.sample.tissue.random_palette", lambda _rng: ramp)
    for kind in TISSUES:
        image = draw_tissue(kind, np.random.default_rng(3), 128)
        counts = np.bincount(image[..., 0].ravel(), minlength=256)
        assert (counts == 128 * 128 // 256).all(), kind.name


def test_colour_alone_does_not_tell_the_classes_apart() -> None:
    images = list(sample_images(SampleConfig(output="unused", train_per_class=15, test_per_class=7)))
    histograms = np.stack([colour_histogram(image.pixels()) for image in images])
    labels = np.array([image.label for image in images])
    train = np.array([image.split == "train" for image in images])
    model = LogisticRegression(max_iter=2000).fit(histograms[train], labels[train])
    assert model.score(histograms[~train], labels[~train]) < 0.35


@pytest.mark.parametrize("index", CYCLE)
def test_every_encoding_is_a_tiff_that_holds_the_picture(index: int) -> None:
    image = SampleImage(seed=0, split="train", label="liver", index=index)
    decoded, pixels = eight_bit_rgb(image.encode()), image.pixels()
    assert decoded.shape == pixels.shape == (*SIZES[index % len(SIZES)], 3)
    if image.encoding.lossless:
        np.testing.assert_array_equal(decoded, pixels)
    else:
        assert cv2.PSNR(np.ascontiguousarray(decoded), np.ascontiguousarray(pixels)) > 30


@pytest.mark.parametrize("index", CYCLE)
def test_a_file_is_laid_out_as_its_encoding_says(index: int) -> None:
    image = SampleImage(seed=0, split="test", label="bone", index=index)
    with tifffile.TiffFile(io.BytesIO(image.encode())) as tiff:
        page = tiff.pages[0]
        assert len(tiff.pages) == 1
        assert (tiff.byteorder, tiff.is_bigtiff) == (image.encoding.byteorder, image.encoding.bigtiff)
        assert page.compression == COMPRESSION_TAGS[image.encoding.compression]
        assert page.is_tiled == bool(image.encoding.tile)
        assert page.dtype == (np.uint16 if image.encoding.sixteen_bit else np.uint8)
        assert page.samplesperpixel == 3 + image.encoding.alpha
        assert not {"DateTime", "Software"} & {tag.name for tag in page.tags}


def test_sixteen_bit_files_give_the_picture_by_either_way_back_and_use_their_low_byte() -> None:
    index = next(index for index in CYCLE if ENCODINGS[index].sixteen_bit)
    image = SampleImage(seed=0, split="train", label="lung", index=index)
    decoded = decode(image.encode())
    np.testing.assert_array_equal(decoded >> 8, image.pixels())
    np.testing.assert_array_equal(np.round(decoded / 257), image.pixels())
    assert np.unique(decoded).size > 1000


def test_alpha_is_opaque_everywhere() -> None:
    index = next(index for index in CYCLE if ENCODINGS[index].alpha)
    assert (decode(SampleImage(seed=0, split="train", label="fat", index=index).encode())[..., 3] == 255).all()


def test_the_same_fields_give_the_same_bytes_even_after_pickling() -> None:
    for index in CYCLE:
        image = SampleImage(seed=5, split="test", label="skin", index=index)
        assert image.encode() == pickle.loads(pickle.dumps(image)).encode()


def test_seed_split_label_and_index_each_change_the_picture() -> None:
    images = [
        SampleImage(0, "train", "colon", 0),
        SampleImage(1, "train", "colon", 0),
        SampleImage(0, "test", "colon", 0),
        SampleImage(0, "train", "kidney", 0),
        SampleImage(0, "train", "colon", 2),
    ]
    assert len({image.pixels().tobytes() for image in images}) == len(images)


def test_the_folder_holds_one_file_for_each_image_and_a_second_run_writes_nothing(tmp_path: Path) -> None:
    config = SampleConfig(output=str(tmp_path / "sample"), train_per_class=2, test_per_class=1)
    record = write_sample(config)
    files = {path.relative_to(tmp_path / "sample").as_posix(): path for path in tmp_path.rglob("*.tif")}
    assert record.images == len(files) == 12 * 3
    assert len({path.read_bytes() for path in files.values()}) == 12 * 3
    assert "train/liver/liver_0002.tif" in files
    assert {PurePosixPath(path).parts[:2] for path in files} == {
        (split, label) for split in ("train", "test") for label in KINDS
    }
    written = {path: path.stat().st_mtime_ns for path in files.values()}
    assert write_sample(config) == record
    assert {path: path.stat().st_mtime_ns for path in files.values()} == written


def test_every_class_has_the_same_mix_of_files() -> None:
    config = SampleConfig(output="unused")
    mixes = {
        label: [
            (image.encoding, SIZES[image.index % len(SIZES)]) for image in sample_images(config) if image.label == label
        ]
        for label in KINDS
    }
    assert all(mix == mixes["skin"] for mix in mixes.values())
