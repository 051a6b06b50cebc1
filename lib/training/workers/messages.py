"""What training workers tell the driver: the messages, and the log that collects them where the driver reads it."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lib.dataset.source import RefusedImage
from lib.folders.history import HistoryRow
from lib.folders.model import SEEN_SCHEMA, distinct
from lib.runtime.gpu_use import GpuUse
from lib.runtime.progress import Progress

POLL_INTERVAL_S = 0.5
MANY_ROWS = 65_536


@dataclass(frozen=True)
class ImagesTrained:
    """So many more images have gone through a step, over all workers."""

    count: int


@dataclass(frozen=True)
class Pace:
    """How training went in the last second or so.

    Attributes:
        epoch: Of the phase, from 1.
        epochs: Of the phase, at most.
        images_per_s: Images through training steps a second, over all workers.
        wait_share: Share of the time in which steps waited for images, in [0, 1], on the worker that tells.
        gpu: The use of its GPU, if it has one.
    """

    epoch: int
    epochs: int
    images_per_s: float
    wait_share: float
    gpu: GpuUse | None = None

    def __str__(self) -> str:
        text = f"epoch {self.epoch} of {self.epochs}, {self.images_per_s:,.0f} images/s, {waiting(self.wait_share)}"
        return f"{text}, {self.gpu}" if self.gpu is not None and str(self.gpu) else text


def waiting(share: float) -> str:
    """A share of the time in which steps waited for images, for people."""
    return f"{100 * share:.0f} % waiting for images"


@dataclass(frozen=True)
class Note:
    """A line for people."""

    text: str


@dataclass(frozen=True)
class EpochEnded:
    """A row of the history."""

    row: HistoryRow


@dataclass(frozen=True)
class ImagesRefused:
    """Images of a split that could not be decoded, each told once by the worker that owns it."""

    split: str
    images: Sequence[RefusedImage]


@dataclass(frozen=True)
class ChecksumsKnown:
    """Checksums of images that were trained or validated on (`lib.folders.model.SEEN_SCHEMA`)."""

    checksums: pa.Table


@dataclass(frozen=True)
class SignOfLife:
    """What a worker says of itself from time to time.

    Attributes:
        group: What the workers that train together have in common, and no others.
        rank: Rank of the worker in its group.
        node_id: Id of its machine, as Ray calls it.
        pid: Process id on that machine.
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


@dataclass(frozen=True)
class WorkerEnded:
    """A worker has ended by itself, so that no sign of life is expected of it."""

    group: str
    rank: int


Message = ImagesTrained | Pace | Note | EpochEnded | ImagesRefused | ChecksumsKnown | SignOfLife | WorkerEnded


@dataclass(frozen=True)
class News:
    """How a training goes.

    Attributes:
        images_trained: Images that have gone through a step.
        events: What was told since the reader last looked, in order.
        signs: The last sign of each worker of the newest group, with the time that went by since.
        pace: The last that was told; None before the first.
    """

    images_trained: int
    events: list[Note | EpochEnded]
    signs: list[SignOfLife]
    pace: Pace | None = None


@dataclass(frozen=True)
class ImageVerdicts:
    """What workers have found out about images.

    Attributes:
        refused: Those that could not be decoded, by split.
        checksums: Checksums of those that came straight from their files (`lib.folders.model.SEEN_SCHEMA`).
    """

    refused: dict[str, list[RefusedImage]]
    checksums: pa.Table


class Reporter(Protocol):
    """Where a worker reports."""

    def report(self, message: Message) -> None:
        """Tell the driver, without waiting for it."""
        ...


class Messages(Reporter, Protocol):
    """Where a worker reports and the driver reads."""

    def news(self, seen: int = 0) -> News:
        """How the training goes.

        Args:
            seen: Events that the reader knows already.
        """
        ...

    def image_verdicts(self) -> ImageVerdicts:
        """All that was told about images."""
        ...


class MessageLog:
    """Collects messages in this process: that of the driver, or of an actor that the driver asks."""

    def __init__(self) -> None:
        self._images_trained = 0
        self._pace: Pace | None = None
        self._events: list[Note | EpochEnded] = []
        self._refused: dict[str, list[RefusedImage]] = defaultdict(list)
        self._checksums, self._new_checksums, self._new_rows = SEEN_SCHEMA.empty_table(), list[pa.Table](), 0
        self._signs: dict[str, dict[int, tuple[SignOfLife, float]]] = {}

    def report(self, message: Message) -> None:
        """Take in a message."""
        match message:
            case ImagesTrained():
                self._images_trained += message.count
            case Pace():
                self._pace = message
            case Note() | EpochEnded():
                self._events.append(message)
            case ImagesRefused():
                self._refused[message.split].extend(message.images)
            case ChecksumsKnown():
                self._new_checksums.append(message.checksums)
                self._new_rows += len(message.checksums)
                if self._new_rows > max(len(self._checksums), MANY_ROWS):
                    self._take_in_checksums()
            case SignOfLife():
                self._signs.setdefault(message.group, {})[message.rank] = (message, time.monotonic())
            case WorkerEnded():
                self._signs.get(message.group, {}).pop(message.rank, None)

    def news(self, seen: int = 0) -> News:
        """How the training goes; see `Messages`."""
        return News(self._images_trained, self._events[seen:], self._last_signs(), self._pace)

    def _last_signs(self) -> list[SignOfLife]:
        now = time.monotonic()
        newest = list(self._signs.values())[-1] if self._signs else {}
        return [replace(sign, idle_s=sign.idle_s + now - said, silent_s=now - said) for sign, said in newest.values()]

    def _take_in_checksums(self) -> None:
        """Keep each once: every epoch that streams tells them anew."""
        self._checksums = distinct(pa.concat_tables([self._checksums, *self._new_checksums]))
        self._new_checksums, self._new_rows = [], 0

    def image_verdicts(self) -> ImageVerdicts:
        """All that was told about images."""
        self._take_in_checksums()
        return ImageVerdicts(dict(self._refused), self._checksums)


class RemoteMessages:
    """A log in an actor of its own, so that workers on other machines reach it."""

    def __init__(self) -> None:
        # On the driver's machine: on another one it could be lost while the driver lives.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._log = ray.remote(num_cpus=0, scheduling_strategy=here)(MessageLog).remote()

    def report(self, message: Message) -> None:
        """Tell the driver, without waiting for it."""
        self._log.report.remote(message)

    def news(self, seen: int = 0) -> News:
        """How the training goes; see `Messages`."""
        news: News = ray.get(self._log.news.remote(seen))
        return news

    def image_verdicts(self) -> ImageVerdicts:
        """All that was told about images."""
        verdicts: ImageVerdicts = ray.get(self._log.image_verdicts.remote())
        return verdicts


class ProgressWatcher:
    """Shows how a training goes, from a thread, for as long as the context lasts."""

    def __init__(self, messages: Messages, progress: Progress, look: Callable[[], None] = lambda: None) -> None:
        """Watch messages and show them as the progress of a stage.

        Args:
            messages: To watch.
            progress: Where to show them.
            look: Called each time, to look for something else.
        """
        self._messages, self._progress, self._look = messages, progress, look
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress-watcher", daemon=True)
        self._seen = 0

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
        news = self._messages.news(self._seen)
        for event in news.events:
            if isinstance(event, Note):
                self._progress.note(event.text)
        self._seen += len(news.events)
        if news.pace is not None:
            numbers = {"images_per_s": news.pace.images_per_s, "wait_share": news.pace.wait_share}
            self._progress.describe(str(news.pace), numbers)
        if news.images_trained:
            self._progress.advance_to(news.images_trained)
