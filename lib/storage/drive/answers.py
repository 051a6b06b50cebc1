"""What Drive answers when it does not do what was asked: try again, or say what a person can do about it."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import requests
from pydantic import BaseModel, ValidationError

from lib.errors import StorageError, one_line
from lib.storage.faults import TRANSIENT_STATUS, TransientStorageError

RATE_LIMIT_REASONS = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"})
LOGIN = "`gcloud auth application-default login --scopes=https://www.googleapis.com/auth/drive,openid`"
SHARE = "share the folder with {account}"
REMEDIES = {
    "notFound": SHARE + ", and check the id",
    "insufficientFilePermissions": SHARE + " as an editor",
    "appNotAuthorizedToFile": SHARE,
    "cannotDownloadFile": "its owner has forbidden downloads; ask for the right to download",
    "cannotDownloadAbusiveFile": "if you trust the file, set DRIVE_ACKNOWLEDGE_ABUSE=1 (Drive lets its owner do this)",
    "downloadQuotaExceeded": "it was downloaded too often in 24 hours: wait a day, or work on a copy of it",
    "storageQuotaExceeded": "write to a shared drive or to gs://, since service accounts own no storage, or free some",
    "teamDriveFileLimitExceeded": "the shared drive holds as many files as it may: write to another one",
    "dailyLimitExceeded": "the project's requests of this day are used up: wait a day, or raise its quota",
    "accessNotConfigured": "enable the Google Drive API in project {project}: "
    "https://console.cloud.google.com/apis/library/drive.googleapis.com?project={project}",
    "insufficientPermissions": f"the login lacks the Drive scope: {LOGIN}",
    "authError": f"make a new key, or log in again: {LOGIN}",
}
REMEDIES |= {
    "SERVICE_DISABLED": REMEDIES["accessNotConfigured"],
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": REMEDIES["insufficientPermissions"],
}


REMEDIES_BY_STATUS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: REMEDIES["authError"],
    HTTPStatus.FORBIDDEN: SHARE,
    HTTPStatus.NOT_FOUND: REMEDIES["notFound"],
}
"""Where Drive gives no reason, or one that is not known here."""


class DriveRefused(StorageError):  # noqa: N818 - a verdict, as ImageRefused is
    """Drive refused a request for good.

    Attributes:
        message: What was refused, why, and the remedy, on one line.
        reason: Drive's own word for it, as `storageQuotaExceeded`.
    """

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message, status, reason)
        self.message, self.status, self.reason = message, status, reason

    def __str__(self) -> str:
        return self.message

    @property
    def is_missing(self) -> bool:
        """Whether there is no such thing, or it is not shared with this account."""
        return self.status == HTTPStatus.NOT_FOUND


class ContentChangedError(StorageError):
    """A file has other content than when it was looked up."""


class _Detail(BaseModel):
    reason: str = ""


class _Error(BaseModel):
    message: str
    errors: tuple[_Detail, ...] = ()
    details: tuple[_Detail, ...] = ()

    @property
    def reason(self) -> str:
        """The specific reason where Google gives both the old form and the new one."""
        return next((detail.reason for detail in (*self.errors, *self.details) if detail.reason), "")


class _Body(BaseModel):
    error: _Error


@dataclass(frozen=True)
class Rejection:
    """An answer that is an error.

    Source: https://developers.google.com/workspace/drive/api/guides/handle-errors

    Attributes:
        reason: Drive's own word for it; empty if the answer has none.
        message: Drive's explanation, on one line.
        pause_s: The `Retry-After` header in seconds, 0 without one.
    """

    status: int
    reason: str
    message: str
    pause_s: float

    @classmethod
    def of(cls, response: requests.Response) -> "Rejection":
        """Read an answer, whatever its body is."""
        try:
            error = _Body.model_validate_json(response.content).error
            reason, message = error.reason, error.message
        except ValidationError:  # a proxy's page, or no body at all
            reason, message = "", response.reason or ""
        return cls(response.status_code, reason, one_line(message), _pause_s(response))

    @property
    def is_too_many(self) -> bool:
        """Whether it says that there were too many requests."""
        is_limit = self.status == HTTPStatus.FORBIDDEN and self.reason in RATE_LIMIT_REASONS
        return is_limit or self.status == HTTPStatus.TOO_MANY_REQUESTS

    def as_failure(self, subject: str, account: str) -> TransientStorageError | DriveRefused:
        """The exception to raise.

        Args:
            subject: What was asked for, as "read gdrive://id/a.tif".
            account: The address that Drive knows the credential by.
        """
        told = f"{self.message} ({self.status}{' ' if self.reason else ''}{self.reason})"
        if self.is_too_many or self.status in TRANSIENT_STATUS:
            kind = "rate_limit" if self.is_too_many else f"http_{self.status}"
            return TransientStorageError(told, kind, asked_s=self.pause_s)
        remedy = REMEDIES.get(self.reason) or REMEDIES_BY_STATUS.get(self.status, "")
        project = re.search(r"project (\S+)", self.message)
        advice = remedy.format(account=account, project=project.group(1) if project else "of the key")
        return DriveRefused(f"cannot {subject}: {told}{'; ' if advice else ''}{advice}", self.status, self.reason)


def _pause_s(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):  # absent, not a date, or a date without a time zone
        return 0.0
