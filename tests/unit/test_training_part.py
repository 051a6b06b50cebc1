"""Some training images as a data set of their own: the same pixels under new positions, and nothing else."""

import numpy as np
import pyarrow as pa
import pytest

from lib.config.conversion import ConvertConfig
from lib.config.resources import DecodeConfig
from lib.dataset.shard_source import ShardSource
from lib.dataset.source import NAMES, image_array
from lib.dataset.training_part import TrainingPart
from lib.folders.model import SEEN_SCHEMA
from lib.storage.location import Location
from tests.fakes.conversion import convert_here
from tests.fakes.tiffs import write_source

SIZE = 16


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ShardSource:
    folder = tmp_path_factory.mktemp("part")
    write_source(folder / "source", train=9, test=3)
    config = ConvertConfig(
        source=str(folder / "source"), output=str(folder / "dataset"),
        image_size=SIZE, images_per_shard=4, validation_fraction=0.2,
    )  # fmt: skip
    convert_here(config)
    return ShardSource.open(Location(config.output))


def names(source: ShardSource) -> pa.Table:
    return pa.concat_tables([source.names(unit) for unit in source.units("train")])


def pixels(source: ShardSource) -> dict[str, np.ndarray]:
    decoded = pa.concat_tables([source.decoder(unit) for unit in source.units("train")])
    return dict(zip(decoded["image_id"].to_pylist(), image_array(decoded, SIZE), strict=True))


@pytest.fixture(params=[[0, 5, 6, 13], list(range(14)), [8]])
def part(whole: ShardSource, request: pytest.FixtureRequest) -> TrainingPart:
    return TrainingPart.of(whole, names(whole).take(request.param))


def test_positions_follow_each_other_and_pixels_are_those_of_the_whole(whole: ShardSource, part: TrainingPart) -> None:
    images = names(part)
    assert images.column_names == NAMES
    assert images["position"].to_pylist() == list(range(part.count("train")))
    assert images["image_id"].to_pylist() == part.images["image_id"].to_pylist()
    every = pixels(whole)
    for image, own in pixels(part).items():
        np.testing.assert_array_equal(own, every[image])


def test_it_counts_its_own_images_and_has_no_other_split(part: TrainingPart) -> None:
    labels = names(part)["label"].to_pylist()
    assert part.class_counts("train") == [labels.count(name) for name in part.class_names]
    for split in ("validation", "test"):
        assert (part.count(split), part.units(split), sum(part.class_counts(split))) == (0, [], 0)


def test_a_model_that_is_trained_on_it_has_seen_these_images_alone(part: TrainingPart) -> None:
    seen = part.trained_on(("train", "validation"), {}, SEEN_SCHEMA.empty_table(), DecodeConfig()).checksums
    assert set(seen["image_id"].to_pylist()) == set(part.images["image_id"].to_pylist())
    assert seen.num_rows == part.images.num_rows


def test_other_images_have_another_hash(whole: ShardSource) -> None:
    hashes = {TrainingPart.of(whole, names(whole).take(chosen)).content_hash for chosen in ([0, 1], [0, 2], [0])}
    assert len({*hashes, whole.content_hash}) == 4
