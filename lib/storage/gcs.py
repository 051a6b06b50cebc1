"""Google Cloud Storage through gcsfs; `STORAGE_EMULATOR_HOST` redirects it to another server.

`GCS_USER_PROJECT` names the project that pays for reading a bucket whose owner does not ("requester pays").
"""

import asyncio
import os
from collections.abc import Coroutine, Mapping
from io import BytesIO
from typing import Any, Final, TypeVar

# Read when gcsfs is imported; without it each operation on a server other than Google's waits 60 s.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

from aiohttp import ClientTimeout, ConnectionTimeoutError
from fsspec import AbstractFileSystem
from gcsfs import GCSFileSystem
from gcsfs.core import UnclosableBytesIO
from gcsfs.retry import ChecksumError, is_retriable

from lib.storage.checksum import crc32c
from lib.storage.faults import Fault, RetryPolicy, TransientStorageError, fault_of

ResultT = TypeVar("ResultT")

CONNECT_S, STALL_S = 10.0, 30.0
"""Longest to wait for a connection, and for the next bytes of an answer or the next bytes of an upload to be taken."""
RETRIES = RetryPolicy(attempts=8, silent_attempts=4, first_delay_s=1.0, longest_delay_s=32.0)
"""Of one request."""

# gcsfs's own six attempts have little jitter, wait for 3 minutes on a server that is silent, and log tracebacks.
_request_once: Final = GCSFileSystem._request.__wrapped__


class ReliableGCSFileSystem(GCSFileSystem):  # type: ignore[misc] # gcsfs has no types
    """The one place where requests to GCS are repeated; whoever calls it need not.

    A request that is refused as too many or fails on the server's side is made 8 times, within 95 s and 48 s on
    average; one without an answer 4 times, with the usual timeouts within 127 s. So is one whose access token has run
    out, since gcsfs takes a new token for each.
    """

    async def _request(self, *args: Any, data: Any = None, **kwargs: Any) -> Any:
        """What gcsfs's own does.

        Raises:
            GivenUpError: If a fault stays that another attempt might have mended.
            Exception: Of gcsfs, if it might not.
        """
        body = UnclosableBytesIO(data) if isinstance(data, bytes | bytearray | memoryview) else data

        async def once() -> Any:
            try:
                return await self._unless_it_stalls(_request_once(self, *args, data=body, **kwargs), body)
            except Exception as error:  # clients raise what they like; all of it is told apart here, or goes on
                fault = self._fault_of(error)
                if fault is None or not (fault.may_pass or is_retriable(error)):
                    raise
                raise TransientStorageError.of(fault, error) from error

        return await RETRIES.run_async(once)

    async def _unless_it_stalls(self, request: Coroutine[Any, Any, ResultT], body: object) -> ResultT:
        """The answer to a request, or TimeoutError if nothing of its body is taken for as long as reading may stall.

        aiohttp has no limit on that, so a server that stops reading would be waited for without end. How much is taken
        is seen by the position in a body that is a file.
        """
        sending = asyncio.ensure_future(request)
        try:
            sent = -1
            while not (await asyncio.wait([sending], timeout=self.requests_timeout.sock_read))[0]:
                if isinstance(body, BytesIO):
                    if body.tell() == sent:
                        raise TimeoutError
                    sent = body.tell()
            return await sending
        finally:
            sending.cancel()

    def _fault_of(self, error: Exception) -> Fault | None:
        if isinstance(error, ConnectionTimeoutError):
            return Fault(f"no connection to storage within {self.requests_timeout.sock_connect:g} s", may_pass=True)
        if isinstance(error, TimeoutError):
            return Fault(f"no answer from storage within {self.requests_timeout.sock_read:g} s", may_pass=True)
        return fault_of(error)

    async def _cat_file_sequential(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> Any:
        """The content of an object, compared with the `X-Goog-Hash` header of the JSON API's `alt=media` answers.

        Raises:
            ChecksumError: If it was cut short or changed on its way.
        """
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


def gcs_filesystem() -> AbstractFileSystem:
    """The filesystem for `gs://`, with Application Default Credentials, or anonymous against an emulator."""
    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else "google_default"
    timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S)
    # What is written is compared with the checksum that the server answers; "crc32c" would need one more package.
    return ReliableGCSFileSystem(
        token=token,
        requester_pays=os.environ.get("GCS_USER_PROJECT") or False,
        consistency="md5",
        use_listings_cache=False,
        requests_timeout=timeout,
        skip_instance_cache=True,  # the server may be another one by now
    )
