"""One writer a folder: a file that says who is writing, renewed for as long as the writer lives."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import psutil

from lib.errors import SettingsError, StorageError
from lib.folders.record import StoredRecord
from lib.runtime.clock import now
from lib.storage.location import Location

RENEWAL_S, EXPIRY_S = 20.0, 90.0


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
    """When the writer was last known to live."""

    @classmethod
    def here(cls) -> "WriterRecord":
        """This process, now."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started_at=psutil.Process().create_time(),
            started_at=now(),
            renewed_at_unix_s=time.time(),
        )

    @property
    def is_writing(self) -> bool:
        """Whether it still is: by its process on this machine, by its last renewal on another."""
        if self.host != socket.gethostname():
            return time.time() - self.renewed_at_unix_s < EXPIRY_S
        if self.pid == os.getpid():
            return False  # an earlier attempt of this very process
        try:
            return bool(psutil.Process(self.pid).create_time() == self.process_started_at)
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host} since {self.started_at}"


def refuse_second_writer(folder: Location) -> None:
    """Stop if another run is writing into a folder.

    A writer of this machine counts while its process lives, one of another machine while its file is being renewed.

    Raises:
        SettingsError: Naming the other run.
    """
    writer = WriterRecord.read_if_there(folder)
    if writer is not None and writer.is_writing:
        raise SettingsError(
            f"--output {folder.uri} is being written by {writer}; wait for it, or choose another folder"
        )


@contextmanager
def only_writer(folder: Location) -> Iterator[None]:
    """Say that this process is writing into a folder, until the block ends.

    Raises:
        SettingsError: If another run is.
    """
    refuse_second_writer(folder)
    writer, stop = WriterRecord.here(), threading.Event()
    writer.write(folder)
    thread = threading.Thread(target=_keep_renewing, args=(folder, writer, stop), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        (folder / WriterRecord.FILE).delete()


def _keep_renewing(folder: Location, writer: WriterRecord, stop: threading.Event) -> None:
    while not stop.wait(RENEWAL_S):
        try:
            writer.model_copy(update={"renewed_at_unix_s": time.time()}).write(folder)
        except StorageError:  # storage that fails for long stops the run itself; here it only shortens the lease
            continue
