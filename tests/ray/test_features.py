"""Features of a frozen base: those that the base itself gives, each computed once, whoever reads them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lib.training.feature_extraction
from lib.config.fitting import TrainConfig
from lib.config.images import ImageConfig, ListingConfig
from lib.dataset.sampler import PADDING
from lib.dataset.source import RefusedImage, image_array
from lib.dataset.tiff_source import TiffSource
from lib.errors import TissueError
from lib.folders.features import FEATURE_SCHEMA, read_features
from lib.models.augmentation import Augmentation, draw
from lib.models.registry import build_base
from lib.models.spec import ModelSpec, parse_spec
from lib.storage.location import Location
from lib.training.feature_extraction import FeatureSource, compute_features
from tests.fakes.networks import write_random_weights
from tests.fakes.sources import damage, write_source

SIZE, SPLITS = 40, ("train", "validation")

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    write_source(folder / "source", {"liver": 9, "lung": 9, "skin": 9})
    damage(folder / "source/train/lung/lung_train_004.tif")
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> TrainConfig:
    return TrainConfig(
        source=str(folder / "source"), output=str(folder / "model"), image_size=SIZE,
        images_per_shard=4, validation_fraction=0.2, seed=3, precision="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def source(config: TrainConfig) -> TiffSource:
    listing = config.part(ListingConfig)
    return TiffSource.list_labelled(Location(str(config.source)), config.part(ImageConfig), listing)


@pytest.fixture(scope="module")
def spec(folder: Path) -> ModelSpec:
    write_random_weights(folder / "base.weights.h5", "MobileNet", alpha=0.25, input_shape=(SIZE, SIZE, 3))
    return parse_spec(f"mobilenet:alpha=0.25,weights={folder}/base.weights.h5")


@pytest.fixture(scope="module")
def base(spec: ModelSpec) -> keras.Model:
    return build_base(spec, SIZE)


@pytest.fixture(scope="module")
def features(source: TiffSource, spec: ModelSpec, config: TrainConfig, folder: Path) -> FeatureSource:
    return compute_features(source, spec, config, Location(f"{folder}/features"), SPLITS)


def decoded(source: TiffSource, split: str) -> pa.Table:
    return pa.concat_tables([source.decoder(unit) for unit in source.units(split)])


def expected(base: keras.Model, images: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(base(images, training=False))


def file_times(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}


@pytest.mark.parametrize("split", SPLITS)
def test_features_and_labels_are_those_of_the_decoded_images(
    features: FeatureSource, source: TiffSource, base: keras.Model, split: str
) -> None:
    images = decoded(source, split)
    found = features.read(split, range(images.num_rows))
    usable = np.array(images["image"].is_valid())
    assert (found.features.dtype, found.labels.dtype) == (np.float32, np.int32)
    correct = expected(base, image_array(images.filter(pa.array(usable)), SIZE))
    np.testing.assert_allclose(found.features[usable], correct, rtol=1e-4, atol=1e-6)
    assert np.ptp(correct, axis=0).max() > 1e-3  # so that the images do differ in their features
    assert [source.class_names[number] for number in found.labels[usable]] == [
        label for label, is_usable in zip(images["label"].to_pylist(), usable, strict=True) if is_usable
    ]
    stated = pa.concat_tables(found.checksums)
    assert stated.to_pylist() == [
        {"image_id": row["image_id"], "checksum": row["checksum"]}
        for row in images.to_pylist()
        if row["image"] is not None
    ]


def test_a_refused_image_keeps_its_place(features: FeatureSource, source: TiffSource) -> None:
    images = decoded(source, "train")
    (row,) = [row for row in images.to_pylist() if row["reason"] is not None]
    found = features.read("train", range(images.num_rows))
    assert found.refused == [RefusedImage(row["position"], row["image_id"], row["reason"], row["detail"])]
    assert found.labels[row["position"]] == PADDING
    assert not found.features[row["position"]].any()
    assert np.count_nonzero(found.labels == PADDING) == 1


def test_a_range_is_read_from_the_parts_that_have_it_and_no_others(
    features: FeatureSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = features.read("train", range(20))
    opened: list[int] = []

    def noted(folder: Location, first: int) -> pa.Table:
        opened.append(first)
        return read_features(folder, first)

    monkeypatch.setattr(lib.training.feature_extraction, "read_features", noted)
    some = features.read("train", range(5, 9))
    assert opened == [4, 8]
    np.testing.assert_array_equal(some.features, everything.features[5:9])
    np.testing.assert_array_equal(some.labels, everything.labels[5:9])
    assert features.read("train", range(7, 7)).features.shape == (0, features.width)


def test_parts_have_the_schema_that_is_written_down(features: FeatureSource) -> None:
    for file in Path(features.folder.location.uri).rglob("*.parquet"):
        assert pq.read_schema(file).equals(FEATURE_SCHEMA)


def test_what_is_there_is_not_computed_again(
    features: FeatureSource,
    source: TiffSource,
    spec: ModelSpec,
    config: TrainConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = Location(f"{folder}/features")
    lost = Path((features.folder.of("train", 0) / "part-000000008.parquet").uri)
    content, before = lost.read_bytes(), file_times(folder / "features")
    lost.unlink()
    assert compute_features(source, spec, config, output, SPLITS) == features
    assert lost.read_bytes() == content
    assert {file for file, time in file_times(folder / "features").items() if before[file] != time} == {str(lost)}
    monkeypatch.setattr(
        lib.training.feature_extraction, "run_pool", None
    )  # no actor is started when all parts are there
    assert compute_features(source, spec, config, output, SPLITS) == features


def test_features_of_some_images_are_found_again_when_all_are_wanted(
    source: TiffSource, spec: ModelSpec, config: TrainConfig, features: FeatureSource, folder: Path
) -> None:
    output = Location(f"{folder}/some")
    some = compute_features(source, spec, config, output, SPLITS, np.array([1, 9]))
    parts = file_times(folder / "some")
    assert [Path(file).name for file in sorted(parts)] == ["part-000000000.parquet", "part-000000008.parquet"]
    np.testing.assert_array_equal(
        some.read("train", range(9, 10)).features, features.read("train", range(9, 10)).features
    )
    every = compute_features(source, spec, config, output, SPLITS)
    assert every.starts == features.starts
    assert file_times(folder / "some").items() > parts.items()


def test_augmented_variants_are_the_changed_images_and_validation_stays_as_it_is(
    source: TiffSource, spec: ModelSpec, config: TrainConfig, base: keras.Model, folder: Path
) -> None:
    augmented = config.model_copy(update={"augment": ("flip", "stain"), "augmented_features": 2})
    features = compute_features(source, spec, augmented, Location(f"{folder}/augmented"), SPLITS)
    images = decoded(source, "train")
    images = images.filter(images["image"].is_valid())
    positions, pixels = images["position"].to_numpy(), image_array(images, SIZE)
    for variant in range(2):
        changed = Augmentation(augmented.augment)(pixels, draw(config.seed, variant, positions))
        found = features.read("train", range(source.count("train")), variant)
        np.testing.assert_allclose(found.features[positions], expected(base, changed), rtol=1e-4, atol=1e-6)
    unchanged = expected(base, image_array(decoded(source, "validation"), SIZE))
    found = features.read("validation", range(source.count("validation")))
    np.testing.assert_allclose(found.features, unchanged, rtol=1e-4, atol=1e-6)


def test_the_key_stands_for_everything_that_features_depend_on(
    features: FeatureSource,
    source: TiffSource,
    spec: ModelSpec,
    config: TrainConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Computed(Exception):  # noqa: N818
        pass

    def instead(*_: Any, **__: Any) -> Iterator[int]:
        raise Computed

    monkeypatch.setattr(lib.training.feature_extraction, "run_pool", instead)

    def is_there(source: TiffSource = source, spec: ModelSpec = spec, **changes: Any) -> bool:
        changed = config.model_copy(update=changes)
        try:
            return compute_features(source, spec, changed, Location(f"{folder}/features"), SPLITS) == features
        except Computed:
            return False

    other_weights = folder / "other.weights.h5"
    other_weights.write_bytes((folder / "base.weights.h5").read_bytes() + b"\0")
    assert is_there(epochs=99, batch_size=7, head_units=3, seed=4)  # images are not changed, so no seed is in it
    assert is_there(source=replace(source, images_per_unit=4))
    assert not is_there(augment=("flip",))
    assert not is_there(precision="mixed_bfloat16")
    assert not is_there(spec=parse_spec(f"mobilenet:alpha=0.25,weights={other_weights}"))
    assert not is_there(source=replace(source, images_per_unit=5))
    assert not is_there(source=replace(source, config=source.config.model_copy(update={"tiff_constant": "refuse"})))
    listing = replace(source.listing, images=source.listing.images.slice(1))
    assert not is_there(source=replace(source, listing=listing))


def test_weights_that_do_not_fit_are_named_in_the_driver_too(
    source: TiffSource, config: TrainConfig, folder: Path
) -> None:
    spec = parse_spec(f"mobilenet:alpha=0.5,weights={folder}/base.weights.h5")
    with pytest.raises(TissueError, match=r"base\.weights\.h5 do not fit mobilenet"):
        compute_features(source, spec, config, Location(f"{folder}/wrong"), SPLITS)
