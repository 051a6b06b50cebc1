"""One writer a folder: a file that says who is writing, renewed for as long as the writer lives.

The file is made only if it is absent, and renewed and deleted only while it is one's own (`lib.storage.versions`). A
writer that stood still for so long that another one took over finds that out, and stops.
"""

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import psutil

from lib.errors import SettingsError, StorageError, TissueError
from lib.folders.record import StoredRecord
from lib.runtime.clock import now
from lib.storage.location import Location
from lib.storage.versions import ABSENT, Seen, delete_over, look, write_over

RENEWAL_S, EXPIRY_S = 20.0, 90.0
MOST_TRIES = 10
"""How often a writer that ended just now is followed by another one before this run gives up."""
_of_this_process: "set[str]" = set()
_of_this_thread: ContextVar[dict[str, "Lease"]] = ContextVar("_of_this_thread", default={})  # noqa: B039 - never changed


class WriterRecord(StoredRecord):
    """Who is writing into a folder."""

    FILE: ClassVar[str] = "writer.json"

    host: str
    pid: int
    process_started_at: float
    """Unix time, to tell the process from a later one of the same number."""
    started_at: str
    """UTC, ISO 8601."""
    renewed_at_unix_s: float
    """When the writer was last known to live, by its own clock."""
    token: str = ""
    """Of one attempt; another one in the same process has another."""

    @classmethod
    def here(cls) -> "WriterRecord":
        """This process, now."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started_at=psutil.Process().create_time(),
            started_at=now(),
            renewed_at_unix_s=time.time(),
            token=uuid.uuid4().hex,
        )

    @property
    def is_writing(self) -> bool:
        """Whether it still is, by its process on this machine, by its last renewal and both clocks on another."""
        return self.is_writing_at(time.time() - self.renewed_at_unix_s)

    def is_writing_at(self, age_s: float) -> bool:
        """Whether it still is: by its process on this machine, by the age of its last renewal on another."""
        if self.host != socket.gethostname():
            return age_s < EXPIRY_S
        if self.pid == os.getpid():
            return self.token in _of_this_process
        try:
            return bool(psutil.Process(self.pid).create_time() == self.process_started_at)
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host} since {self.started_at}"


class LeaseLostError(TissueError):
    """Another run has taken the folder over, since this one stood still for too long."""


def refuse_second_writer(folder: Location) -> None:
    """Stop if another run is writing into a folder.

    A writer of this machine counts while its process lives, one of another machine while its file is being renewed.

    Raises:
        SettingsError: Naming the other run.
    """
    if folder.uri not in _of_this_thread.get():
        _refuse(folder, look(folder / WriterRecord.FILE))


def _refuse(folder: Location, seen: Seen) -> None:
    writer = _writer(folder, seen)
    if writer is None:
        return
    age_s = time.time() - writer.renewed_at_unix_s if seen.age_s is None else seen.age_s
    if writer.is_writing_at(age_s):
        raise SettingsError(
            f"--output {folder.uri} is being written by {writer}; wait for it, or choose another folder"
        )


def _writer(folder: Location, seen: Seen) -> WriterRecord | None:
    if seen.version == ABSENT:
        return None
    file = folder / WriterRecord.FILE
    try:
        return WriterRecord.parsed(file, json.loads(seen.data))
    except ValueError as error:
        raise StorageError(f"{file.uri} is not JSON: {error}; delete it if no run is writing there") from error


class Lease:
    """That this process is the only writer of a folder."""

    def __init__(self, folder: Location) -> None:
        """Take the folder.

        Raises:
            SettingsError: If another run has it.
        """
        self._folder, self._file = folder, folder / WriterRecord.FILE
        self.writer = WriterRecord.here()
        self._successor: WriterRecord | None = None
        self.is_lost = False
        self._thread, self._stop, self._lock = threading.current_thread(), threading.Event(), threading.Lock()
        _of_this_process.add(self.writer.token)
        try:
            self._version = self._taken()
        except TissueError:
            _of_this_process.discard(self.writer.token)
            raise
        self._renewing = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._renewing.start()

    def _taken(self) -> str:
        for _ in range(MOST_TRIES):
            seen = look(self._file)
            if self._is_own(seen):  # it was written, and the answer got lost
                return seen.version
            _refuse(self._folder, seen)
            if (version := write_over(self._file, self._content(), seen.version)) is not None:
                return version
        raise SettingsError(f"--output {self._folder.uri} is taken by one run after the other; choose another folder")

    def _is_own(self, seen: Seen) -> bool:
        writer = _writer(self._folder, seen)
        return writer is not None and writer.token == self.writer.token

    def _content(self) -> bytes:
        record = self.writer.model_copy(update={"renewed_at_unix_s": time.time()})
        return json.dumps(record.as_json(), indent=2).encode()

    def renew(self) -> None:
        """Say that this writer lives.

        Raises:
            LeaseLostError: If another run has the folder.
            StorageError: If that cannot be told or written.
        """
        with self._lock:
            version = write_over(self._file, self._content(), self._version)
            if version is None:
                version = self._recovered()
            self._version = version

    def _recovered(self) -> str:
        """The version where the file is still one's own, or was removed by hand and no other run came."""
        seen = look(self._file)
        if self._is_own(seen):
            return seen.version
        if seen.version == ABSENT and (version := write_over(self._file, self._content(), ABSENT)) is not None:
            return version
        self.is_lost, self._successor = True, _writer(self._folder, look(self._file))
        raise self.loss()

    def loss(self) -> LeaseLostError:
        """What to say once another run has the folder."""
        other = f"was taken over by {self._successor}" if self._successor else "was taken over by another run"
        return LeaseLostError(
            f"--output {self._folder.uri} {other}, since this run had not renewed its lease for over {EXPIRY_S:.0f} s; "
            "it stops, so that only one run writes there"
        )

    def _keep_renewing(self) -> None:
        while not self._stop.wait(RENEWAL_S):
            try:
                self.renew()
            except LeaseLostError:
                self._interrupt()
                return
            except StorageError:  # storage that fails for long stops the run itself; here it only shortens the lease
                continue

    def _interrupt(self) -> None:
        """End the work as Ctrl+C does, which waiting for Ray heeds; other threads find out by their next `renew`."""
        if self._thread is threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def end(self) -> None:
        """Let go of the folder."""
        self._stop.set()
        self._renewing.join()
        _of_this_process.discard(self.writer.token)
        if not self.is_lost:
            delete_over(self._file, self._version)


@contextmanager
def only_writer(folder: Location) -> Iterator[None]:
    """Say that this process is writing into a folder, until the block ends.

    Raises:
        SettingsError: If another run is.
        LeaseLostError: If another run took the folder over meanwhile.
    """
    lease = Lease(folder)
    before = _of_this_thread.set(_of_this_thread.get() | {folder.uri: lease})
    try:
        yield
    except KeyboardInterrupt:
        if lease.is_lost:
            raise lease.loss() from None
        raise
    finally:
        _of_this_thread.reset(before)
        lease.end()


def renew_lease(folder: Location) -> None:
    """Make sure, before something is written that others rely on, that this run still has a folder that it took.

    Raises:
        LeaseLostError: If another run has it.
    """
    if (lease := _of_this_thread.get().get(folder.uri)) is not None:
        lease.renew()
