"""Keeps what the native code of TensorFlow and Ray says about itself off the terminal.

It writes straight to file descriptor 2, whatever log level is set, so Python's logging cannot stop it.
"""

import io
import os
import re
import sys
import threading

CHATTER = re.compile(
    rb"^WARNING: All log messages before absl::InitializeLog"
    rb"|^[IWE]0000 \d{2}:\d{2}:\d+"  # TensorFlow, as it looks for GPUs
    rb"|^\[.*\] core_worker\.cc:\d+: Actor .* has constructor arguments in the object store"  # ray#53727
)


def filter_native_messages() -> None:
    """Send descriptor 2 through a filter that drops `CHATTER` and passes every other line on.

    Python's own `sys.stderr` goes past the filter, so that a terminal stays a terminal.
    """
    terminal = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    sys.stderr = io.TextIOWrapper(os.fdopen(os.dup(terminal), "wb", 0), line_buffering=True, write_through=True)
    threading.Thread(target=_pass_on, args=(reading, terminal), name="native-messages", daemon=True).start()


def _pass_on(reading: int, terminal: int) -> None:
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            if not CHATTER.match(line):
                os.write(terminal, line)
