"""Output folders: begun by one run, continued only by the same run, complete when their JSON file exists.

A folder under way holds `run.json` with the settings that made it, what was measured for it, and, after a failure, why
it failed; the completion file is written last and carries the same settings. Readers use `read_complete`, which refuses
a folder without its completion file.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import ClassVar, Generic, TypeVar

from pydantic import Field, JsonValue

from lib.errors import SettingsError, StorageError, in_one_line
from lib.folders.lease import LeaseLostError, WriterRecord, only_writer, refuse_second_writer, renew_lease
from lib.folders.record import PACKAGE, CompletionRecord, Record, StoredRecord
from lib.runtime.clock import now
from lib.runtime.package import VERSION
from lib.storage.location import Location

logger = logging.getLogger(__name__)

RecordT = TypeVar("RecordT", bound=CompletionRecord)
JsonObject = Mapping[str, JsonValue]

VERSIONED_PACKAGES = (
    "ray",
    "tensorflow",
    "keras",
    "numpy",
    "opencv-python-headless",
    "tifffile",
    "imagecodecs",
    "pyarrow",
)


class Failure(Record):
    """Why a run failed, and when."""

    error: str
    at: str


class RunRecord(StoredRecord):
    """A run that is under way, or was."""

    FILE: ClassVar[str] = "run.json"

    marker: str
    """The completion file that it will write."""
    settings: JsonObject = Field(default_factory=dict)
    """See `OutputFolder.settings`."""
    inputs: JsonObject = Field(default_factory=dict)
    """See `OutputFolder.inputs`."""
    measured: dict[str, str] = Field(default_factory=dict)
    """What was measured on the inputs, to be measured once."""
    stages: dict[str, str] = Field(default_factory=dict)
    """Of a pipeline: the folders that it fills, each with its job."""
    failed: Failure | None = None
    """Set if its last attempt failed."""


@dataclass(frozen=True)
class OutputFolder(Generic[RecordT]):
    """A folder that one run of one job owns.

    Attributes:
        kind: The record whose file makes it complete.
        settings: What the content depends on, JSON values only; another run with other settings is refused.
        inputs: Hashes of what the content is made from. A complete folder made from other inputs is refused too; one
            under way goes on with the new inputs.
        parts_name_their_inputs: Whether parts written from other inputs have other names, so that they may stay.
        may_update: Whether a complete folder made from other inputs is worked on again instead of refused.
    """

    location: Location
    kind: type[RecordT]
    settings: JsonObject
    inputs: JsonObject = field(default_factory=dict)
    parts_name_their_inputs: bool = False
    may_update: bool = False

    def begin(self) -> RecordT | None:
        """Take the folder, or find that this very run is already complete.

        Returns:
            The completion record if there is nothing left to do, otherwise None.

        Raises:
            SettingsError: If the folder holds another run, or files that no run of ours wrote.
        """
        if self.is_complete():
            return self._found(self.record())
        begun = self._begun()
        self._run(self._continue(begun) if begun else {}).write(self.location)
        return None

    def _begun(self) -> RunRecord | None:
        """What an earlier start of this run has left, in a folder that may be written to."""
        self.location.check_writable()
        refuse_second_writer(self.location)
        begun = RunRecord.read_if_there(self.location)
        if begun is not None:
            self._refuse_other(begun, begun.inputs)
        elif [file for file in self.location.list_files() if file.path != WriterRecord.FILE]:
            raise SettingsError(
                f"--output {self.location.uri} is not empty and holds no {self.kind.FILE}; choose another folder"
            )
        return begun

    def record(self) -> RecordT:
        """The completion record of a complete folder."""
        return self.kind.read(self.location)

    def is_complete(self) -> bool:
        """Whether the completion file exists."""
        return (self.location / self.kind.FILE).exists()

    def _found(self, record: RecordT) -> RecordT | None:
        if self.may_update and record.inputs != self.inputs:
            self._refuse_other(record, record.inputs)
            refuse_second_writer(self.location)
            return None
        self._refuse_other(record, self.inputs)
        return record

    def once(self, work: Callable[[], RecordT]) -> RecordT:
        """The completion record: that of this very run if the folder is complete, or else what `work` returns.

        Args:
            work: Fills the folder, as its only writer, and ends with `complete`.

        Raises:
            SettingsError: If the folder holds another run, or one is writing into it.
        """
        if self.is_complete():
            done = self._found(self.record())
        else:
            done = None
            self._begun()  # so that nothing is written, not even a lease, into a folder of others
        if done is None:
            with only_writer(self.location):
                if (done := self.begin()) is None:
                    with failures_noted(self.location):
                        return work()
        logger.info("%s is already complete", self.location.uri)
        return done

    def measured_once(self, name: str, measure: Callable[[], str]) -> str:
        """What was measured on the inputs of this run: when it was begun, or now.

        Args:
            name: What it is.
            measure: Finds it.
        """
        if self.is_complete():  # and brought up to date, which is not written down
            return measure()
        begun = RunRecord.read(self.location)
        if name not in begun.measured:
            begun = begun.model_copy(update={"measured": begun.measured | {name: measure()}})
            begun.write(self.location)
        return begun.measured[name]

    def _run(self, measured: dict[str, str]) -> RunRecord:
        return RunRecord(marker=self.kind.FILE, settings=self.settings, inputs=self.inputs, measured=measured)

    def _continue(self, begun: RunRecord) -> dict[str, str]:
        """What an interrupted start of this run has measured that still holds."""
        if begun.inputs == self.inputs:
            return begun.measured
        logger.warning("%s: its inputs have changed since this run began", self.location.uri)
        if not self.parts_name_their_inputs:
            self.location.delete()
            renew_lease(self.location)
        return {}

    def complete(self, record: RecordT) -> RecordT:
        """Write the completion file: the record, the settings, the versions and the time."""
        completed = record.model_copy(
            update={
                "marker": self.kind.FILE,
                "settings": self.settings,
                "inputs": self.inputs,
                "versions": package_versions(),
                "completed_at": now(),
            }
        )
        self.location.delete_partials()
        renew_lease(self.location)
        completed.write(self.location)
        (self.location / RunRecord.FILE).delete()
        return completed

    def _refuse_other(self, found: CompletionRecord | RunRecord, inputs: JsonObject) -> None:
        """Stop if the folder has another marker or other settings, or was not made from these inputs."""
        there = {"marker": found.marker, **found.settings, **found.inputs}
        here = {"marker": self.kind.FILE, **self.settings, **inputs}
        different = sorted(key for key in there | here if there.get(key) != here.get(key))
        if different:
            shown = ", ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in different[:3])
            raise SettingsError(f"--output {self.location.uri} holds another run ({shown}); choose another folder")


def write_anew(location: Location, run: RunRecord, work: Callable[[], RecordT], kind: type[RecordT]) -> RecordT:
    """Fill a folder that every run of its job makes again, as report and pipeline do, as its only writer.

    Args:
        location: The folder; what an earlier run left there stays, but for its completion file, which goes first.
        run: What `jobs.status` tells of the run until it is complete.
        work: Fills the folder and returns its completion record.
        kind: The class of that record.

    Raises:
        SettingsError: If another run is writing into the folder.
    """
    with only_writer(location), failures_noted(location):
        run.write(location)
        (location / kind.FILE).delete()
        record = work()
        renew_lease(location)
        record.write(location)
        (location / RunRecord.FILE).delete()
    return record


@contextmanager
def failures_noted(folder: Location) -> Iterator[None]:
    """Note in `run.json` of a folder why its run failed, for `jobs.status`; the next start writes that file anew."""
    try:
        yield
    except LeaseLostError:  # the folder is another run's, with its own `run.json`
        raise
    except Exception as error:
        failed = Failure(error=in_one_line(error), at=now())
        with suppress(StorageError):  # what has failed already matters more
            RunRecord.read(folder).model_copy(update={"failed": failed}).write(folder)
        raise


def read_complete(location: Location, kind: type[RecordT]) -> RecordT:
    """The completion record of an input folder.

    Raises:
        SettingsError: If the folder is not complete, or a newer version wrote it.
        StorageError: If its completion file cannot be read.
    """
    if not (location / kind.FILE).exists():
        raise SettingsError(
            f"{location.uri} is not a complete folder: {kind.FILE} is missing; make it with `{kind.command()}`"
        )
    return kind.read(location)


def package_versions() -> dict[str, str]:
    """The version of this library, and of every package that the content of an output depends on."""
    return {**{name: version(name) for name in VERSIONED_PACKAGES}, PACKAGE: VERSION}
