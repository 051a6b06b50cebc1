"""Log lines as JSON objects (`--log-format json`), of a job and of its workers.

One object a line: `time` (UTC), `severity` and `message`, which are what Google Cloud Logging reads, then `logger`,
`job`, `stage`, `node` and `pid`, and the numbers of a progress line as fields of their own. A job writes them to its
stderr; a Ray worker to its own, which Ray keeps below `logs/` of its session on the worker's node.
"""

import json
import logging
import os
import platform
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from lib.runtime.environment import JOB_VARIABLE, LOG_FORMAT_VARIABLE, job_variables
from lib.runtime.package import NAME

NUMBERS = "numbers"
"""The `extra` of a log call that holds further fields: numbers by name."""


@dataclass
class Process:
    """Where this process is in its job.

    Attributes:
        stage: Stage of all its lines from now on.
        stream: Where the process of the job itself writes; None in a worker.
        is_worker_set_up: Whether a worker writes in the format of the job already.
    """

    stage: str | None = None
    stream: TextIO | None = None
    is_worker_set_up: bool = False


process = Process()


def wants_json() -> bool:
    """Whether the job of this process writes JSON."""
    return job_variables().get(LOG_FORMAT_VARIABLE) == "json"


def enter_stage(stage: str | None) -> str | None:
    """Name the stage of all lines from now on, and return the one before."""
    before, process.stage = process.stage, stage
    return before


def join_stage(stage: str) -> None:
    """What a Ray task or a training worker does first, so that its lines are in the format of the job.

    Nothing in the process of the job itself, which may do the work of a worker and has its own stages.
    """
    if process.stream is not None:
        return
    process.stage = stage
    if wants_json() and not process.is_worker_set_up:
        ours = logging.getLogger(NAME)  # Ray Train puts handlers of its own on the root
        ours.addHandler(_json_handler(sys.stderr))
        ours.setLevel(logging.INFO)
        ours.propagate = False
        process.is_worker_set_up = True


def write_json_to(stream: TextIO, level: int) -> None:
    """Have the process of a job write all of its log lines as JSON."""
    process.stream = stream
    logging.basicConfig(handlers=[_json_handler(stream)], level=level)


def report_failure(message: str, error: BaseException | None = None) -> None:
    """Write why a job failed, whether or not its log is set up.

    Args:
        message: One line.
        error: Whose traceback is wanted.
    """
    trace = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord(f"{NAME}.runs.job", logging.ERROR, __file__, 0, message, (), trace)
    print(JsonLines().format(record), file=process.stream or sys.stderr, flush=True)


def context_fields() -> dict[str, str | int | None]:
    """What all lines of this process have in common."""
    return {
        "job": job_variables().get(JOB_VARIABLE),
        "stage": process.stage,
        "node": platform.node(),
        "pid": os.getpid(),
    }


class JsonLines(logging.Formatter):
    """From a log record to one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
            **context_fields(),
            **getattr(record, NUMBERS, {}),
        }
        if record.exc_info:
            fields["stack_trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(fields, ensure_ascii=False, default=str)


def _json_handler(stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    return handler
