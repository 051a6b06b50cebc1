"""Keeps what the native code of TensorFlow and Ray says about itself off the terminal.

It writes straight to file descriptor 2, whatever log level is set, so Python's logging cannot stop it. The filter is a
process of its own (this file, run by itself), so that the last words of a crashing process still pass through it.
"""

import io
import os
import re
import signal
import subprocess
import sys

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
    command = [sys.executable, "-I", "-S", __file__]
    subprocess.Popen(command, stdin=reading, stderr=terminal, stdout=subprocess.DEVNULL)  # noqa: S603 - ends with us
    os.dup2(writing, 2)
    os.close(reading)
    os.close(writing)
    sys.stderr = io.TextIOWrapper(os.fdopen(terminal, "wb", 0), line_buffering=True)


def _pass_on() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that is being listened to
    for line in sys.stdin.buffer:
        if not CHATTER.match(line):
            os.write(2, line)


if __name__ == "__main__":
    _pass_on()
