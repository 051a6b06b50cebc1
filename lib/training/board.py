"""What the workers tell the driver while they train."""

import threading
from typing import Any, Protocol

import ray

from lib.progress import Progress

POLL_INTERVAL_S = 0.5


class Board:
    """Collects what workers report. Lives in the driver, or as an actor that the driver reads."""

    def __init__(self) -> None:
        self._images = 0
        self._notes: list[str] = []
        self._refused: list[dict[str, Any]] = []
        self._checksums: dict[str, str] = {}

    def add_images(self, count: int) -> None:
        """So many more images of the training have gone through a step."""
        self._images += count

    def add_note(self, text: str) -> None:
        """A line for people."""
        self._notes.append(text)

    def add_refused(self, rows: list[dict[str, Any]]) -> None:
        """Images that could not be decoded: split, position, reason, detail."""
        self._refused.extend(rows)

    def add_checksums(self, checksums: dict[str, str]) -> None:
        """Checksums of images that were trained or validated on, by `image_id`."""
        self._checksums |= checksums

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
        self._board = ray.remote(num_cpus=0)(Board).remote()

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method without waiting for it."""
        getattr(self._board, method).remote(*arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method and wait for its answer."""
        return ray.get(getattr(self._board, method).remote(*arguments))


class BoardWatcher:
    """Shows what is on a board, from a thread, for as long as the context lasts."""

    def __init__(self, board: BoardClient, progress: Progress) -> None:
        """Watch a board and show it as the progress of a stage."""
        self._board, self._progress = board, progress
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

    def _show(self) -> None:
        images, notes = self._board.ask("read", self._notes)
        for note in notes:
            self._progress.note(note)
        self._notes += len(notes)
        if images:
            self._progress.advance_to(images)
