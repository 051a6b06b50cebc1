"""What is common to every job: settings, one Ray, messages, the exit code and the JSON summary."""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lib.command_line import parse_settings, report_error
from lib.config import JobConfig
from lib.errors import expected_cause, in_one_line
from lib.native_messages import filter_native_messages
from lib.ray_data import stop_ray
from lib.summaries import Summary

logger = logging.getLogger(__name__)

JobConfigT = TypeVar("JobConfigT", bound=JobConfig)


def run_job(main: Callable[[JobConfigT], Summary], config_type: type[JobConfigT]) -> int:
    """Run a job from the command line.

    Prints the summary as the last line on stdout, without its `exit_code` if it has one. Everything else goes to
    stderr.

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
    finally:
        if "ray" in sys.modules:
            stop_ray()
    exit_code = int(summary.pop("exit_code", 0))
    print(json.dumps({"job": job} | summary, ensure_ascii=False), flush=True)  # noqa: T201 - the job's result
    return exit_code


def _fail(error: Exception) -> int:
    report_error(in_one_line(error))
    expected = expected_cause(error)
    if expected is not None:
        return expected.exit_code
    traceback.print_exception(error)
    return 1


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
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
