"""The Ray Data graphs that decode images: for a worker that trains, and for a pool of actors that hold a network."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayActorError

from lib.config.resources import AcceleratorConfig, DecodeConfig
from lib.dataset.source import DECODED_SCHEMA, Decoder, first_position
from lib.errors import TissueError
from lib.folders.parts import part_name
from lib.runtime.environment import ray_is_ours
from lib.runtime.ray_data import accelerator_label, decoding, map_units, stream_tables, units_dataset
from lib.storage.location import Location

DONE_SCHEMA = pa.schema([pa.field(name, pa.int64(), nullable=False) for name in ("images", "quarantined")])
"""Between an actor and the driver; never in a file."""


class DoneUnit(NamedTuple):
    """What became of a unit.

    Attributes:
        images: How many it has.
        quarantined: Those of them that were refused.
    """

    images: int
    quarantined: int


def decoded_dataset(units: list[pa.Table], decoder: Decoder, decode: DecodeConfig) -> "ray.data.Dataset":
    """A dataset whose blocks are the decoded units (`DECODED_SCHEMA`), in their order."""
    if not units:
        return units_dataset([DECODED_SCHEMA.empty_table()])
    return map_units(units_dataset(units), decoder, **decoding(decode))


def tables_in_turn(graphs: "Iterable[ray.data.Dataset]") -> Iterator[pa.Table]:
    """The results of some graphs, one graph after the other; each is planned while the one before it is read.

    Not run then too: both would fill Ray's object store, of which each takes itself for the only user.
    """
    planned = iter(graphs)
    with ThreadPoolExecutor(1, thread_name_prefix="plan") as ahead:
        coming = ahead.submit(next, planned, None)
        while (graph := coming.result()) is not None:
            coming = ahead.submit(next, planned, None)
            yield from stream_tables(graph)


def run_pool(
    units: list[pa.Table],
    decoder: Decoder,
    actor: type,
    arguments: Mapping[str, Any],
    size: int,
    config: AcceleratorConfig,
) -> Iterator[DoneUnit]:
    """Decode units, and hand each to one of a pool of actors, which writes a part of the output.

    With GPUs, tasks on any core decode for the actors. Without, Ray Data fuses both into the actors, which spares
    copies and processes. On a machine alone whose cores one network keeps busy, that one is in this process: another
    would take ten seconds to import TensorFlow, which training needs here anyway.

    Args:
        units: At least one.
        decoder: From a unit to its images.
        actor: Its class; called with a decoded unit, it writes its part and returns what `done` says.
        arguments: What its constructor takes.
        size: Most actors at once.
        config: What Ray reserves for each, and for the tasks that decode.

    Yields:
        Each unit that is done.

    Raises:
        TissueError: If an actor was lost over the same unit once too often.
    """
    tasks = decoding(config)
    decoded = map_units(units_dataset(units), decoder, **tasks)
    if size == 1 and ray_is_ours() and not config.use_gpu:
        with closing(stream_tables(decoded)) as tables:  # else the graph of a failed run lasts as long as its traceback
            with ThreadPoolExecutor(1, thread_name_prefix="first") as beside:
                first = beside.submit(next, tables)  # while TensorFlow is imported here, the first units are decoded
                one = actor(**arguments)
            yield from _done_units(map(one, itertools.chain([first.result()], tables)))
        return
    holds = {"num_cpus": 1, "num_gpus": config.gpus_per_worker} | accelerator_label(config) if config.use_gpu else tasks
    graph = map_units(
        decoded,
        actor,
        fn_constructor_kwargs=dict(arguments),
        compute=ActorPoolStrategy(min_size=1, max_size=size),
        **holds,
    )
    try:
        yield from _done_units(stream_tables(graph))
    except RayActorError as error:
        if error.actor_init_failed:
            raise
        raise TissueError(
            "a process that holds the network was lost again and again over the same images, as where its machine runs "
            "out of memory: have fewer at once (--num-actors), or a machine with more memory; what is done is kept"
        ) from error


def _done_units(tables: Iterable[pa.Table]) -> Iterator[DoneUnit]:
    for table in tables:
        yield DoneUnit(*(sum(table[name].to_pylist()) for name in DONE_SCHEMA.names))


def done(images: int, quarantined: int = 0) -> pa.Table:
    """What an actor of a pool says of a unit that it has written: its images, and how many of them were refused."""
    return pa.table([[images], [quarantined]], schema=DONE_SCHEMA)


def without_parts(units: list[pa.Table], *folders: Location) -> list[pa.Table]:
    """The units that have no part yet in at least one of some folders."""
    written = set.intersection(*({file.path for file in folder.list_files()} for folder in folders))
    return [unit for unit in units if part_name(first_position(unit)) not in written]
