"""What the workers tell the driver while they train."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lib.runtime.progress import Progress

POLL_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Sign:
    """What a worker says of itself from time to time.

    Attributes:
        group: What the workers that train together have in common, and no others.
        rank: Of the worker in its group.
        node_id: Of its machine, as Ray calls it.
        pid: Of its process on that machine.
        created: When that process began, in Unix seconds; with its id it is never mistaken for another.
        steps: Steps it has begun since the group started; who has begun fewest holds up the others.
        patient: Whether it does something that may take long without a sign, as compiling a step.
        idle_s: Seconds since it last moved on.
        silent_s: Seconds since it last said anything, moving or not.
    """

    group: str
    rank: int
    node_id: str
    pid: int
    created: float
    steps: int
    patient: bool
    idle_s: float
    silent_s: float = 0.0


class Board:
    """Collects what workers report. Lives in the driver, or as an actor that the driver reads."""

    def __init__(self) -> None:
        self._images = 0
        self._notes: list[str] = []
        self._epochs: list[dict[str, Any]] = []
        self._refused: list[dict[str, Any]] = []
        self._checksums: dict[str, str] = {}
        self._signs: dict[str, dict[int, tuple[Sign, float]]] = {}

    def add_images(self, count: int) -> None:
        """So many more images of the training have gone through a step."""
        self._images += count

    def add_note(self, text: str) -> None:
        """A line for people."""
        self._notes.append(text)

    def add_epoch(self, row: dict[str, Any]) -> None:
        """A row of the history."""
        self._epochs.append(row)

    def epochs(self, seen: int) -> list[dict[str, Any]]:
        """The rows after the first so many."""
        return self._epochs[seen:]

    def add_refused(self, rows: list[dict[str, Any]]) -> None:
        """Images that could not be decoded: split, position, reason, detail."""
        self._refused.extend(rows)

    def add_checksums(self, checksums: dict[str, str]) -> None:
        """Checksums of images that were trained or validated on, by `image_id`."""
        self._checksums |= checksums

    def add_sign(self, sign: Sign) -> None:
        """A worker lives."""
        self._signs.setdefault(sign.group, {})[sign.rank] = (sign, time.monotonic())

    def remove_sign(self, group: str, rank: int) -> None:
        """A worker has ended by itself."""
        self._signs.get(group, {}).pop(rank, None)

    def signs(self) -> list[Sign]:
        """The last sign of each worker of the newest group, with the time that went by since."""
        now = time.monotonic()
        newest = list(self._signs.values())[-1] if self._signs else {}
        return [replace(sign, idle_s=sign.idle_s + now - said, silent_s=now - said) for sign, said in newest.values()]

    def read(self, notes_seen: int) -> tuple[int, list[str]]:
        """Images so far, and the lines after the first `notes_seen`."""
        return self._images, self._notes[notes_seen:]

    def refused(self) -> list[dict[str, Any]]:
        """All refused images."""
        return self._refused

    def checksums(self) -> dict[str, str]:
        """All checksums."""
        return self._checksums


class BoardClient(Protocol):
    """Either kind of board, as workers and driver use it."""

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method without waiting for it."""
        ...

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its answer."""
        ...


class LocalBoard:
    """A board in this process."""

    def __init__(self) -> None:
        self._board = Board()

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method."""
        getattr(self._board, method)(*arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method."""
        return getattr(self._board, method)(*arguments)


class RemoteBoard:
    """A board in an actor of its own, so that workers on other machines reach it."""

    def __init__(self) -> None:
        # On the driver's machine: on another one it could be lost while the driver lives.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method without waiting for it."""
        getattr(self._board, method).remote(*arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its answer."""
        return ray.get(getattr(self._board, method).remote(*arguments))


class BoardWatcher:
    """Shows what is on a board, from a thread, for as long as the context lasts."""

    def __init__(self, board: BoardClient, progress: Progress, look: Callable[[], None] = lambda: None) -> None:
        """Watch a board and show it as the progress of a stage.

        Args:
            board: To watch.
            progress: Where to show it.
            look: Called each time, to look for something else.
        """
        self._board, self._progress, self._look = board, progress, look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="board-watcher", daemon=True)
        self._notes = 0

    def __enter__(self) -> None:
        """Start watching."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Show the last state and stop."""
        self._stop.set()
        self._thread.join()
        self._show()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_INTERVAL_S):
            self._show()
            self._look()

    def _show(self) -> None:
        images, notes = self._board.ask("read", self._notes)
        for note in notes:
            self._progress.note(note)
        self._notes += len(notes)
        if images:
            self._progress.advance_to(images)
