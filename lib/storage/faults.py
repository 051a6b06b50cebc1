"""What filesystems raise, named: which file, what was tried, whether it may be tried again, and what to do.

Requests to GCS, S3 and Google Drive are repeated where they are made; what `attempt` repeats, for all filesystems, is
an operation whose result is not what it should be, as a part of a file or of a listing.
"""

import asyncio
import itertools
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self, TypeVar

from lib.errors import StorageError, one_line
from lib.runtime.counters import STORAGE_RETRIES
from lib.storage.cloud_refusals import GCS, concerns_payment

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

LONGEST_ASKED_S = 600.0
"""A server that asks for a longer pause than this is not waited for."""
TRANSIENT_STATUS = frozenset({408, 429, *range(500, 600)})
REMEDIES = {
    HTTPStatus.UNAUTHORIZED: "the credentials are not valid (any more); "
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file",
}


def attempt(action: str, uri: str, call: Callable[[], ResultT]) -> ResultT:
    """The result of a storage call, with faults retried or named.

    Args:
        action: What is tried, as a verb: `read`.
        uri: The file or folder.
        call: Does it.

    Raises:
        StorageError: If it fails in a way that another attempt cannot mend, or too often.
    """

    def once() -> ResultT:
        try:
            return call()
        except GivenUpError as error:
            raise StorageError(f"cannot {action} {uri}: {error}") from error
        except StorageError:
            raise
        except Exception as error:  # filesystems raise what their HTTP clients do; all of it is named here, or goes on
            fault = fault_of(error)
            if fault is not None and fault.may_pass:
                raise TransientStorageError.of(fault, error) from error
            raise named(error, action, uri) or error from error

    return RETRIES.run(once, f"{action} {uri}")


def named(error: Exception, action: str, uri: str) -> StorageError | None:
    """The error as one of ours, or None if it is none of storage's."""
    fault = fault_of(error)
    return None if fault is None else StorageError(f"cannot {action} {uri}: {fault.reason}")


@dataclass(frozen=True)
class Fault:
    """What a filesystem's error means.

    Attributes:
        reason: What happened, in one line, and what to do about it where that is known.
        may_pass: Whether another attempt may succeed.
    """

    reason: str
    may_pass: bool = False


def fault_of(error: Exception) -> Fault | None:
    """What the error means, or None if it is none of storage's."""
    if isinstance(error, FileNotFoundError):
        return Fault("there is no such file or bucket")
    if (status := _status(error)) is not None:
        return _from_status(status, error)
    if _may_pass(error):
        return Fault(f"{type(error).__name__} {one_line(error)}".rstrip(), may_pass=True)
    reason = _reason(error)
    return None if reason is None else Fault(reason)


def is_unmet_condition(error: Exception) -> bool:
    """Whether a server did not do something since the object is no longer the one that was meant."""
    return isinstance(error, FileExistsError) or _status(error) == HTTPStatus.PRECONDITION_FAILED


def kind_of(error: Exception) -> str:
    """What went wrong, in a word, for counting: `rate_limit`, `http_503`, `timeout`, `damaged` or `connection`."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if (status := _status(error)) is not None:
        return "rate_limit" if status == HTTPStatus.TOO_MANY_REQUESTS else f"http_{status}"
    is_damaged = type(error).__name__ == "ChecksumError" or isinstance(error, json.JSONDecodeError)
    return "damaged" if is_damaged else "connection"


def _may_pass(error: Exception) -> bool:
    """Whether a connection was lost or an answer cut short; HTTP clients go by name, so that none is imported."""
    names = {kind.__name__ for kind in type(error).__mro__}
    clients = {
        "ClientError",
        "HTTPClientError",
        "RequestException",
        "IncompleteRead",
        "IncompleteReadError",
        "ChecksumError",
    }
    return bool(names & clients) or isinstance(error, ConnectionError | TimeoutError | json.JSONDecodeError)


def _reason(error: Exception) -> str | None:
    """Why it is of no use to try again, or None if this is no fault of storage."""
    if "GoogleAuthError" in {kind.__name__ for kind in type(error).__mro__}:
        return f"{REMEDIES[HTTPStatus.UNAUTHORIZED]} ({one_line(error)})"
    # gcsfs has ValueErrors for what a server refuses with the word "invalid", and for buckets whose readers pay.
    if isinstance(error, ValueError) and re.search("Bad Request|requester pays", str(error)):
        return one_line(error)
    return (error.strerror or one_line(error)) if isinstance(error, OSError) else None


def _status(error: Exception) -> int | None:
    """The HTTP status in gcsfs's HttpError, or in the plain OSError that it raises for 403."""
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):
        return HTTPStatus.FORBIDDEN
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else None


