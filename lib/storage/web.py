"""A file by `https://`, written to this disk. Only what a user names in so many words is fetched this way."""

from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import MaxRetryError

from lib.errors import StorageError, one_line
from lib.storage.faults import RETRIES, TRANSIENT_STATUS, TransientStorageError

CONNECT_S, STALL_S = 10.0, 60.0
CHUNK_BYTES = 1 << 20
HTTPS = "https"


def download(url: str, target: Path, largest_bytes: int) -> None:
    """Write what an `https://` address holds to a file.

    Redirections are followed, but never to an address that is not encrypted. A fault of the server is tried again; no
    connection at all is not, since a machine that is offline stays so.

    Args:
        url: The address.
        target: The file, which is replaced. What it holds after an error is a part.
        largest_bytes: What is larger is refused.

    Raises:
        StorageError: If it cannot be had whole.
    """
    RETRIES.run(lambda: _download(url, target, largest_bytes), f"download {url}")


def _download(url: str, target: Path, largest_bytes: int) -> None:
    try:
        # As it is kept there: what the server would compress for the way has another checksum.
        headers = {"Accept-Encoding": "identity"}
        with requests.get(url, stream=True, timeout=(CONNECT_S, STALL_S), headers=headers) as answer:
            _check(url, answer)
            _write(url, answer, target, largest_bytes)
    except requests.RequestException as error:
        if reason := _no_connection(url, error):
            raise StorageError(f"cannot download {url}: {reason}") from error
        raise TransientStorageError(f"{type(error).__name__} {one_line(error)[:200]}", "connection") from error


def _check(url: str, answer: requests.Response) -> None:
    for step in (*answer.history, answer):
        if urlsplit(step.url).scheme != HTTPS:
            raise StorageError(f"cannot download {url}: it leads to {step.url}, which is not encrypted")
    if answer.status_code in TRANSIENT_STATUS:
        raise TransientStorageError(f"HTTP {answer.status_code}", f"http_{answer.status_code}")
    if not answer.ok:
        raise StorageError(f"cannot download {url}: HTTP {answer.status_code} {answer.reason}")


def _write(url: str, answer: requests.Response, target: Path, largest_bytes: int) -> None:
    size_bytes = 0
    with target.open("wb") as file:
        for chunk in answer.iter_content(CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > largest_bytes:
                raise StorageError(f"cannot download {url}: it is larger than {largest_bytes} bytes")
            file.write(chunk)


def _no_connection(url: str, error: requests.RequestException) -> str | None:
    """Why the server could not be reached, or None if it was."""
    if isinstance(error, requests.exceptions.SSLError):
        return f"its certificate is not accepted ({one_line(error)[-160:]})"
    if error.args and isinstance(error.args[0], MaxRetryError):
        at_fault = error.request.url if error.request is not None else url  # after a redirection, another server
        return f"there is no connection to {urlsplit(str(at_fault)).hostname}"
    return None
