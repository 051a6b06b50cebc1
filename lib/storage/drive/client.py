"""Requests to the Drive API: signed, within the quota, a session for each at a time, made again when that may help."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

import requests
from pydantic import TypeAdapter, ValidationError

from lib.errors import one_line
from lib.storage.drive.answers import Rejection
from lib.storage.drive.credentials import DriveCredential
from lib.storage.drive.limiter import Limiter
from lib.storage.drive.options import DriveSettings
from lib.storage.faults import LONGEST_ASKED_S, TransientStorageError

UNITS_LIST, UNITS_DOWNLOAD, UNITS_WRITE, UNITS_OTHER = 100, 200, 50, 5
"""Quota units of a request. Source: https://developers.google.com/workspace/drive/api/guides/limits (May 2026)."""
CONNECT_TIMEOUT_S = 20

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        path: Below the endpoint, or a whole URL.
        subject: What it is for, to follow "cannot" in messages.
        units: What it costs of the quota.
        params: Query parameters.
        headers: Beside those of authorization.
        body: What is sent.
        accepted: Statuses that are no error.
    """

    method: str
    path: str
    subject: str
    units: int
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    accepted: frozenset[int] = frozenset({200, 201, 204, 206})


class DriveClient:
    """Sends requests, from any thread."""

    def __init__(self, settings: DriveSettings, credential: DriveCredential, limiter: Limiter) -> None:
        self._settings = settings
        self.credential = credential
        self._limiter = limiter
        self._turns = threading.BoundedSemaphore(settings.concurrency)
        self._idle: deque[requests.Session] = deque()

    def send(self, call: Call) -> requests.Response:
        """Make a request until it is answered.

        Raises:
            StorageError: If it is refused, or fails too often.
        """
        return self.persist(lambda: self.once(call), call.subject)

    def answer(self, call: Call, expected: TypeAdapter[ResultT]) -> ResultT:
        """What answers a request in JSON.

        Raises:
            StorageError: If it is refused, or fails too often.
        """
        return self.persist(lambda: parsed(self.once(call), expected), call.subject)

    def persist(self, operation: Callable[[], ResultT], subject: str) -> ResultT:
        """Do something until it succeeds.

        Raises:
            StorageError: If it is refused, or fails too often.
        """
        return self._settings.retries.run(operation, subject)

    def once(self, call: Call) -> requests.Response:
        """Make a request once, or twice if its access token was not taken.

        Raises:
            TransientStorageError: If it may succeed later.
            DriveRefused: If it will not.
        """
        token = self.credential.token()
        response = self._exchange(call, token)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            response = self._exchange(call, self.credential.token(rejected=token))
        if response.status_code in call.accepted:
            return response
        rejection = Rejection.of(response)
        if rejection.is_too_many:
            self._limiter.slow_down(min(rejection.pause_s, LONGEST_ASKED_S))
        raise rejection.as_failure(call.subject, self.credential.account)

    def _exchange(self, call: Call, token: str) -> requests.Response:
        self._limiter.acquire(call.units)
        url = call.path if "://" in call.path else self._settings.endpoint + call.path
        with self._turns, self._session() as session:
            try:
                return session.request(
                    call.method,
                    url,
                    params=call.params,
                    headers={**call.headers, "Authorization": f"Bearer {token}"},
                    data=call.body,
                    timeout=(min(CONNECT_TIMEOUT_S, self._settings.timeout_s), self._settings.timeout_s),
                    allow_redirects=False,
                )
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                kind = "timeout" if isinstance(error, requests.Timeout) else "connection"
                message = f"{type(error).__name__}: {one_line(error)}"
                raise TransientStorageError(message, kind=kind) from error

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        """A session that no other thread uses at the same time, with its connection still open if there is one."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = requests.Session()
            session.auth = _keep_authorization
        try:
            yield session
        finally:
            self._idle.append(session)

    def close(self) -> None:
        """End the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()


def _keep_authorization(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Without an `auth` of its own, a session lets an entry of ~/.netrc replace the Authorization header."""
    return request


def parsed(response: requests.Response, expected: TypeAdapter[ResultT]) -> ResultT:
    """What a JSON answer says.

    Raises:
        TransientStorageError: If it is not what is expected, as where a proxy answers in the place of Drive.
    """
    try:
        return expected.validate_json(response.content)
    except ValidationError as error:
        raise TransientStorageError(f"not an answer of Drive's: {one_line(error.errors()[0]['msg'])}") from error
