"""Google Cloud Storage through gcsfs; `STORAGE_EMULATOR_HOST` redirects it to another server."""

import os

from fsspec import AbstractFileSystem

CONNECT_S, STALL_S = 10.0, 30.0
"""Longest to wait for a connection, and for the next bytes of an answer or the next bytes of an upload to be taken."""


def gcs_filesystem() -> AbstractFileSystem:
    """The filesystem for `gs://`, with Application Default Credentials, or anonymous against an emulator."""
    # Read when gcsfs is imported; without it each operation on a server other than Google's waits 60 s.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from aiohttp import ClientTimeout

    from lib.storage.gcs_reliable import ReliableGCSFileSystem

    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default"
    timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S)
    # What is written is compared with the checksum that the server answers; "crc32c" would need one more package.
    return ReliableGCSFileSystem(token=token, consistency="md5", use_listings_cache=False, requests_timeout=timeout)
