"""A bucket of very many images that exist only while they are asked for: the part of the GCS JSON API that reads.

with large_bucket(1_000_000) as bucket:
    run_job(..., "--source", bucket.source, env=bucket.environment)

It runs in a process of its own, so that neither its memory nor its time is that of a test.
"""

import base64
import json
import subprocess
import sys
import urllib.request
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import numpy as np

from tests.fakes.tiff_bytes import written

ROOT = Path(__file__).parents[2]
FOLDER = "organs/"
CLASSES = 40
TEST_FRACTION = 0.1
LARGEST_PAGE = 1000
LAST_LETTER = chr(0x10FFFF)
PADDINGS = 997
"""Images differ in their number behind the pixels, and most of them in size."""


@dataclass(frozen=True)
class LargeBucket:
    """A running server.

    Attributes:
        url: Where it listens.
    """

    url: str

    @property
    def source(self) -> str:
        """The URI of the folder of images."""
        return f"gs://lab/{FOLDER.rstrip('/')}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {"STORAGE_EMULATOR_HOST": self.url}

    def downloads(self) -> int:
        """How many images were fetched so far."""
        with urllib.request.urlopen(f"{self.url}/downloads") as answer:
            return int(answer.read())


@contextmanager
def large_bucket(images: int) -> Iterator[LargeBucket]:
    """Start a server with so many images, and end it."""
    command = [sys.executable, "-m", "tests.fakes.large_bucket", str(images)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()  # empty if it did not start
            assert url, "the server of the large bucket ended"
            yield LargeBucket(url)
        finally:
            process.kill()


class _Images:
    """Names in the order of a listing: `test/` before `train/`, the classes of each in turn."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._tiff = written(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
        self._tiff_crc32c = int(google_crc32c.value(self._tiff))
        self._test = round(TEST_FRACTION * count)

    def name(self, number: int) -> str:
        split, first, count = (
            ("test", 0, self._test) if number < self._test else ("train", self._test, self.count - self._test)
        )
        label = (number - first) * CLASSES // count
        return f"{FOLDER}{split}/class_{label:02d}/slide_{number:08d}.tif"

    def number(self, name: str) -> int | None:
        """The image of a name, None if there is none."""
        stem = name.removesuffix(".tif")[-8:]
        return int(stem) if stem.isdigit() and int(stem) < self.count and self.name(int(stem)) == name else None

    def content(self, number: int) -> bytes:
        return self._tiff + self._tail(number)

    def _tail(self, number: int) -> bytes:
        return number.to_bytes(8, "big") + bytes(number % PADDINGS)

    def described(self, number: int) -> dict[str, Any]:
        """Everything that Google's answer holds for an object, if it is not asked for less."""
        name, tail = self.name(number), self._tail(number)
        checksum = int(google_crc32c.extend(self._tiff_crc32c, tail)).to_bytes(4, "big")
        generation = str(1_700_000_000_000_000 + number)
        return {
            "kind": "storage#object",
            "id": f"lab/{name}/{generation}",
            "selfLink": f"https://www.googleapis.com/storage/v1/b/lab/o/{name}",
            "mediaLink": f"https://storage.googleapis.com/download/storage/v1/b/lab/o/{name}?generation={generation}",
            "name": name,
            "bucket": "lab",
            "generation": generation,
            "metageneration": "1",
            "contentType": "image/tiff",
            "storageClass": "STANDARD",
            "size": str(len(self._tiff) + len(tail)),
            "md5Hash": "1B2M2Y8AsgTpgAmY7PhCfg==",
            "crc32c": base64.b64encode(checksum).decode(),
            "etag": "CJCAgICAgICAEAE=",
            "timeCreated": "2026-11-23T10:00:00.000Z",
            "updated": "2026-11-23T10:00:00.000Z",
            "timeStorageClassUpdated": "2026-11-23T10:00:00.000Z",
        }

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        """One page of a listing."""
        page: dict[str, Any] = {"kind": "storage#objects"}
        prefix = query.get("prefix", "")
        start, end = self._place(prefix), self._place(prefix + LAST_LETTER)
        if start < end and query.get("delimiter") and (folders := list(self._folders(prefix, start, end))):
            return page | {"prefixes": folders}  # here, a folder holds either folders or images
        first = int(query.get("pageToken", start))
        last = min(first + min(int(query.get("maxResults", LARGEST_PAGE)), LARGEST_PAGE), end)
        items = [self.described(number) for number in range(first, last)]
        if wanted := query.get("fields"):
            names = wanted.partition("items(")[2].partition(")")[0].split(",")
            items = [{name: item[name] for name in names} for item in items]
        return page | {"items": items} | ({"nextPageToken": str(last)} if last < end else {})

    def _place(self, name: str) -> int:
        """How many images come before a name."""
        return bisect_left(range(self.count), name, key=self.name)

    def _folders(self, prefix: str, start: int, end: int) -> Iterator[str]:
        while start < end and "/" in (rest := self.name(start).removeprefix(prefix)):
            yield (folder := prefix + rest.partition("/")[0] + "/")
            start = self._place(folder + LAST_LETTER)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/downloads":
            self._send(200, str(self.server.downloads).encode())
        elif url.path.endswith("/o"):
            self._send(200, json.dumps(self.server.images.page(query)).encode())
        else:
            self._send_object(unquote(url.path.partition("/o/")[2]), as_bytes=query.get("alt") == "media")

    def _send_object(self, name: str, *, as_bytes: bool) -> None:
        images = self.server.images
        number = images.number(name)
        if number is None:
            self._send(404, b'{"error": {"code": 404, "message": "No such object"}}')
        elif as_bytes:
            self.server.downloads += 1
            self._send(200, images.content(number))
        else:
            self._send(200, json.dumps(images.described(number)).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    images: _Images
    downloads = 0

    def handle_error(self, *_: object) -> None:
        """Clients that go away are not worth a traceback."""


def main() -> None:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.images = _Images(int(sys.argv[1]))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201 - the parent reads it
    server.serve_forever()


if __name__ == "__main__":
    main()
