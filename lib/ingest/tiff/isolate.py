"""Runs a decoder in a child process, so that a crash or a hang in native code is a refusal of one image.

There is one child a process. It is started at the first call (0.3 s) and kept, so a call costs two copies through a
socket. The child imports the decoders and never runs them: its forks do, one after the other. A fork that has raised
anything ends, since a damaged stream may have damaged its memory too, and the next one takes a few milliseconds. None
of them outlives the parent: a fork ends when its end of the socket closes, or by its own alarm if it hangs.
"""

import atexit
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, ParamSpec, TypeVar

from lib.errors import ImageRefused, TissueError
from lib.ingest.tiff.refusals import as_verdict

Parameters = ParamSpec("Parameters")
ResultT = TypeVar("ResultT")

_PROGRAM = f"import sys; from {__name__} import _serve_with_forks; _serve_with_forks(*sys.argv[1:])"
_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
_ANOTHER = 100
"""The exit code of a fork that has raised something."""
_BY_SIGNAL = 128
"""The exit code of the child if a fork was ended by signal 0; shells count so too."""
TO_END_S, TO_REPORT_S = 5.0, 300.0
"""Within which the child ends that has nothing more to do, and the child whose fork has ended, on a busy machine too:
if it were killed before it has said how, a crash would pass for a want of memory, and end the run."""
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
    """A process that answers calls one after the other.

    Args:
        module: What most calls need, imported once.
    """

    def __init__(self, module: str) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - this interpreter, with a text of our own
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), module],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ
                | _SINGLE_THREADED
                | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)},
            )
        try:
            self._connection.recv()  # it says that it is ready
        except (EOFError, OSError) as error:
            self.stop(TO_END_S)
            raise TissueError(f"the decoder process did not start (exit code {self.process.returncode})") from error

    def call(self, *request: Any) -> Any:
        self._connection.send(request)
        return self._connection.recv()

    def stop(self, patience_s: float) -> int:
        """End the process unless it ends by itself; the exit code of its last fork, negative for a signal."""
        self._connection.close()
        try:
            exit_code = self.process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            exit_code = self.process.wait()
        return _BY_SIGNAL - exit_code if exit_code > _BY_SIGNAL else exit_code

    def forget(self) -> None:
        """In a fork of the parent: leave the child to the parent."""
        self._connection.close()
        self.process.returncode = 0


class _Slot:
    """At most one child of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def run(self, time_limit_s: float, function: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            if self._child is None:
                self._child = _Child(function.__module__)
            try:
                result, error = self._child.call(time_limit_s, function, *arguments)
            except (EOFError, OSError) as ended:
                raise _verdict_on_end(self._stop(TO_REPORT_S), time_limit_s) from ended
        if error is not None:
            raise error
        return result

    def _stop(self, patience_s: float) -> int:
        child, self._child = self._child, None
        return child.stop(patience_s) if child else 0

    def stop(self) -> None:
        with self._lock:
            self._stop(TO_END_S)

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


def _serve_with_forks(descriptor: str, module: str) -> None:
    """What the child does: its forks answer until one of them ends for another reason than an exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes the connection
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends a fork even inside native code
    importlib.import_module(module)
    with Connection(int(descriptor)) as connection:
        connection.send(None)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the last words of a decoder that crashes
        exit_code = _ANOTHER
        while exit_code == _ANOTHER:
            fork = os.fork()
            if fork == 0:
                os._exit(_serve(connection))
            exit_code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    sys.exit(exit_code if exit_code >= 0 else _BY_SIGNAL - exit_code)


def _serve(connection: "Connection[Any, Any]") -> int:
    """Answer until a call raises something or the parent closes the connection; the exit code of the fork."""
    try:
        while True:
            time_limit_s, function, args, kwargs = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, time_limit_s)
            result, error = _outcome(function, args, kwargs)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send((result, error))
            if error is not None:
                return _ANOTHER
    except (EOFError, OSError):
        return 0


def _outcome(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    try:
        return function(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001 - the boundary of the child: what it raises is raised in the parent
        return None, as_verdict(error)


_slot = _Slot()
atexit.register(_slot.stop)
os.register_at_fork(after_in_child=_slot.after_fork)
