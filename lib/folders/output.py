"""Output folders: begun by one run, continued only by the same run, complete when their JSON file exists.

A folder under way holds `run.json` with the settings that made it, what was measured for it, and, after a failure, why
it failed; the completion file is written last and carries the same settings. Readers use `read_complete`, which refuses
a folder without its completion file.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from lib.errors import SettingsError, StorageError, in_one_line
from lib.folders.lease import WRITER_FILE, only_writer, refuse_second_writer
from lib.storage.location import Location

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
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


@dataclass(frozen=True)
class OutputFolder:
    """A folder that one run of one job owns.

    Attributes:
        location: The folder.
        marker: Name of the JSON file that makes it complete, as `dataset.json`.
        settings: What the content depends on, JSON values only; another run with other settings is refused.
        inputs: Hashes of what the content is made from. A complete folder made from other inputs is refused too; one
            under way goes on with the new inputs.
        parts_name_their_inputs: Whether parts written from other inputs have other names, so that they may stay.
        may_update: Whether a complete folder made from other inputs is worked on again instead of refused.
    """

    location: Location
    marker: str
    settings: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)
    parts_name_their_inputs: bool = False
    may_update: bool = False

    def begin(self) -> dict[str, Any] | None:
        """Take the folder, or find that this very run is already complete.

        Returns:
            The completion record if there is nothing left to do, otherwise None.

        Raises:
            SettingsError: If the folder holds another run, or files that no run of ours wrote.
        """
        if self.is_complete():
            return self._found(self.record())
        self.location.check_writable()
        refuse_second_writer(self.location)
        measured: dict[str, Any] = {}
        if (self.location / RUN_FILE).exists():
            measured = self._continue((self.location / RUN_FILE).read_json())
        elif [file for file in self.location.list_files() if file.path != WRITER_FILE]:
            raise SettingsError(
                f"--output {self.location.uri} is not empty and holds no {self.marker}; choose another folder"
            )
        (self.location / RUN_FILE).write_json({**self._identity, "measured": measured})
        return None

    def record(self) -> dict[str, Any]:
        """The completion record of a complete folder."""
        return (self.location / self.marker).read_json()

    def is_complete(self) -> bool:
        """Whether the completion file exists."""
        return (self.location / self.marker).exists()

    def _found(self, record: dict[str, Any]) -> dict[str, Any] | None:
        if self.may_update and record.get("inputs") != self.inputs:
            self._refuse_other(record, {**self._identity, "inputs": record.get("inputs")})
            refuse_second_writer(self.location)
            return None
        self._refuse_other(record, self._identity)
        return record

    def once(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The completion record: that of this very run if the folder is complete, or else what `work` returns.

        Args:
            work: Fills the folder, as its only writer, and ends with `complete`.

        Raises:
            SettingsError: If the folder holds another run, or one is writing into it.
        """
        if (done := self.begin()) is not None:
            logger.info("%s is already complete", self.location.uri)
            return done
        with only_writer(self.location), failures_noted(self.location):
            return work()

    def measured_once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured on the inputs of this run: when it was begun, or now.

        Args:
            name: What it is.
            measure: Finds it; the result is a JSON value.
        """
        if self.is_complete():  # and brought up to date, which is not written down
            return measure()
        run = self.location / RUN_FILE
        begun = run.read_json()
        if name not in begun["measured"]:
            begun["measured"][name] = measure()
            run.write_json(begun)
        return begun["measured"][name]

    @property
    def _identity(self) -> dict[str, Any]:
        return {"marker": self.marker, "settings": self.settings, "inputs": self.inputs}

    def _continue(self, begun: dict[str, Any]) -> dict[str, Any]:
        """What an interrupted start of this run has measured that still holds."""
        self._refuse_other(begun, {**self._identity, "inputs": begun.get("inputs")})
        if begun.get("inputs") == self.inputs:
            return dict(begun.get("measured", {}))
        logger.warning("%s: its inputs have changed since this run began", self.location.uri)
        if not self.parts_name_their_inputs:
            self.location.delete()
        return {}

    def complete(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write the completion file: the record, the settings, the versions and the time."""
        content = {
            **record,
            **self._identity,
            "versions": package_versions(),
            "completed_at": now(),
        }
        self.location.delete_partials()
        (self.location / self.marker).write_json(content)
        (self.location / RUN_FILE).delete()
        return content

    def _refuse_other(self, found: dict[str, Any], expected: dict[str, Any]) -> None:
        there, here = _flat(found), _flat(expected)
        different = sorted(key for key in there | here if there.get(key) != here.get(key))
        if different:
            shown = ", ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in different[:3])
            raise SettingsError(f"--output {self.location.uri} holds another run ({shown}); choose another folder")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """What tells one run from another: the marker, each setting and each input."""
    return {"marker": record.get("marker"), **(record.get("settings") or {}), **(record.get("inputs") or {})}


@contextmanager
def failures_noted(folder: Location) -> Iterator[None]:
    """Note in `run.json` of a folder why its run failed, for `jobs.status`; the next start writes that file anew."""
    try:
        yield
    except Exception as error:
        failed = {"error": in_one_line(error), "at": now()}
        with suppress(StorageError):  # what has failed already matters more
            (folder / RUN_FILE).write_json({**(folder / RUN_FILE).read_json(), "failed": failed})
        raise


def read_complete(location: Location, marker: str, made_by: str) -> dict[str, Any]:
    """The completion record of an input folder.

    Raises:
        SettingsError: If the folder is not complete.
    """
    if not (location / marker).exists():
        raise SettingsError(
            f"{location.uri} is not a complete folder: {marker} is missing; make it with `python -m jobs.{made_by}`"
        )
    return (location / marker).read_json()


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """The installed version of every package that the content of an output depends on."""
    return {name: version(name) for name in VERSIONED_PACKAGES}
