"""The Ray Data graphs that decode images: for a worker that trains, and for a pool of actors that hold a network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from lib.dataset.source import DECODED_SCHEMA, Decoder, ImageSource
from lib.ray_data import map_units, stream_tables, units_dataset
from lib.storage.filesystem import Location

DONE_SCHEMA = pa.schema([pa.field("images", pa.int64(), nullable=False)])


def decoded_dataset(source: ImageSource, split: str, runs: Sequence[range]) -> "ray.data.Dataset":
    """A dataset whose blocks are the decoded units (`DECODED_SCHEMA`) that cover runs of positions, in their order."""
    units = [unit for run in runs for unit in source.units(split, run.start, run.stop)]
    if not units:
        return units_dataset([DECODED_SCHEMA.empty_table()])
    return map_units(units_dataset(units), source.decoder, num_cpus=1)


def run_pool(
    units: list[pa.Table], decoder: Decoder, actor: type, arguments: Mapping[str, Any], size: int, use_gpu: bool
) -> Iterator[int]:
    """Decode units, and hand each to one of a pool of actors, which writes a part of the output.

    With GPUs, tasks on any core decode for the actors. Without, Ray Data fuses both into the actors, which spares
    copies and processes.

    Args:
        units: At least one.
        decoder: From a unit to its images.
        actor: Its class; called with a decoded unit, it writes its part and returns what `done` says.
        arguments: What its constructor takes.
        size: Most actors at once.
        use_gpu: Whether each has a GPU.

    Yields:
        The images of each unit that is done.
    """
    graph = map_units(
        map_units(units_dataset(units), decoder, num_cpus=1),
        actor,
        fn_constructor_kwargs=dict(arguments),
        compute=ActorPoolStrategy(min_size=1, max_size=size),
        num_cpus=1,
        num_gpus=1 if use_gpu else 0,
    )
    for table in stream_tables(graph):
        yield sum(table["images"].to_pylist())


def done(images: int) -> pa.Table:
    """What an actor of a pool says of a unit that it has written."""
    return pa.table([[images]], schema=DONE_SCHEMA)


def first_position(unit: pa.Table) -> int:
    """The position of the first image of a unit, decoded or not."""
    return int(unit["position"][0].as_py())


def part_name(first: int) -> str:
    """The file that holds what is made of a unit: named by its first position, so that it is the same every time."""
    return f"part-{first:09d}.parquet"


def without_parts(units: list[pa.Table], folder: Location) -> list[pa.Table]:
    """The units that have no part in a folder yet."""
    written = {file.path for file in folder.list_files()}
    return [unit for unit in units if part_name(first_position(unit)) not in written]
