"""gcsfs, with every whole download compared with the checksum that the server states beside it."""

from collections.abc import Mapping
from typing import Any

from gcsfs import GCSFileSystem
from gcsfs.retry import ChecksumError

from lib.storage.checksum import crc32c


class VerifiedGCSFileSystem(GCSFileSystem):  # type: ignore[misc] # gcsfs has no types
    """A download that was cut short or changed on its way is an error, which gcsfs and we retry.

    Source: the `X-Goog-Hash` header of the JSON API's `alt=media` answers.
    """

    async def _cat_file_sequential(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> Any:
        if start is not None or end is not None:  # the checksum is that of the whole object
            return await super()._cat_file_sequential(path, start=start, end=end, **kwargs)
        headers, data = await self._call("GET", self.url(path, generation=kwargs.get("generation")))
        stated = _stated_crc32c(headers)
        if stated is not None and crc32c(data) != stated:
            raise ChecksumError(f"{len(data)} bytes arrived that do not have the checksum stated with them")
        return data


def _stated_crc32c(headers: Mapping[str, str]) -> str | None:
    """The checksum in the form of `lib.storage.checksum`, unless the server unpacked the object on its way."""
    if "Content-Encoding" in headers:
        return None
    hashes = dict(part.strip().split("=", 1) for part in headers.get("X-Goog-Hash", "").split(",") if "=" in part)
    return f"crc32c:{hashes['crc32c']}" if "crc32c" in hashes else None
