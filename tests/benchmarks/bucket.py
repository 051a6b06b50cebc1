"""A bucket with a round trip's latency: as much of the GCS JSON API as a conversion needs, and cheap in CPU.

    with slow_bucket(latency_s=0.05) as bucket:
        source = bucket.fill("organs", 1000, tiffs)
        run_job(..., "--source", source, env=bucket.environment)

It runs in a process of its own and keeps everything in memory. Every answer is sent so much later than its request
came, however many others wait; bandwidth is that of loopback.
"""

import asyncio
import base64
import hashlib
import http.client
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import google_crc32c

ROOT = Path(__file__).parents[2]
BUCKET = "lab"
PAGE = 1000
STATUS = {200: "OK", 204: "No Content", 404: "Not Found"}


@dataclass(frozen=True)
class SlowBucket:
    """A running server.

    Attributes:
        url: Where it listens.
    """

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a job needs to find it."""
        return {"STORAGE_EMULATOR_HOST": self.url}

    def fill(self, prefix: str, count: int, tiffs: list[bytes]) -> str:
        """Make a source of so many images, a few pictures under many names, and return its URI."""
        for number, tiff in enumerate(tiffs):
            urllib.request.urlopen(f"{self.url}/fill/{prefix}/{count}/{number}/{len(tiffs)}", tiff).close()
        return f"gs://{BUCKET}/{prefix}"

    def downloads(self, prefix: str, count: int) -> Iterator[bytes]:
        """The first images of a source, fetched one after another over one connection."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"))
        for number in range(count):
            name = quote(f"{prefix}/{_image_path(number)}", safe="")
            connection.request("GET", f"/download/storage/v1/b/{BUCKET}/o/{name}?alt=media")
            yield connection.getresponse().read()
        connection.close()


def _image_path(number: int) -> str:
    """The path of an image below its source."""
    return f"train/class_{number % 4}/{number:06d}.tif"


@contextmanager
def slow_bucket(latency_s: float) -> Iterator[SlowBucket]:
    """Start a server, and end it."""
    command = [sys.executable, "-m", "tests.benchmarks.bucket", str(latency_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield SlowBucket(process.stdout.readline().strip())
        finally:
            process.kill()


@dataclass(frozen=True)
class StoredObject:
    """Bytes, and the checksums that GCS states of them."""

    data: bytes
    crc32c: str
    md5: str

    @classmethod
    def of(cls, data: bytes) -> "StoredObject":
        crc32c = google_crc32c.value(data).to_bytes(4, "big")
        return cls(data, *(base64.b64encode(digest).decode() for digest in (crc32c, hashlib.md5(data).digest())))

    def described(self, name: str) -> dict[str, Any]:
        """The resource of the JSON API."""
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "size": str(len(self.data)),
            "generation": "1",
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
            "contentType": "application/octet-stream",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }


Answer = tuple[int, str, bytes]


class Objects:
    """What the bucket holds, and the answers to requests about it."""

    def __init__(self) -> None:
        self._objects: dict[str, StoredObject] = {}

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        path, _, query = target.partition("?")
        if path.startswith("/fill/"):
            return self._fill(path, body)
        if path.startswith("/upload/"):
            return self._upload(body)
        _, _, quoted = path.partition(f"/b/{BUCKET}/o")
        name, options = unquote(quoted.removeprefix("/")), parse_qs(query)
        if not name:
            return self._listing(options)
        if name not in self._objects:
            return _json(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
        return self._about(name, method, options)

    def _about(self, name: str, method: str, options: dict[str, list[str]]) -> Answer:
        if method == "DELETE":
            del self._objects[name]
            return 204, "", b""
        found = self._objects[name]
        if "alt" in options:
            return 200, f"X-Goog-Hash: crc32c={found.crc32c},md5={found.md5}\r\n", found.data
        return _json(200, found.described(name))

    def _fill(self, path: str, body: bytes) -> Answer:
        prefix, count, first, step = path.removeprefix("/fill/").rsplit("/", 3)
        stored = StoredObject.of(body)
        self._objects |= {f"{prefix}/{_image_path(n)}": stored for n in range(int(first), int(count), int(step))}
        return _json(200, {})

    def _upload(self, body: bytes) -> Answer:
        """A multipart upload: the boundary, a JSON part, a part with the bytes."""
        boundary = body[: body.index(b"\r\n") if b"\r\n" in body[:200] else body.index(b"\n")].rstrip()
        _, described, content, _ = body.split(boundary, 3)
        name = json.loads(re.split(rb"\r?\n\r?\n", described, maxsplit=1)[1])["name"]
        data = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
        self._objects[name] = StoredObject.of(data.removesuffix(b"\n").removesuffix(b"\r"))
        return _json(200, self._objects[name].described(name))

    def _listing(self, options: dict[str, list[str]]) -> Answer:
        prefix, delimiter = (options.get(name, [""])[0] for name in ("prefix", "delimiter"))
        names = sorted(name for name in self._objects if name.startswith(prefix))
        folders: set[str] = set()
        if delimiter:
            folders = {prefix + rest.split(delimiter)[0] + delimiter for rest in _below(names, prefix, delimiter)}
            names = [name for name in names if delimiter not in name.removeprefix(prefix)]
        start = int(options.get("pageToken", ["0"])[0])
        size = min(int(options.get("maxResults", [PAGE])[0]), PAGE)
        page: dict[str, Any] = {"items": [self._objects[n].described(n) for n in names[start : start + size]]}
        page["prefixes"] = sorted(folders)
        if start + size < len(names):
            page["nextPageToken"] = str(start + size)
        return _json(200, page)


def _below(names: list[str], prefix: str, delimiter: str) -> Iterator[str]:
    return (rest for name in names if delimiter in (rest := name.removeprefix(prefix)))


def _json(status: int, content: dict[str, Any]) -> Answer:
    return status, "Content-Type: application/json\r\n", json.dumps(content).encode()


class Connection(asyncio.Protocol):
    """One client, which asks one thing after another."""

    def __init__(self, objects: Objects, latency_s: float) -> None:
        self._objects, self._latency_s = objects, latency_s
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end].decode()
        length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < whole:
            return
        body = bytes(self._received[end + 4 : whole])
        del self._received[:whole]
        method, target, _ = head.split(" ", 2)
        asyncio.get_running_loop().call_later(self._latency_s, self._send, method, target, body)

    def _send(self, method: str, target: str, body: bytes) -> None:
        if self._transport.is_closing():
            return
        status, headers, content = self._objects.answer(method, target, body)
        head = f"HTTP/1.1 {status} {STATUS[status]}\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
        self._transport.writelines([head.encode(), content])


async def serve(latency_s: float) -> None:
    """Answer requests until the process is ended, and print where."""
    objects = Objects()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(objects, latency_s), "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)  # noqa: T201 - whoever started this process reads it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