def _words(error: Exception) -> str:
    """What the server said, without what gcsfs puts around it."""
    text = str(error)
    if text.startswith("Forbidden"):
        return text.partition("\n")[2]
    return str(getattr(error, "message", text)).removesuffix(f", {getattr(error, 'code', '')}")


def _from_status(status: int, error: Exception) -> Fault:
    if status in TRANSIENT_STATUS:
        return Fault(f"HTTP {status} {one_line(error)}".rstrip(), may_pass=True)
    if status == HTTPStatus.FORBIDDEN or concerns_payment(str(error)):
        return Fault(GCS.explained(_words(error), status))
    remedy = REMEDIES.get(HTTPStatus(status)) if status in REMEDIES else None
    return Fault(f"HTTP {status}: {remedy or one_line(error)}")


class TransientStorageError(StorageError):
    """A fault that may be gone at the next attempt: a busy server, a broken connection, a part of a file.

    Says what happened, not to which file; that is added by whoever gives up.

    Attributes:
        kind: Kind of the fault, for counting; see `kind_of`.
        is_silent: Whether there was no answer at all.
        asked_s: Seconds that the server asked to wait.
    """

    def __init__(self, reason: str, kind: str = "damaged", *, is_silent: bool = False, asked_s: float = 0.0) -> None:
        super().__init__(reason)
        self.kind, self.is_silent, self.asked_s = kind, is_silent, asked_s

    @classmethod
    def of(cls, fault: "Fault", error: Exception) -> Self:
        """What a filesystem's error means, to be tried again."""
        return cls(fault.reason, kind_of(error), is_silent=isinstance(error, TimeoutError))


class GivenUpError(StorageError):
    """A refusal, or a fault that stayed through all attempts, from a filesystem that does not know for which file."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often something that fails with a `TransientStorageError` is tried, and how long the pauses are.

    Attributes:
        attempts: How often at the most.
        silent_attempts: How often if the last one had no answer at all, which takes long; None for as often.
        first_delay_s: Longest pause after the first attempt, in seconds; it doubles with each further one.
        longest_delay_s: Longest pause of all, unless the server asks for more.
    """

    attempts: int = 5
    silent_attempts: int | None = None
    first_delay_s: float = 0.5
    longest_delay_s: float = 20.0

    def run(self, action: Callable[[], ResultT], subject: str) -> ResultT:
        """The result of an action, done again from the start for as long as that may help.

        Args:
            action: What to do.
            subject: What it is for, to follow "cannot" in messages.

        Raises:
            StorageError: If its fault stays.
        """
        for attempt in itertools.count(1):
            try:
                return action()
            except TransientStorageError as fault:
                time.sleep(self._pause_s(attempt, fault, subject))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def run_async(self, action: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """As `run`, for coroutines of which only their caller knows what they are for.

        Raises:
            GivenUpError: If its fault stays.
        """
        for attempt in itertools.count(1):
            try:
                return await action()
            except TransientStorageError as fault:
                await asyncio.sleep(self._pause_s(attempt, fault))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def delay_s(self, attempt: int) -> float:
        """The pause after a failed attempt: uniform between 0 and a limit that doubles ("full jitter").

        So many workers that failed together do not come back together.

        Args:
            attempt: The number of the attempt that failed, from 1.

        Source:
            Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
        """
        return random.uniform(0, min(self.first_delay_s * 2 ** (attempt - 1), self.longest_delay_s))  # noqa: S311 - no secret

    def _pause_s(self, attempt: int, fault: TransientStorageError, subject: str = "") -> float:
        attempts = self.silent_attempts if fault.is_silent and self.silent_attempts else self.attempts
        told = f"cannot {subject}: {fault}" if subject else str(fault)
        if attempt >= attempts or fault.asked_s > LONGEST_ASKED_S:
            asks = f"; the server asks to wait {fault.asked_s:.0f} s" if fault.asked_s else ""
            times = "once" if attempt == 1 else f"{attempt} times"
            raise (StorageError if subject else GivenUpError)(f"{told}{asks} (tried {times})") from fault
        pause_s = max(fault.asked_s, self.delay_s(attempt))
        logger.info("storage: %s; again in %.1f s (attempt %d of %d)", told, pause_s, attempt + 1, attempts)
        STORAGE_RETRIES.add(1, reason=fault.kind)
        return pause_s


RETRIES = RetryPolicy()
"""For an operation whose result is not what it should be."""
