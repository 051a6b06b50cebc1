"""One writer a folder: a file that says who is writing, renewed for as long as the writer lives."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psutil

from lib.errors import SettingsError, StorageError
from lib.storage.location import Location

WRITER_FILE = "writer.json"
RENEWAL_S, EXPIRY_S = 20.0, 90.0


def refuse_second_writer(folder: Location) -> None:
    """Stop if another run is writing into a folder.

    A writer of this machine counts while its process lives, one of another machine while its file is being renewed.

    Raises:
        SettingsError: Naming the other run.
    """
    file = folder / WRITER_FILE
    if not file.exists():
        return
    writer = file.read_json()
    if writes(writer):
        raise SettingsError(
            f"--output {folder.uri} is being written by process {writer['pid']} on {writer['host']} since "
            f"{writer['started_at']}; wait for it, or choose another folder"
        )


@contextmanager
def only_writer(folder: Location) -> Iterator[None]:
    """Say that this process is writing into a folder, until the block ends.

    Raises:
        SettingsError: If another run is.
    """
    refuse_second_writer(folder)
    writer = {"host": socket.gethostname(), "pid": os.getpid(), "process_started_at": psutil.Process().create_time()}
    writer["started_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    stop = threading.Event()
    _renew(folder, writer)
    thread = threading.Thread(target=_keep_renewing, args=(folder, writer, stop), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        (folder / WRITER_FILE).delete()


def _keep_renewing(folder: Location, writer: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(RENEWAL_S):
        try:
            _renew(folder, writer)
        except StorageError:  # storage that fails for long stops the run itself; here it only shortens the lease
            continue


def _renew(folder: Location, writer: dict[str, Any]) -> None:
    (folder / WRITER_FILE).write_json({**writer, "renewed_at_unix_s": time.time()})


def writes(writer: dict[str, Any]) -> bool:
    """Whether the run that a writer's file tells of is still writing."""
    if writer["host"] != socket.gethostname():
        return bool(time.time() - writer["renewed_at_unix_s"] < EXPIRY_S)
    if writer["pid"] == os.getpid():
        return False  # an earlier attempt of this very process
    try:
        return bool(psutil.Process(writer["pid"]).create_time() == writer["process_started_at"])
    except psutil.NoSuchProcess:
        return False
