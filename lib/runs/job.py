"""What is common to every job: settings, one Ray, messages, the exit code and the JSON summary."""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from lib.config.base import JobConfig
from lib.errors import expected_cause, in_one_line
from lib.runs.command_line import parse_settings, report_error
from lib.runs.summaries import Summary
from lib.runtime.environment import name_job
from lib.runtime.logs import context_fields, report_failure, wants_json, write_json_to
from lib.runtime.native_messages import filter_native_messages, native_messages_as_json
from lib.runtime.package import NAME, command

logger = logging.getLogger(__name__)

JobConfigT = TypeVar("JobConfigT", bound=JobConfig)


def run_job(
    main: Callable[[JobConfigT], Summary],
    config_type: type[JobConfigT],
    job: str | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a job from the command line.

    Args:
        main: What it does.
        config_type: Its settings.
        job: Its name; by default that of the program.
        arguments: By default those of the program.

    Prints the summary as the last line on stdout, without its `exit_code` if it has one. Everything else goes to
    stderr.

    Returns:
        The exit code: 0 done; 1 failed; 2 wrong settings; 3 too many bad images.
    """
    job = job or Path(sys.argv[0]).stem
    arguments = sys.argv[1:] if arguments is None else arguments
    name_job(job, "json" if _asks_for_json(arguments) else "text")  # settings that are wrong are to be told of too
    try:
        config = parse_settings(config_type, arguments, command(job))
        name_job(job, config.log_format)
        _set_up_messages(config.verbose)
        summary = main(config)
    except KeyboardInterrupt:
        _report("interrupted; run the same command again to resume")
        return 1
    except Exception as error:  # noqa: BLE001 - the one place where a failure of any kind becomes an exit code
        return _fail(error)
    finally:
        if "ray" in sys.modules:
            from lib.runtime.ray_data import stop_ray

            stop_ray()
    exit_code = int(summary.pop("exit_code", 0))
    print(json.dumps({"job": job} | summary, ensure_ascii=False), flush=True)  # noqa: T201 - the job's result
    return exit_code


def _fail(error: Exception) -> int:
    expected = expected_cause(error)
    _report(in_one_line(error), error if expected is None else None)
    return 1 if expected is None else expected.exit_code


def _report(message: str, bug: Exception | None = None) -> None:
    if wants_json():
        report_failure(message, bug)
        return
    report_error(message)
    if bug is not None:
        traceback.print_exception(bug)


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether the command line does, as far as one can tell before it is checked."""
    return "--log-format json" in " ".join(arguments).replace("_", "-").replace("=", " ")


def _set_up_messages(verbose: bool) -> None:
    """Our own lines on stderr; those of Ray and TensorFlow only if asked for."""
    level = logging.INFO if verbose else logging.ERROR
    if wants_json():
        write_json_to(native_messages_as_json(context_fields(), verbose), level)
    else:
        if not verbose:
            filter_native_messages()
        logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger(NAME).setLevel(logging.INFO)
    if not verbose:
        quiet_libraries()


def quiet_libraries() -> None:
    """Take from the libraries that do the work what they log of it."""
    for name in ("ray", "ray.data", "ray.train", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("gcsfs", "tf2onnx"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log what they raise
