"""Keeps what the native code of TensorFlow and Ray says about itself off the terminal, or makes JSON of it.

It writes straight to file descriptor 2, whatever log level is set, so Python's logging cannot stop it. The filter is a
process of its own (this file, run by itself), so that the last words of a crashing process still pass through it.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

CHATTER = re.compile(
    rb"^WARNING: All log messages before absl::InitializeLog"
    rb"|^[IWE]0000 \d{2}:\d{2}:\d+"  # TensorFlow, as it looks for GPUs
    rb"|^INFO: Created TensorFlow Lite"
    rb"|^\[.*\] core_worker\.cc:\d+: Actor .* has constructor arguments in the object store"  # ray#53727
)
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
OWN_LINE = '{"time": "'
"""How the lines of `lib.runtime.logs` begin."""


def filter_native_messages() -> None:
    """Send descriptor 2 through a filter that drops `CHATTER` and passes every other line on.

    Python's own `sys.stderr` goes past the filter, so that a terminal stays a terminal.
    """
    sys.stderr = _filter_descriptor()


def native_messages_as_json(fields: Mapping[str, object], verbose: bool) -> TextIO:
    """Send descriptor 2, `sys.stderr` with it, through a filter that makes a JSON object of each line.

    So does what other libraries print. Lines of our own, which are JSON already, are to go past it.

    Args:
        fields: What each object has beside `time`, `severity` and `message`.
        verbose: Whether it passes `CHATTER` on too.

    Returns:
        Where our own lines go.
    """
    return _filter_descriptor(json.dumps(fields), *(["verbose"] if verbose else []))


def _filter_descriptor(*arguments: str) -> TextIO:
    """Put the filter behind descriptor 2, and return what was there."""
    terminal = os.dup(2)
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", __file__, *arguments]
    subprocess.Popen(command, stdin=reading, stderr=terminal, stdout=subprocess.DEVNULL)  # noqa: S603 - ends with us
    os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)
    return io.TextIOWrapper(os.fdopen(terminal, "wb", 0), line_buffering=True)


def _pass_on(fields: str = "", verbosity: str = "") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that is being listened to
    for line in sys.stdin.buffer:
        if not verbosity and CHATTER.match(line):
            continue
        os.write(2, as_json(line, json.loads(fields)) if fields else line)


def as_json(line: bytes, fields: Mapping[str, object]) -> bytes:
    """A line as a JSON object; the log line of a worker, before which Ray puts where it is from, as it was; or nothing.

    Severity is `DEFAULT`, Google Cloud Logging's word for one that is not known.
    """
    text = ANSI.sub("", line.decode(errors="replace")).strip()
    if (own := text.find(OWN_LINE)) >= 0 and text.endswith("}"):
        return f"{text[own:]}\n".encode()
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record = {"time": now, "severity": "DEFAULT", "message": text, **fields}
    return f"{json.dumps(record, ensure_ascii=False)}\n".encode() if text else b""


if __name__ == "__main__":
    _pass_on(*sys.argv[1:])
