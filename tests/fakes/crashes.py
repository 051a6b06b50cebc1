"""Decoders that go wrong in ways that Python cannot catch."""

import os
import signal
import time
from typing import Any


def crash(*_: Any) -> None:
    """End the process as a wrong pointer in native code does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(*_: Any) -> None:
    """Come to no end."""
    time.sleep(60)


def exhaust(*_: Any) -> None:
    """Run out of memory, as Python reports it."""
    raise MemoryError("no room")
