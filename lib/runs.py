"""What is common to every job: settings, one Ray, messages, the exit code and the JSON summary."""

import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lib.command_line import parse_settings, report_error
from lib.config import FitConfig, JobConfig
from lib.environment import ray_is_ours
from lib.errors import TissueError
from lib.native_messages import filter_native_messages
from lib.summaries import Summary

logger = logging.getLogger(__name__)

JobConfigT = TypeVar("JobConfigT", bound=JobConfig)

LOGICAL_CPUS_BESIDE_WORKERS = 2


def run_job(main: Callable[[JobConfigT], Summary], config_type: type[JobConfigT]) -> int:
    """Run a job from the command line.

    Prints the summary as the last line on stdout. Everything else goes to stderr.

    Returns:
        The exit code: 0 done; 1 failed; 2 wrong settings; 3 too many bad images.
    """
    job = Path(sys.argv[0]).stem
    try:
        config = parse_settings(config_type, sys.argv[1:], f"python -m jobs.{job}")
        _set_up_messages(config.verbose)
        summary = main(config)
    except KeyboardInterrupt:
        report_error("interrupted; the same command goes on where this run stopped")
        return 1
    except Exception as error:  # noqa: BLE001 - the one place where a failure of any kind becomes an exit code
        return _fail(error)
    print(json.dumps({"job": job} | summary, ensure_ascii=False), flush=True)  # noqa: T201 - the job's result
    return 0


def _fail(error: Exception) -> int:
    expected = _expected_cause(error)
    if expected is not None:
        report_error(str(expected))
        return expected.exit_code
    report_error(" ".join(f"{type(error).__name__}: {error}".split()))
    traceback.print_exception(error)
    return 1


def _expected_cause(error: BaseException | None) -> TissueError | None:
    """The error of ours that Ray, on its way between processes, wrapped in its own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, TissueError):
            return error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def _set_up_messages(verbose: bool) -> None:
    """Our own plain lines on stderr; those of Ray and TensorFlow only if asked for."""
    if not verbose:
        filter_native_messages()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("lib").setLevel(logging.INFO)
    if not verbose:
        for name in ("ray", "ray.data", "ray.train", "absl"):
            logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def ray_session(config: JobConfig) -> Iterator[None]:
    """Ray for the time of a job: the cluster that the job was submitted to, or a local one on loopback."""
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {
        "log_to_driver": config.verbose,
        "logging_level": "INFO" if config.verbose else "ERROR",
    }
    if ray_is_ours():
        options |= _local_options(config)
    ray.init(**options)
    try:
        from lib.ray_data import prepare_context

        prepare_context(config.verbose)
        yield
    finally:
        ray.shutdown()


def _local_options(config: JobConfig) -> dict[str, Any]:
    """A local Ray that joins no other one and cannot be reached from another machine."""
    workers = config.num_workers if isinstance(config, FitConfig) else 0
    return {
        "address": "local",
        "include_dashboard": False,
        # Training workers hold a logical CPU for as long as they live; decoding needs some beside them.
        "num_cpus": max(os.cpu_count() or 1, workers + LOGICAL_CPUS_BESIDE_WORKERS),
    }
