"""How Google Drive is reached. Nothing here is a secret: the credential stays in its file or on its machine."""

import os
from typing import Self

from pydantic import Field, ValidationError, field_validator

from lib.config.base import Settings
from lib.errors import SettingsError
from lib.storage.faults import RetryPolicy

DRIVE_ENDPOINT = "https://www.googleapis.com"
VARIABLES = {
    "endpoint": "DRIVE_API_ENDPOINT",
    "acknowledge_abuse": "DRIVE_ACKNOWLEDGE_ABUSE",
    "units_per_minute": "DRIVE_UNITS_PER_MINUTE",
}
"""The environment variables that set fields of `DriveSettings`."""


class DriveSettings(Settings):
    """Settings of the filesystem for `gdrive://`; cheap to send to another process."""

    endpoint: str = DRIVE_ENDPOINT
    """Server of the Drive API; another one for tests and proxies (environment: DRIVE_API_ENDPOINT)."""
    key_file: str | None = None
    """Service-account key or user token in JSON; without one, Application Default Credentials."""
    acknowledge_abuse: bool = False
    """Read files that Drive has flagged as malware or spam (environment: DRIVE_ACKNOWLEDGE_ABUSE)."""
    units_per_minute: int = Field(default=250_000, ge=1_000)
    """Quota units a minute for the whole cluster; Drive allows 325,000 a user (environment: DRIVE_UNITS_PER_MINUTE)."""
    concurrency: int = Field(default=32, ge=1)
    """Requests that one process has under way at a time."""
    timeout_s: float = Field(default=60, gt=0)
    """Longest silence of the server, in seconds."""
    attempts: int = Field(default=10, ge=1)
    """How often a request is made before its failure is final."""
    first_pause_s: float = Field(default=1, ge=0)
    """Longest pause before the second attempt, in seconds; it doubles with each further attempt."""
    longest_pause_s: float = Field(default=64, ge=0)
    """Longest pause between two attempts, in seconds, unless the server asks for more."""
    chunk_bytes: int = Field(default=8 * 2**20, ge=2**18, multiple_of=2**18)
    """Bytes in one request of an upload; Drive wants a multiple of 256 KiB."""

    @property
    def retries(self) -> RetryPolicy:
        """Of one request, or of all that reads or writes one file."""
        return RetryPolicy(self.attempts, None, self.first_pause_s, self.longest_pause_s)

    @field_validator("endpoint")
    @classmethod
    def _is_a_server(cls, endpoint: str) -> str:
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError("expected http://host:port or https://host")
        return endpoint.rstrip("/")

    @classmethod
    def from_environment(cls) -> Self:
        """The defaults, with what the environment variables say.

        Raises:
            SettingsError: If a variable has a value that its setting does not take.
        """
        given = {field: os.environ[name] for field, name in VARIABLES.items() if os.environ.get(name)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problem = error.errors()[0]
            name = VARIABLES[str(problem["loc"][0])]
            raise SettingsError(f"{name}={os.environ[name]!r} cannot be used: {problem['msg']}") from error
