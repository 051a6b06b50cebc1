"""A lab's folder on the fake Google Drive, and filesystems that do not wait long before they try again."""

from pathlib import Path
from typing import Any

from lib.storage.drive.filesystem import DriveFileSystem
from lib.storage.drive.options import DriveSettings
from tests.fakes.drive import FakeDrive

SETTINGS = {"units_per_minute": 60_000_000, "first_pause_s": 0.01, "longest_pause_s": 0.05, "timeout_s": 5.0}


class Lab:
    """A server with one folder, and filesystems on it."""

    def __init__(self, drive: FakeDrive, scratch: Path) -> None:
        self.drive = drive
        self.key = drive.write_key(scratch / "key.json")
        self.token = drive.write_user_token(scratch / "token.json")
        self.root = drive.add_folder("lab")
        self._open: list[DriveFileSystem] = []

    def filesystem(self, **settings: Any) -> DriveFileSystem:
        given = {"endpoint": self.drive.url, "key_file": str(self.key)} | SETTINGS | settings
        self._open.append(DriveFileSystem(DriveSettings(**given)))
        return self._open[-1]

    def add(self, path: str, content: bytes = b"pixels", **more: Any) -> str:
        return self.drive.add_file(path, content, self.root, **more)

    def close(self) -> None:
        for filesystem in self._open:
            filesystem.close()
