"""Output folders: begun by one run, continued only by the same run, complete when their JSON file exists.

A folder under way holds `run.json` with the settings that made it; the completion file is written last and
carries the same settings. Readers use `read_complete`, which refuses a folder without its completion file.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from lib.errors import SettingsError
from lib.storage.filesystem import Location

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
    """

    location: Location
    marker: str
    settings: dict[str, Any]

    def begin(self) -> dict[str, Any] | None:
        """Take the folder, or find that this very run is already complete.

        Returns:
            The completion record if there is nothing left to do, otherwise None.

        Raises:
            SettingsError: If the folder holds another run, or files that no run of ours wrote.
        """
        for name in (self.marker, RUN_FILE):
            record = self.location / name
            if record.exists():
                content = record.read_json()
                self._refuse_other(content.get("settings", {}))
                return content if name == self.marker else None
        if not self.location.is_empty():
            raise SettingsError(
                f"--output {self.location.uri} is not empty and holds no {self.marker}; choose another folder"
            )
        (self.location / RUN_FILE).write_json({"marker": self.marker, "settings": self.settings})
        return None

    def complete(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write the completion file: the record, the settings, the versions and the time."""
        content = {
            **record,
            "settings": self.settings,
            "versions": package_versions(),
            "completed_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (self.location / self.marker).write_json(content)
        (self.location / RUN_FILE).delete()
        return content

    def _refuse_other(self, found: dict[str, Any]) -> None:
        different = sorted(key for key in self.settings | found if self.settings.get(key) != found.get(key))
        if different:
            shown = ", ".join(
                f"{key} is {found.get(key)!r} there and {self.settings.get(key)!r} here" for key in different[:3]
            )
            raise SettingsError(f"--output {self.location.uri} holds another run ({shown}); choose another folder")


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


def package_versions() -> dict[str, str]:
    """The installed version of every package that the content of an output depends on."""
    return {name: version(name) for name in VERSIONED_PACKAGES}
