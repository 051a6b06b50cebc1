"""Starting or joining Ray where something is in the way, which Ray tells late, at length, or by ending the process."""

import atexit
import logging
import os
import shutil
import socket
import tempfile
import time
from typing import Any

from lib.errors import SettingsError, TissueError, one_line
from lib.runtime.environment import ray_is_ours

logger = logging.getLogger(__name__)

SOCKET_BYTES = 107
"""Longest path of a socket on Linux."""
SESSION = "/ray/session_2026-11-28_00-23-49_123456_1234567/sockets/plasma_store"
"""What Ray puts behind its folder: its longest socket, with a process number of 7 digits."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - where a folder with a name of its own is made
ANSWER_S = 10.0
"""How long the cluster at RAY_ADDRESS may take to answer."""
PAUSE_S = 10.0
"""Between two starts on a machine that was too busy for the first."""
TOO_SLOW = ("timed out during startup", "Failed to start GCS", "Failed to connect to GCS")
"""What Ray says where its processes did not come up in time."""


def init_ray(**options: Any) -> None:
    """`ray.init`, with what is in its way removed or named.

    Raises:
        SettingsError: If no cluster answers at RAY_ADDRESS, or no folder is short enough for Ray's sockets.
        TissueError: If Ray does not start.
    """
    if not ray_is_ours():
        _join(**options)
        return
    make_room_for_sockets()
    reason = _try(**options)
    if reason is not None and any(words in reason for words in TOO_SLOW):
        logger.warning("Ray did not start in time, since this machine is busy (%s); trying once more", _load())
        time.sleep(PAUSE_S)
        reason = _try(**options)
    if reason is not None:
        raise TissueError(f"Ray does not start on this machine ({_load()}): {reason[:300]}")


def _try(**options: Any) -> str | None:
    """Why Ray does not start; None if it did."""
    import ray

    try:
        ray.init(**options)
    except Exception as error:  # noqa: BLE001 - Ray raises plain exceptions, of no kind of its own
        ray.shutdown()
        return one_line(error) or type(error).__name__
    return None


def _load() -> str:
    return f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs"


def make_room_for_sockets() -> None:
    """Have Ray use a short folder of our own, which ends with the process, if its usual one is too long for sockets.

    Raises:
        SettingsError: If there is no place for one.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT_FOLDERS[0]
    if len(os.fsencode(usual)) + len(SESSION) <= SOCKET_BYTES:
        return
    for place in SHORT_FOLDERS:
        if os.access(place, os.W_OK | os.X_OK):
            folder = tempfile.mkdtemp(prefix="ray-", dir=place)
            os.environ["RAY_TMPDIR"] = folder
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            logger.info("Ray keeps its files in %s, since names of sockets in %s would be too long", folder, usual)
            return
    raise SettingsError(
        f"Ray's sockets would have names of over {SOCKET_BYTES} bytes in {usual}, and none of "
        f"{', '.join(SHORT_FOLDERS)} can be written; set RAY_TMPDIR to a folder with a short name"
    )


def _join(**options: Any) -> None:
    address = os.environ["RAY_ADDRESS"]
    require_answer(address)
    reason = _try(**options)
    if reason is not None:
        raise SettingsError(f"cannot join the Ray at RAY_ADDRESS={address}: {reason[:300]}")


def require_answer(address: str) -> None:
    """Make sure that something listens at a RAY_ADDRESS; Ray itself would try for minutes.

    Raises:
        SettingsError: If nothing does, or it is no address.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if "/" in host or not host or not port.isdigit():
        hint = "; that of `ray job submit` is for that command alone" if address.startswith("http") else ""
        raise SettingsError(f"RAY_ADDRESS is {address!r}; expected host:port or auto{hint}: correct or unset it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise SettingsError(
            f"no Ray answers at RAY_ADDRESS={address} ({reason}); start that cluster, "
            "or unset RAY_ADDRESS to use this machine alone"
        ) from error
