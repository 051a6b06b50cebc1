"""Checksums as listings state them, and the check of what was read against what was listed."""

import base64
import hashlib

import google_crc32c

from lib.storage.faults import TransientStorageError


def crc32c(data: bytes) -> str:
    """`crc32c:` and the Castagnoli checksum in the base64 form that Google Cloud Storage shows."""
    return "crc32c:" + base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def md5(data: bytes) -> str:
    """`md5:` and the digest in hexadecimal."""
    return "md5:" + hashlib.md5(data, usedforsecurity=False).hexdigest()


ALGORITHMS = {"crc32c": crc32c, "md5": md5}


def verified_checksum(data: bytes, size_bytes: int, stated: str | None) -> str:
    """The checksum of what was read, once it is known to be what was listed.

    Args:
        data: The bytes that were read.
        size_bytes: The size that the listing stated.
        stated: The checksum that the listing stated, if it did.

    Raises:
        TransientStorageError: If size or checksum differ: a part of the file, or a file that changed since then.
    """
    if len(data) != size_bytes:
        raise TransientStorageError(f"read {len(data)} bytes where {size_bytes} were listed; did it change?")
    algorithm = stated.split(":", 1)[0] if stated else "crc32c"
    found = ALGORITHMS[algorithm](data)
    if stated and found != stated:
        raise TransientStorageError(f"its content has {found} where {stated} was listed; did it change?")
    return found
