"""What Ray Train hands each worker: the units of its own lanes, and nothing of the others or of the test images."""

from pathlib import Path

import pyarrow as pa
import pytest
import ray

from lib.config.fitting import TrainConfig
from lib.config.images import ImageConfig
from lib.dataset.sampler import LaneOrder
from lib.dataset.source import NAMES, DatasetInfo
from lib.dataset.tiff_source import TiffSource
from lib.errors import SettingsError
from lib.folders.manifest import LISTING_SCHEMA
from lib.ingest.listing import Listing, image_id
from lib.models.spec import parse_spec
from lib.runtime.ray_data import stream_tables
from lib.storage.location import Location
from lib.training import trainer
from lib.training.trainer import model_folder
from lib.training.workers.lane_shards import FITTED_SPLITS, REFERENCE, LaneShards, training_datasets
from lib.training.workers.messages import MessageLog
from lib.training.workers.peers import TrainTask

COUNT, BATCH_SIZE = 26, 8

pytestmark = pytest.mark.usefixtures("local_ray")


def listed(images: int) -> TiffSource:
    """A listing of so many images, half of them for testing, whose files nobody reads."""
    paths = [f"train/{('liver', 'lung')[number % 2]}/slide_{number:07d}.tif" for number in range(images)]
    columns = {
        "image_id": list(map(image_id, paths)),
        "path": paths,
        "size_bytes": [1000] * images,
        "checksum": ["AAAAAA=="] * images,
        "version": ["1"] * images,
        "label": [path.split("/")[1] for path in paths],
        "split": [("test", "train")[number * 2 // images] for number in range(images)],
    }
    unknown = [None] * images
    table = pa.table({name: columns.get(name, unknown) for name in LISTING_SCHEMA.names}, schema=LISTING_SCHEMA)
    order = [("split", "ascending"), ("image_id", "ascending")]
    return TiffSource(
        Location("/images"), Listing(table.sort_by(order), table.slice(0, 0), ["liver", "lung"]), ImageConfig(), 5
    )


@pytest.fixture(scope="module")
def source() -> TiffSource:
    return listed(2 * COUNT)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, BATCH_SIZE])
def test_each_rank_is_handed_the_units_of_its_lanes(source: TiffSource, world_size: int) -> None:
    datasets = {"train": training_datasets(source)["train"]}
    shares = LaneShards(BATCH_SIZE).configure(datasets, world_size, worker_handles=None, worker_node_ids=None)
    handed = [pa.concat_tables(stream_tables(share["train"])) for share in shares]
    for rank, rows in enumerate(handed):
        order = LaneOrder(COUNT, BATCH_SIZE, rank, world_size)
        assert rows["position"].to_pylist() == list(order.positions)
    everything = pa.concat_tables(source.units("train"))
    assert pa.concat_tables(handed).select(NAMES).equals(everything.select(NAMES))


def test_a_rank_without_lanes_of_its_own_is_handed_no_row() -> None:
    datasets = {"train": training_datasets(listed(6))["train"]}  # three images in batches of eight
    shares = LaneShards(BATCH_SIZE).configure(datasets, 4, worker_handles=None, worker_node_ids=None)
    assert [sum(table.num_rows for table in stream_tables(share["train"])) for share in shares] == [0, 1, 1, 1]


def test_the_names_of_reference_images_are_for_every_rank(source: TiffSource) -> None:
    datasets = {REFERENCE: training_datasets(source)[REFERENCE]}
    shares = LaneShards(BATCH_SIZE).configure(datasets, 2, worker_handles=None, worker_node_ids=None)
    for share in shares:
        assert pa.concat_tables(stream_tables(share[REFERENCE])).equals(
            source.names(pa.concat_tables(source.units("train")))
        )


def test_a_training_that_began_with_another_order_of_images_is_refused(
    source: TiffSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(source="/images", output=str(tmp_path / "model"))
    model_folder(config, source).begin()
    monkeypatch.setattr(trainer, "IMAGE_ORDER", 3)
    with pytest.raises(SettingsError, match="image_order is 2 there and 3 here"):
        model_folder(config, source).begin()


def test_no_listing_is_in_what_every_worker_is_sent() -> None:
    def sent(images: int) -> int:
        source = listed(images)
        config = TrainConfig(source="/images", output="/model")
        task = TrainTask(config, parse_spec("cnn"), DatasetInfo.of(source, FITTED_SPLITS), None, MessageLog())
        return len(ray.cloudpickle.dumps({"task": task})) + len(ray.cloudpickle.dumps(LaneShards(BATCH_SIZE)))

    assert sent(100_000) - sent(100) < 100
    assert sent(100) < 20_000
