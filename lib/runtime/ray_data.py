"""Ray as this project uses it: one session a process; tables of work in, one task a table, small tables of results out.

A unit is one table, becomes one block, and is handled by one task. Ray may run a task twice after a fault, so what a
task writes has a name that only depends on its unit, and is written in one step.

Ray is imported when it is needed: it takes two seconds, and settings are refused before.
"""

import logging
import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lib.config.base import JobConfig
from lib.config.resources import AcceleratorConfig, DecodeConfig
from lib.errors import MemoryKillsError
from lib.runtime.environment import job_variables, ray_is_ours
from lib.runtime.lone_ray import have_no_coordinators, needed_processes_alone
from lib.runtime.memory_kills import is_memory_kill
from lib.runtime.ray_start import init_ray

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

Transform = Callable[..., pa.Table]

MAX_LOSSES = 5
"""How often a task is tried again whose process or machine was lost. Ray Data would try for ever, which neither a file
that crashes its decoder nor a machine with too little memory ends."""


ACCELERATOR_LABEL = "ray.io/accelerator-type"
FINISHED_TASKS_POLL_S = 0.02
"""How long Ray Data waits between two looks for finished tasks, while a CPU may have nothing to do. With Ray's own
0.1 s, which has no option, each CPU idled for 0.16 s after each task: 30 % of the time where a task takes 0.4 s."""


def start_ray(config: JobConfig) -> None:
    """Start Ray unless this process has it: the cluster it runs in as a job, or a local one on loopback.

    It ends with the process, or with `stop_ray`.

    Raises:
        TissueError: If it cannot be started or joined.
    """
    import ray

    if ray.is_initialized():
        return
    options: dict[str, object] = {
        "log_to_driver": config.verbose,
        "logging_level": "INFO" if config.verbose else "ERROR",
    }
    if ray_is_ours():
        # Two logical CPUs at least: an actor that holds a model and a task that decodes for it.
        options |= {"address": "local", "include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, 2)}
    elif variables := job_variables():  # the workers of a Ray of ours have this process's environment
        options["runtime_env"] = {"env_vars": variables}
    if ray_is_ours():
        with needed_processes_alone(config.verbose):
            init_ray(**options)
        have_no_coordinators()
    else:
        init_ray(**options)
        _keep_statistics_here()
    prepare_context(config.verbose)


def _keep_statistics_here() -> None:
    """Have Ray Data's statistics, which outlive the job, on this node.

    Their actor stays where the first dataset is made. On a node of a training worker, that node would never be idle
    again, and its GPU be paid for until the cluster ends.
    """
    from ray.data._internal.stats import get_or_create_stats_actor

    get_or_create_stats_actor()


def stop_ray() -> None:
    """End a local Ray, or leave the cluster."""
    import ray

    ray.shutdown()


def prepare_context(verbose: bool = False) -> None:
    """Set Ray Data's options for this process and the graphs built in it."""
    import ray.data
    from ray._private.log import PlainRayHandler
    from ray.data._internal.execution import streaming_executor_state

    streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S = FINISHED_TASKS_POLL_S
    if not verbose:
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, PlainRayHandler):  # Ray Train adds those of the root, which are the caller's own
                handler.setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # a unit stays one block, whatever its size
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.raise_original_map_exception = True


def decoding(config: DecodeConfig) -> dict[str, float]:
    """Options of tasks that decode: what Ray, which is up, reserves for each."""
    memory = {} if config.convert_memory_gib is None else {"memory": _within_machine(config.convert_memory_gib)}
    return {"num_cpus": config.cpus_per_convert_task, **memory}


def _within_machine(memory_gib: float) -> int:
    """Bytes for a task. On a Ray of ours all it has at most: tasks then run one by one, where none would ever start."""
    import ray

    wanted = int(memory_gib * 2**30)
    if not ray_is_ours():
        return wanted
    there = int(ray.cluster_resources().get("memory", wanted))
    if there < wanted:
        logger.warning(
            "a task that decodes takes %.1f GiB, and Ray has %.1f GiB on this machine: images are decoded one by one",
            memory_gib,
            there / 2**30,
        )
    return min(wanted, there)


def accelerator_label(config: AcceleratorConfig) -> dict[str, dict[str, str]]:
    """The option that keeps work on nodes with the wanted kind of GPU; none where any will do.

    A label, since Ray's own option `accelerator_type` asks for a resource that only nodes have which are up: an
    autoscaler would start none from zero.
    """
    return {} if config.accelerator_type is None else {"label_selector": {ACCELERATOR_LABEL: config.accelerator_type}}


def off_gpus(dataset: "ray.data.Dataset") -> "ray.data.Dataset":
    """The same, on machines without an accelerator alone: its tasks, and what they have an autoscaler start.

    Ray's autoscaler prefers such machines, but starts others too once it has as many of them as it may.
    """
    from ray.util.accelerators import accelerators

    kinds = {value for name, value in vars(accelerators).items() if name.isupper() and isinstance(value, str)}
    dataset.context.execution_options.label_selector = {ACCELERATOR_LABEL: f"!in({','.join(sorted(kinds))})"}
    return dataset


def units_dataset(units: list[pa.Table]) -> "ray.data.Dataset":
    """A dataset whose blocks are the units, in their order.

    Not `from_arrow`, which runs a task of one CPU a unit to look at its schema, on any machine that it has started.
    """
    import ray.data

    return ray.data.from_blocks(units)


def map_units(dataset: "ray.data.Dataset", transform: Transform | type, **options: Any) -> "ray.data.Dataset":
    """Apply a function or an actor class to whole units, each tried again after at most `MAX_LOSSES` losses."""
    retries = "max_task_retries" if isinstance(transform, type) else "max_retries"
    options = {retries: MAX_LOSSES} | options
    # Not `map_batches`, which is the same but for two objections of Ray 2.60: to batches that are whole blocks where
    # there is a GPU, and to remote arguments, though it has no other way yet to say how often a task is retried.
    return dataset.map_batches_internal(
        transform, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **options
    )


def is_repeated_task() -> bool:
    """Whether this process runs a task of Ray that was begun before, by a process that ended in the middle of it."""
    import ray
    from ray._private.worker import global_worker

    return ray.is_initialized() and int(global_worker.core_worker.get_current_task_attempt_number()) > 0


def stream_tables(dataset: "ray.data.Dataset | ray.data.DataIterator") -> Generator[pa.Table, None, None]:
    """Run the graph and yield each result as it comes.

    Raises:
        MemoryKillsError: If a task was ended once too often since its machine ran out of memory.
    """
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    except Exception as error:
        if not is_memory_kill(error):
            raise
        raise MemoryKillsError(
            "a machine ran out of memory, and Ray ended a task on it again and again; have fewer tasks at once by "
            "--convert-memory-gib, the memory in GiB that one takes, or use machines with more memory per CPU"
        ) from None
