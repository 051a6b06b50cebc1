"""Checkpoints in storage: all that is needed to go on as if nothing had happened.

A checkpoint is one file that is written in one step: a ZIP archive of NumPy arrays, and a checksum of all of it, so it
is whole, or noticed to be damaged (the checksums inside an archive leave out its directory). The weights of the best
epoch have a file of their own, since they seldom change. The order of the images and their random changes follow from
seed, epoch and step, and need not be kept.
"""

import io
import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lib.errors import StorageError, one_line
from lib.folders.history import HistoryRow
from lib.storage.checksum import crc32c
from lib.storage.location import Location

logger = logging.getLogger(__name__)

Arrays = list[npt.NDArray[Any]]
KEPT = 2
SUFFIX = ".npz"
CHECKPOINT, BEST = "checkpoint", "best"
CHECKSUM_BYTES = len(crc32c(b""))


@dataclass(frozen=True)
class TrainState:
    """How far a training is.

    Attributes:
        phase: The number of its phase, from 0.
        epoch: Epochs of the phase that are done.
        step: Steps of the next epoch that are done.
        finished: Whether the phase is over.
        best_epoch: The best epoch of the phase so far, from 1; 0 while that before the phase is the best.
        best_loss: Its loss; infinite before there is any.
        rows: The history of all phases so far.
        sums: Totals behind loss and accuracy of the epoch that is under way.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    finished: bool = False
    best_epoch: int = 0
    best_loss: float = float("inf")
    rows: list[HistoryRow] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A state that was written as the JSON of its fields."""
        fields = json.loads(text)
        return cls(**fields | {"rows": [HistoryRow(**row) for row in fields["rows"]]})

    @property
    def file_name(self) -> str:
        """Sorts as training goes on."""
        stage = int(self.finished)
        return f"{CHECKPOINT}-{self.phase}-{stage}-{self.epoch:06d}-{self.step:09d}{SUFFIX}"

    @property
    def has_best(self) -> bool:
        """Whether there are best weights."""
        return self.best_loss < float("inf")

    @property
    def best_name(self) -> str:
        """The file with the weights of the best epoch."""
        return f"{BEST}-{self.phase}-{self.best_epoch:06d}{SUFFIX}"


@dataclass(frozen=True)
class Checkpoint:
    """All that it takes to go on.

    Attributes:
        state: How far the training is.
        network: Copies of its variables, which nobody changes.
        optimizer: Copies of the optimizer's variables.
        best: The weights of the best epoch; none before there is one.
    """

    state: TrainState
    network: Arrays
    optimizer: Arrays
    best: Arrays


class CheckpointFolder:
    """Reads and writes checkpoints. Only one worker writes; a thread does, one checkpoint at a time.

    As a context it waits, whatever has happened, until that thread is through.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._best_written = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()

    def save(self, checkpoint: Checkpoint, *, wait: bool = False) -> None:
        """Write a checkpoint, after the one before.

        Args:
            checkpoint: What to write; the weights of the best epoch only if they are new.
            wait: Return only when it is written.

        Raises:
            StorageError: If this one or the one before cannot be written.
        """
        self._wait()
        self._writing = self._writer.submit(self._write, checkpoint)
        if wait:
            self._wait()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        if state.has_best and state.best_name != self._best_written:
            (self._folder / state.best_name).write_bytes(_packed(replace(state, rows=[]), {BEST: checkpoint.best}))
            self._best_written = state.best_name
        arrays = {"network": checkpoint.network, "optimizer": checkpoint.optimizer}
        (self._folder / state.file_name).write_bytes(_packed(state, arrays))
        self._delete_old(state)

    def _delete_old(self, newest: TrainState) -> None:
        names = self._names()
        checkpoints = [name for name in names if name.startswith(CHECKPOINT)]
        before = [name for name in checkpoints if name < newest.file_name][-(KEPT - 1) :]
        for name in set(checkpoints) - {newest.file_name, *before}:
            (self._folder / name).delete()
        # The best weights that the checkpoint before this one names are those of this one or the ones before.
        bests = sorted(name for name in names if name.startswith(BEST))
        for name in bests[:-KEPT]:
            (self._folder / name).delete()

    def _names(self) -> list[str]:
        names = (file.path for file in self._folder.list_files())
        return sorted(name for name in names if name.endswith(SUFFIX) and "/" not in name)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; a damaged one is passed over, and said to be."""
        for name in reversed([name for name in self._names() if name.startswith(CHECKPOINT)]):
            try:
                return self._read(name)
            except (ValueError, StorageError) as error:
                problem = one_line(error)
                uri = (self._folder / name).uri
                logger.warning("%s is damaged (%s); using the checkpoint before it", uri, problem)
        return None

    def _read(self, name: str) -> Checkpoint:
        state, arrays = _unpacked((self._folder / name).read_bytes())
        best: Arrays = []
        if state.has_best:
            best = _unpacked((self._folder / state.best_name).read_bytes())[1][BEST]
        return Checkpoint(state, arrays["network"], arrays["optimizer"], best)


def _packed(state: TrainState, arrays: dict[str, Arrays]) -> bytes:
    sink = io.BytesIO()
    numbered = {f"{kind}-{number:05d}": array for kind, some in arrays.items() for number, array in enumerate(some)}
    text = np.frombuffer(json.dumps(asdict(state)).encode(), np.uint8)
    np.savez(sink, allow_pickle=False, state=text, **numbered)
    archive = sink.getvalue()
    return archive + crc32c(archive).encode()


def _unpacked(data: bytes) -> tuple[TrainState, dict[str, Arrays]]:
    """What was packed.

    Raises:
        ValueError: If the data are damaged.
    """
    content, stated = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if crc32c(content).encode() != stated:
        raise ValueError("its content has changed since it was written")
    found: dict[str, Arrays] = {"network": [], "optimizer": [], BEST: []}
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        for name in sorted(archive.files):
            if name != "state":
                found[name.rpartition("-")[0]].append(archive[name])
        return TrainState.from_json(archive["state"].tobytes().decode()), found
