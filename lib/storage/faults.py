"""What filesystems raise, named: which file, what was tried, whether it may be tried again, and what to do.

Requests to GCS and Google Drive are repeated where they are made; what is repeated here, for all filesystems, is an
operation whose result is not what it should be, as a part of a file or of a listing.
"""

import json
import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from lib.errors import StorageError
from lib.runtime.counters import STORAGE_RETRIES

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

ATTEMPTS = 5
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 20.0
TRANSIENT_STATUS = frozenset({408, 429, *range(500, 600)})
REMEDIES = {
    HTTPStatus.UNAUTHORIZED: "the credentials are not valid (any more); "
    "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file",
    HTTPStatus.FORBIDDEN: "the account may not do that; it needs the role Storage Object Viewer on a source, "
    "Storage Object User on an output",
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
            raise named(error, action, uri) or error from error

    return retry(once)


def named(error: Exception, action: str, uri: str) -> StorageError | None:
    """The error as one of ours, or None if it is none of storage's."""
    fault = fault_of(error)
    if fault is None:
        return None
    if not fault.may_pass:
        return StorageError(f"cannot {action} {uri}: {fault.reason}")
    transient = TransientStorageError(f"cannot {action} {uri}: {fault.reason}")
    transient.kind = kind_of(error)
    return transient


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
        return Fault(f"{type(error).__name__} {_one_line(error)}".rstrip(), may_pass=True)
    reason = _reason(error)
    return None if reason is None else Fault(reason)


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
    clients = {"ClientError", "RequestException", "IncompleteRead", "ChecksumError"}
    return bool(names & clients) or isinstance(error, ConnectionError | TimeoutError | json.JSONDecodeError)


def _reason(error: Exception) -> str | None:
    """Why it is of no use to try again, or None if this is no fault of storage."""
    if "GoogleAuthError" in {kind.__name__ for kind in type(error).__mro__}:
        return f"{REMEDIES[HTTPStatus.UNAUTHORIZED]} ({_one_line(error)})"
    # gcsfs has ValueErrors for what a server refuses with the word "invalid", and for buckets whose readers pay.
    if isinstance(error, ValueError) and re.search("Bad Request|requester pays", str(error)):
        return _one_line(error)
    return (error.strerror or _one_line(error)) if isinstance(error, OSError) else None


def _status(error: Exception) -> int | None:
    """The HTTP status in gcsfs's HttpError, or in the plain OSError that it raises for 403."""
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):
        return HTTPStatus.FORBIDDEN
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else None


def _from_status(status: int, error: Exception) -> Fault:
    if status in TRANSIENT_STATUS:
        return Fault(f"HTTP {status} {_one_line(error)}".rstrip(), may_pass=True)
    remedy = REMEDIES.get(HTTPStatus(status)) if status in REMEDIES else None
    return Fault(f"HTTP {status}: {remedy or _one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class TransientStorageError(StorageError):
    """A fault that may be gone at the next attempt: a busy server, a broken connection, a part of a file.

    Attributes:
        kind: Of the fault, as `lib.storage.faults.kind_of` tells them apart.
    """

    kind = "damaged"


class GivenUpError(StorageError):
    """A fault that stayed through all the attempts of a filesystem that repeats its requests itself."""


def retry(action: Callable[[], ResultT], attempts: int = ATTEMPTS) -> ResultT:
    """The result of an action, repeated while it fails with a `TransientStorageError`.

    Args:
        action: What to do; done again from the start.
        attempts: How often at the most.

    Raises:
        StorageError: What the action raised: at once if it is not transient, else at its last attempt.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except TransientStorageError as error:
            if attempt == attempts:
                raise StorageError(f"{error} (tried {attempts} times)") from error
            delay_s = full_jitter_s(attempt, FIRST_DELAY_S, LONGEST_DELAY_S)
            logger.info("storage: %s; again in %.1f s (attempt %d of %d)", error, delay_s, attempt + 1, attempts)
            STORAGE_RETRIES.add(1, reason=error.kind)
            time.sleep(delay_s)
    raise ValueError(f"attempts is {attempts}; expected at least 1")


def full_jitter_s(attempt: int, first_s: float, longest_s: float) -> float:
    """How long to wait after a failed attempt, in seconds: uniform between 0 and a limit that doubles.

    So many workers that failed together do not come back together.

    Args:
        attempt: The number of the attempt that failed, from 1.
        first_s: The limit after the first one.
        longest_s: The highest limit.

    Source:
        Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(first_s * 2 ** (attempt - 1), longest_s))  # noqa: S311 - no secret
