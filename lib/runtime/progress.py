"""What a person sees while a stage runs: one live line on a terminal or in a notebook, else plain lines on stderr."""

import logging
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from lib.runtime.logs import NUMBERS, enter_stage

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0


def live_console() -> Console | None:
    """Where a line can be drawn anew: a terminal, or a notebook that has widgets; None if only lines can follow."""
    if sys.stderr.isatty():
        return Console(stderr=True)
    notebook = Console()
    return notebook if notebook.is_jupyter and find_spec("ipywidgets") is not None else None


class Progress:
    """Counts the rows of one stage.

    Use it as a context manager; `advance` may be called from any thread.
    """

    def __init__(self, stage: str, total: int, unit: str = "images") -> None:
        """Start counting now.

        Args:
            stage: What is being done, as `convert`.
            total: How many rows there will be.
            unit: What a row is.
        """
        self.stage, self.total, self.unit = stage, total, unit
        self.done = 0
        self._state, self._state_numbers = "", dict[str, float]()
        self._outer: str | None = None
        self._started = self._logged = time.monotonic()
        self._live = self._task = None
        if (console := live_console()) is not None:
            self._live = RichProgress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=console,
            )  # fmt: skip
            self._task = self._live.add_task(stage, total=total, rate="")

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return max(time.monotonic() - self._started, 1e-9)

    @property
    def rate(self) -> float:
        """Rows a second since the stage began."""
        return self.done / self.seconds

    def advance(self, rows: int) -> None:
        """Say that so many more rows are done."""
        self.advance_to(self.done + rows)

    def advance_to(self, done: int) -> None:
        """Say how many rows are done in all."""
        self.done = done
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, rate=self._state or f"{self.rate:,.0f} {self.unit}/s")
        elif time.monotonic() - self._logged >= LOG_INTERVAL_S:
            self._log()

    def describe(self, state: str, numbers: Mapping[str, float]) -> None:
        """Say how it goes at the moment: shown from the next advance on, in the place of the rate on a live line.

        Args:
            state: For people.
            numbers: The same, for logs that are read by programs.
        """
        self._state, self._state_numbers = state, dict(numbers)

    def note(self, text: str) -> None:
        """A line worth keeping, above the live one."""
        if self._live is not None:
            self._live.console.print(f"  {text}", highlight=False, markup=False)
        else:
            logger.info("%s: %s", self.stage, text)

    def __enter__(self) -> Self:
        """Show the live line, if there is a terminal."""
        self._outer = enter_stage(self.stage)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the last state standing."""
        if self._live is not None:
            self._live.stop()
        elif error is None:
            self._log()
        enter_stage(self._outer)

    def _log(self) -> None:
        self._logged = time.monotonic()
        numbers = {self.unit: self.done, "total": self.total, "rate": round(self.rate, 2)}
        ending = "just begun"
        if self.done >= self.total:
            numbers["seconds_left"], ending = 0.0, f"in {self.seconds:.1f} s"
        elif self.done > 0:
            left_s = (self.total - self.done) / self.rate
            numbers["seconds_left"] = round(left_s, 1)
            ending = f"{left_s:.0f} s left"
        if self.done < self.total and self._state:
            ending = f"{ending}; {self._state}"
            numbers |= self._state_numbers
        line = "%s: %d of %d %s, %.0f/s, %s"
        arguments = (self.stage, self.done, self.total, self.unit, self.rate, ending)
        logger.info(line, *arguments, extra={NUMBERS: numbers})
