"""Runs a decoder in a child process, so that a crash or a hang in native code is a refusal of one image.

There is one child a process. It is started at the first call (0.3 s) and kept, so a call costs two copies through a
socket. It does not outlive its parent: it ends when its end of the socket closes, or by its own alarm if it hangs.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, ParamSpec, TypeVar

from lib.errors import ImageRefused, TissueError
from lib.ingest.refusals import as_verdict

Parameters = ParamSpec("Parameters")
ResultT = TypeVar("ResultT")

_PROGRAM = "import sys; from lib.ingest.isolate import _serve; _serve(int(sys.argv[1]))"
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}


def run_isolated(
    time_limit_s: float, function: Callable[Parameters, ResultT], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> ResultT:
    """Call a function in the child process of this process. Calls from several threads wait for each other.

    Args:
        time_limit_s: How long the call may take, above 0.
        function: Found by its name in the child, like the arguments and the result it is pickled.
        *args: Passed on.
        **kwargs: Passed on.

    Raises:
        ImageRefused: With code `decoder_crashed` or `decoder_timeout`, with the code that `function` refused with,
            or with `damaged` for any other exception of it.
        MemoryError: If the child ran out of memory, or was killed from outside, which is what a full machine does.
        TissueError: If the child cannot be started, or was ended by something else.
    """
    return _slot.run(time_limit_s, function, args, kwargs)  # type: ignore[no-any-return]


class _Child:
    """A process that answers calls one after the other."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - this interpreter, with a text of our own
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)},
            )
        try:
            self._connection.recv()  # it says that it is ready
        except (EOFError, OSError) as error:
            self.stop()
            raise TissueError(f"the decoder process did not start (exit code {self.process.returncode})") from error

    def call(self, *request: Any) -> Any:
        self._connection.send(request)
        return self._connection.recv()

    def stop(self) -> int:
        """End the process if it has not ended; its exit code, negative for a signal."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=5)
        self.process.kill()
        return self.process.wait()

    def forget(self) -> None:
        """In a fork of the parent: leave the child to the parent."""
        self._connection.close()
        self.process.returncode = 0


class _Slot:
    """At most one child of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def run(self, time_limit_s: float, *call: Any) -> Any:
        with self._lock:
            if self._child is None:
                self._child = _Child()
            try:
                result, error = self._child.call(time_limit_s, *call)
            except (EOFError, OSError) as ended:
                raise _verdict_on_end(self._stop(), time_limit_s) from ended
        if error is not None:
            raise error
        return result

    def _stop(self) -> int:
        child, self._child = self._child, None
        return child.stop() if child else 0

    def stop(self) -> None:
        with self._lock:
            self._stop()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        child, self._child = self._child, None
        if child:
            child.forget()


def _verdict_on_end(exit_code: int, time_limit_s: float) -> Exception:
    """Why a child has ended that was asked for a result."""
    if exit_code == -signal.SIGALRM:
        return ImageRefused("decoder_timeout", f"no end after {time_limit_s:g} s")
    if -exit_code in _CRASHES:
        return ImageRefused("decoder_crashed", f"the decoder ended with {signal.Signals(-exit_code).name}")
    if exit_code == -signal.SIGKILL:
        return MemoryError("the decoder process was killed; the machine may be out of memory")
    return TissueError(f"the decoder process ended with exit code {exit_code}, which is no verdict on an image")


def _serve(descriptor: int) -> None:
    """What the child does until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes the connection
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside native code
    with contextlib.suppress(EOFError, OSError), Connection(descriptor) as connection:
        connection.send(None)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the last words of a decoder that crashes
        while True:
            time_limit_s, function, args, kwargs = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, time_limit_s)
            outcome = _outcome(function, args, kwargs)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(outcome)


def _outcome(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    try:
        return function(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001 - the boundary of the child: what it raises is raised in the parent
        return None, as_verdict(error)


_slot = _Slot()
atexit.register(_slot.stop)
os.register_at_fork(after_in_child=_slot.after_fork)
