"""Medians, and rows of a table."""

import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def interleaved_medians(programs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median time of each program, all of them run in turn `repeats` times, so that drift hits them alike."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(seconds(program))
    return {name: statistics.median(values) for name, values in times.items()}


def print_row(*cells: object) -> None:
    """A row of a Markdown table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)  # noqa: T201 - this is the result
