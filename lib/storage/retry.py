"""Bounded retries of what may succeed a moment later."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from lib.errors import StorageError
from lib.runtime.counters import STORAGE_RETRIES

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

ATTEMPTS = 5
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 20.0


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
