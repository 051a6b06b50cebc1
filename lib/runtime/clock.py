"""The time as files of an output folder state it."""

from datetime import UTC, datetime


def now() -> str:
    """The time, in UTC, to the second (ISO 8601)."""
    return datetime.now(UTC).isoformat(timespec="seconds")
