"""Ray Data as this project uses it: tables of work in, one task a table, small tables of results out.

A unit is one table, becomes one block, and is handled by one task. Ray may run a task twice after a fault, so what a
task writes has a name that only depends on its unit, and is written in one step.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray.data

Transform = Callable[..., pa.Table]


def prepare_context(verbose: bool = False) -> None:
    """Set Ray Data's options for this process and the graphs built in it."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # a unit stays one block, whatever its size
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.raise_original_map_exception = True


def units_dataset(units: list[pa.Table]) -> "ray.data.Dataset":
    """A dataset whose blocks are the units, in their order."""
    return ray.data.from_arrow(units)


def map_units(dataset: "ray.data.Dataset", transform: Transform | type, **options: Any) -> "ray.data.Dataset":
    """Apply a function or an actor class to whole units."""
    return dataset.map_batches(transform, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **options)


def stream_tables(dataset: "ray.data.Dataset | ray.data.DataIterator") -> Iterator[pa.Table]:
    """Run the graph and yield each result as it comes."""
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
