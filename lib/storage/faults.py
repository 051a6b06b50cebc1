"""What filesystems raise, named: which file, what was tried, whether it may be tried again, and what to do."""

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

from lib.errors import StorageError
from lib.storage.retry import TransientStorageError, retry

ResultT = TypeVar("ResultT")

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
        except StorageError:
            raise
        except Exception as error:  # filesystems raise what their HTTP clients do; all of it is named here, or goes on
            raise named(error, action, uri) or error from error

    return retry(once)


def named(error: Exception, action: str, uri: str) -> StorageError | None:
    """The error as one of ours, or None if it is none of storage's."""
    what = f"cannot {action} {uri}"
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{what}: there is no such file or bucket")
    if (status := _status(error)) is not None:
        return _from_status(status, error, what)
    if isinstance(error, ConnectionError | TimeoutError) or _is_connection_error(error):
        return TransientStorageError(f"{what}: {type(error).__name__} {_one_line(error)}".rstrip())
    if _is_credentials_error(error):
        return StorageError(f"{what}: {REMEDIES[HTTPStatus.UNAUTHORIZED]} ({_one_line(error)})")
    if isinstance(error, OSError):
        return StorageError(f"{what}: {error.strerror or _one_line(error)}")
    return None


def _status(error: Exception) -> int | None:
    """The HTTP status in gcsfs's HttpError, or in the plain OSError that it raises for 403."""
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):
        return HTTPStatus.FORBIDDEN
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else None


def _from_status(status: int, error: Exception, what: str) -> StorageError:
    if status in TRANSIENT_STATUS:
        return TransientStorageError(f"{what}: HTTP {status} {_one_line(error)}".rstrip())
    remedy = REMEDIES.get(HTTPStatus(status)) if status in REMEDIES else None
    return StorageError(f"{what}: HTTP {status}: {remedy or _one_line(error)}")


def _is_connection_error(error: Exception) -> bool:
    """Whether an HTTP client lost its connection; told by name, so that no client is imported for it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ClientError", "RequestException", "IncompleteRead", "ChecksumError"})


def _is_credentials_error(error: Exception) -> bool:
    return "GoogleAuthError" in {kind.__name__ for kind in type(error).__mro__}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
