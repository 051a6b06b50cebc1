"""Amazon S3, and servers that answer as it does, through s3fs: read, not written.

Credentials are where boto looks for them: the environment, `~/.aws`, the role of a machine. `AWS_ENDPOINT_URL` names
another server, `AWS_NO_SIGN_REQUEST=1` reads public buckets without credentials, and `AWS_REQUEST_PAYER=requester` has
whoever reads pay.
"""

import os
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - boto's own, which is none of Python's
    ConnectTimeoutError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync_wrapper
from s3fs import S3FileSystem

from lib.config.base import READ_ONLY
from lib.errors import SettingsError, one_line
from lib.storage.cloud_refusals import S3
from lib.storage.faults import TRANSIENT_STATUS, GivenUpError, RetryPolicy, TransientStorageError, fault_of

ResultT = TypeVar("ResultT")

CONNECT_S, STALL_S = 10.0, 30.0
"""Longest to wait for a connection, and for the next bytes of an answer."""
CONNECTIONS = 64
"""At once; as many as files are fetched side by side."""
RETRIES = RetryPolicy(attempts=8, silent_attempts=4, first_delay_s=1.0, longest_delay_s=32.0)
"""Of one request. Those of boto and s3fs are switched off."""
REQUESTS = frozenset({"get_object", "list_objects_v2"})
"""All that are made. None is a HEAD: its answer has no body, and so, if it is a refusal, no reason."""
MAY_PASS = (HTTPClientError, ConnectionError, IncompleteReadError, FlexibleChecksumError, ResponseParserError)


class ReadOnlyS3FileSystem(S3FileSystem):  # type: ignore[misc] # s3fs has no types
    """The one place where requests to S3 are repeated, as `ReliableGCSFileSystem` is for GCS."""

    retries = 1

    async def _call_s3(self, method: str, *arguments: Any, **kwargs: Any) -> Any:
        """What s3fs's own does.

        Raises:
            FileNotFoundError: If there is no such object, or no longer in the version that was asked for.
            SettingsError: If there is no such bucket.
            GivenUpError: If the request is refused, or a fault stays that another attempt might have mended.
        """
        return await self._repeated(lambda: self._request(method, *arguments, **kwargs), kwargs.get("Bucket", ""))

    call_s3 = sync_wrapper(_call_s3)

    async def _request(self, method: str, *arguments: Any, **kwargs: Any) -> Any:
        if method not in REQUESTS:
            raise GivenUpError(READ_ONLY)
        call = getattr(await self.set_session(), method)
        return await call(**self._get_s3_method_kwargs(call, *arguments, **kwargs))

    async def _repeated(self, action: Callable[[], Awaitable[ResultT]], bucket: str) -> ResultT:
        async def once() -> ResultT:
            try:
                return await action()
            except Exception as error:  # clients raise what they like; all of it is told apart here, or goes on
                meant = _meant(error, bucket)
                if meant is None:
                    raise
                raise meant from error

        return await RETRIES.run_async(once)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, etag: str | None = None, **ignored: Any
    ) -> bytes:
        """The content of an object, or a range of it.

        Args:
            path: Of the object.
            start: First byte.
            end: The byte after the last.
            etag: The version that is meant.
        """
        bucket, _, key = path.partition("/")
        conditions = {"IfMatch": f'"{etag}"'} if etag else {}
        if start is not None or end is not None:
            conditions["Range"] = await self._process_limits(path, start, end)

        async def content() -> bytes:
            answer = await self._request("get_object", Bucket=bucket, Key=key, **conditions)
            async with answer["Body"] as body:
                return bytes(await body.read())

        return await self._repeated(content, bucket)

    async def _info(self, path: str, **ignored: Any) -> dict[str, Any]:
        """What listings tell of an object or a folder.

        Raises:
            FileNotFoundError: If there is neither.
        """
        bucket, _, key = path.rstrip("/").partition("/")
        for item in await self._first(bucket, key) if key else []:
            if item["Key"] == key:
                return {"name": path, "type": "file", "size": item["Size"], "ETag": item["ETag"]}
        if not await self._first(bucket, f"{key}/" if key else "") and key:
            raise FileNotFoundError(path)
        return {"name": path, "type": "directory", "size": 0}

    async def _first(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """The first object whose name begins so; where one has this very name, it comes first."""
        answer = await self._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        return list(answer.get("Contents", []))

    _exists = AsyncFileSystem._exists
    exists = sync_wrapper(_exists)


def _meant(error: Exception, bucket: str) -> Exception | None:
    """What an error of boto or its HTTP client means; None for any other."""
    if isinstance(error, ClientError):
        return _refusal(error.response, bucket)
    if isinstance(error, ConnectTimeoutError):
        return TransientStorageError(f"no connection to storage within {CONNECT_S:g} s", "timeout", is_silent=True)
    if isinstance(error, ReadTimeoutError):
        return TransientStorageError(f"no answer from storage within {STALL_S:g} s", "timeout", is_silent=True)
    if isinstance(error, MAY_PASS):
        return TransientStorageError(f"{type(error).__name__} {one_line(error)}", "connection")
    if isinstance(error, BotoCoreError):
        return GivenUpError(S3.explained(f"{type(error).__name__}: {error}"))
    fault = fault_of(error)
    return TransientStorageError.of(fault, error) if fault is not None and fault.may_pass else None


def _refusal(answer: dict[str, Any], bucket: str) -> Exception:
    """What an answer means that is not the one asked for."""
    status = int(answer["ResponseMetadata"]["HTTPStatusCode"])
    code = answer["Error"].get("Code", "")
    message = answer["Error"].get("Message", "")
    words = message if code in {"", str(status)} else f"{code}: {message}"  # boto's own code where the body had none
    if code == "NoSuchBucket":
        return SettingsError(f"cannot open s3://{bucket}: {S3.explained(words, status)}")
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED}:
        return FileNotFoundError(words)
    if status in TRANSIENT_STATUS or code == "RequestTimeout":
        is_limit = status == HTTPStatus.TOO_MANY_REQUESTS or code == "SlowDown"
        return TransientStorageError(
            f"HTTP {status} {one_line(words)}".rstrip(), "rate_limit" if is_limit else f"http_{status}"
        )
    return GivenUpError(S3.explained(words, status))


def s3_filesystem() -> AbstractFileSystem:
    """The filesystem for `s3://`, with what the environment says."""
    return ReadOnlyS3FileSystem(
        anon=os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in {"1", "yes", "true"},
        requester_pays=os.environ.get("AWS_REQUEST_PAYER") == "requester",
        config_kwargs={
            "retries": {"total_max_attempts": 1},
            "connect_timeout": CONNECT_S,
            "read_timeout": STALL_S,
            "max_pool_connections": CONNECTIONS,
        },
        use_listings_cache=False,
        skip_instance_cache=True,  # the server may be another one by now
    )
