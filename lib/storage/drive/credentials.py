"""Access tokens for Drive: from a service-account key, a user's token file, or the machine's own account.

The credential is read in each process, from the file or the machine that holds it. What is sent to another process is
only where it is. google-auth's `AuthorizedSession` would fetch a token a thread where one that all share is refused.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

import google.auth
import requests
from google.auth import exceptions
from google.auth.transport.requests import Request
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from lib.errors import SettingsError, StorageError, one_line
from lib.storage.drive.answers import LOGIN
from lib.storage.faults import TransientStorageError

SCOPES = ("https://www.googleapis.com/auth/drive",)
ANONYMOUS = "the account of your login"
HELP = "set GOOGLE_APPLICATION_CREDENTIALS to the path of a key file, or log in: " + LOGIN
TOKEN_TIMEOUT_S = 30


class DriveCredential:
    """Tokens of one account for the threads of one process. Pickling keeps the path of the key file and nothing else.

    Source: https://developers.google.com/identity/protocols/oauth2/service-account
    """

    def __init__(self, key_file: str | None = None) -> None:
        self._key_file = key_file
        self._lock = threading.Lock()
        self._credentials: Any = None

    def __reduce__(self) -> tuple[type["DriveCredential"], tuple[str | None]]:
        return type(self), (self._key_file,)

    @property
    def account(self) -> str:
        """The address to share folders with, as far as the credential tells it.

        Raises:
            SettingsError: If there is no credential.
        """
        with self._lock:
            return str(getattr(self._loaded(), "service_account_email", None) or ANONYMOUS)

    def token(self, rejected: str | None = None) -> str:
        """A token that is valid for some minutes at least.

        Args:
            rejected: A token that the server did not take; another one is fetched unless a thread already has.

        Raises:
            SettingsError: If there is no credential, or its file cannot be used.
            StorageError: If Google does not accept the credential.
            TransientStorageError: If no token could be fetched this time.
        """
        with self._lock:
            loaded = self._loaded()
            if not loaded.valid or loaded.token == rejected:  # google-auth ends validity 225 s before Google does
                self._refresh(loaded)
            return str(loaded.token)

    def _loaded(self) -> Any:
        if self._credentials is None:
            try:
                self._credentials = _load(self._key_file)
            except (exceptions.GoogleAuthError, OSError, ValueError) as error:
                raise SettingsError(f"there is no usable credential for Drive: {_one_line(error)}; {HELP}") from error
        return self._credentials

    def _refresh(self, loaded: Any) -> None:
        with requests.Session() as session:
            request = Request(session)
            try:
                loaded.refresh(lambda *args, **kwargs: request(*args, **{"timeout": TOKEN_TIMEOUT_S} | kwargs))
            except exceptions.RefreshError as error:
                if error.retryable:
                    raise TransientStorageError(f"no access token: {_one_line(error)}", kind="token") from error
                raise StorageError(
                    f"Google does not accept the credential of {getattr(loaded, 'service_account_email', ANONYMOUS)}: "
                    f"{_one_line(error)}; make a new key or log in again ({LOGIN}), and check this machine's clock"
                ) from error
            except exceptions.TransportError as error:
                raise TransientStorageError(f"no access token: {_one_line(error)}", kind="token") from error


def _load(key_file: str | None) -> Any:
    """A key or token file is read here, any other kind of credential is found by google-auth."""
    path = key_file or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    content = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "service_account":
        return service_account.Credentials.from_service_account_info(content, scopes=SCOPES)  # type: ignore[no-untyped-call]
    if kind == "authorized_user":
        user = user_credentials.Credentials.from_authorized_user_info(content)  # type: ignore[no-untyped-call]
        return user.with_token_uri(content["token_uri"]) if "token_uri" in content else user
    if key_file is not None:
        raise ValueError(f"{key_file} has type {kind!r}; expected service_account or authorized_user")
    return google.auth.default(scopes=SCOPES)[0]


def _one_line(error: Exception) -> str:
    told = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return one_line(told)
