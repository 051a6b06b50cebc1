"""What a look at one thing found."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from dataclasses import dataclass
from typing import Literal, TypeVar

from lib.errors import TissueError, in_one_line

State = Literal["ok", "warning", "blocks"]
ResultT = TypeVar("ResultT")

PATIENCE_S = 10.0


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        check: What was looked at.
        state: `blocks` if the run cannot work.
        detail: What was found, and what to do about it.
    """

    check: str
    state: State
    detail: str


class NoAnswerError(TissueError):
    """Something did not answer in time."""


def within(seconds: float, call: Callable[[], ResultT]) -> ResultT:
    """What a call returns, if it does within some seconds; otherwise it goes on unheeded, and ends with the process.

    Raises:
        NoAnswerError: If it takes longer.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        return pool.submit(call).result(seconds)
    except StillRunning as error:
        raise NoAnswerError(f"no answer within {seconds:.0f} s") from error
    finally:
        pool.shutdown(wait=False)


def look(check: str, call: Callable[[], str]) -> Finding:
    """`ok` with what a call says, or `blocks` with the error of ours that it raises."""
    try:
        return Finding(check, "ok", call())
    except TissueError as error:
        return Finding(check, "blocks", in_one_line(error))
