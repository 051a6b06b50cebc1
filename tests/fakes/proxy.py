"""An HTTP proxy on loopback in front of another server, with faults on request and a log.

with gcs_server() as gcs, faulty_proxy(gcs.url) as proxy:
    proxy.fail("status", r"GET .*alt=media", status=503, times=2)
    run_job(..., env={"STORAGE_EMULATOR_HOST": proxy.url})
"""

import http.client
import json
import math
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["status", "latency", "stall", "hold", "reset", "lose_answer", "short", "truncate", "flip", "flip_upload"]
SIGN_OF_LIFE_S = 5.0
OF_THIS_CONNECTION = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})


@dataclass
class Fault:
    """What goes wrong with some of the requests whose `METHOD path?query`, unquoted, matches.

    Attributes:
        kind: `status`: answer with `status` and `message`. `latency`, `stall`: wait `seconds`, then answer. `hold`:
            answer when the fault is over, and tell the client meanwhile that we are still there. `reset`: close the
            connection before the request is forwarded; `lose_answer`: after it was. `short`: state the whole length,
            send half and close. `truncate`: send half and state that as the length. `flip`, `flip_upload`: change a
            bit of the answer, or of the request.
        pattern: A regular expression.
        skip: How many of the matching requests are answered first.
        times: How often at the most.
        probability: Of each matching request, drawn with the proxy's seed.
        status: Of the answer.
        message: In the answer, in Google's form.
        body: Of the answer, instead of the message.
        seconds: To wait, at the most until the fault is over.
        hits: How often it has happened.
        over: Whether requests are still kept waiting.
    """

    kind: Kind
    pattern: str
    skip: int = 0
    times: float = math.inf
    probability: float = 1.0
    status: int = 503
    message: str = "we are busy"
    body: bytes | None = None
    seconds: float = 0.0
    hits: int = 0
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class LoggedRequest:
    """One request as it was answered; status 0 if it was not."""

    method: str
    target: str
    status: int = 0
    faults: list[Kind] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


class FaultyProxy:
    """A running proxy.

    Attributes:
        url: Where it listens.
        upstream: The server that it forwards to.
        requests: What was asked, in order.
        faults: Those in force.
    """

    def __init__(self, url: str, upstream: str, seed: int) -> None:
        self.url, self.upstream = url, upstream
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def fail(self, kind: Kind, pattern: str, **details: Any) -> Fault:
        """Put a fault in force; the details are the fields of `Fault`."""
        fault = Fault(kind, pattern, **details)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget all faults and the log."""
        self.end_faults()
        self.requests.clear()

    def end_faults(self) -> None:
        """Forget all faults, and answer the requests that they keep waiting."""
        for fault in self.faults:
            fault.over.set()
        self.faults.clear()

    def matching(self, pattern: str) -> list[LoggedRequest]:
        """The logged requests whose `METHOD path?query` matches."""
        return [request for request in self.requests if re.search(pattern, f"{request.method} {request.target}")]

    def under_way(self, pattern: str) -> list[LoggedRequest]:
        """The matching requests that are not answered yet."""
        return [request for request in self.matching(pattern) if request.status == 0]

    def _take(self, method: str, target: str) -> tuple[LoggedRequest, dict[Kind, Fault]]:
        request = LoggedRequest(method, unquote(target))
        with self._lock:
            self.requests.append(request)
            chosen = {fault.kind: fault for fault in self.faults if self._happens(fault, request)}
        request.faults = list(chosen)
        return request, chosen

    def _happens(self, fault: Fault, request: LoggedRequest) -> bool:
        if not re.search(fault.pattern, f"{request.method} {request.target}") or fault.hits >= fault.times:
            return False
        if fault.probability < 1 and self._random.random() >= fault.probability:
            return False
        if fault.skip > 0:
            fault.skip -= 1
            return False
        fault.hits += 1
        return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        address = urlsplit(self.server.proxy.upstream)
        self.upstream = http.client.HTTPConnection(str(address.hostname), address.port)

    def finish(self) -> None:
        self.upstream.close()
        super().finish()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client went away, or we closed the connection on it
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep pytest's output clean."""

    def _forward(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # the client was killed while it sent this
            self.close_connection = True
            return
        request, faults = self.server.proxy._take(self.command, self.path)
        request.headers = dict(self.headers)
        for kind in ("latency", "stall"):
            if kind in faults:
                faults[kind].over.wait(faults[kind].seconds)
        while "hold" in faults and not faults["hold"].over.wait(SIGN_OF_LIFE_S):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "reset" in faults:
            self._reset()
        elif "status" in faults:
            self._refuse(request, faults["status"])
        else:
            self._answer(request, faults, _flipped(body) if "flip_upload" in faults else body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 - names that http.server knows

    def _refuse(self, request: LoggedRequest, fault: Fault) -> None:
        error = {"error": {"code": fault.status, "message": fault.message}}
        headers = [("Content-Type", "application/json" if fault.body is None else "application/xml")]
        self._send(request, fault.status, headers, json.dumps(error).encode() if fault.body is None else fault.body)

    def _answer(self, request: LoggedRequest, faults: dict[Kind, Fault], body: bytes) -> None:
        status, headers, content = self._ask(body)
        half = content[: len(content) // 2]
        if "lose_answer" in faults:
            self._reset()
        elif "short" in faults:
            self._send(request, status, headers, half, len(content))
            self.close_connection = True
        elif "truncate" in faults:
            self._send(request, status, headers, half)
        else:
            self._send(request, status, headers, _flipped(content) if "flip" in faults else content)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The other server's answer, with our address where it states its own."""
        proxy = self.server.proxy
        headers = {name: value for name, value in self.headers.items() if name.lower() not in OF_THIS_CONNECTION}
        self.upstream.request(self.command, self.path, body if body or self.command == "POST" else None, headers)
        answer = self.upstream.getresponse()
        content = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in OF_THIS_CONNECTION]
        return answer.status, [(name, value.replace(proxy.upstream, proxy.url)) for name, value in kept], content

    def _send(
        self,
        request: LoggedRequest,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        stated_length: int | None = None,
    ) -> None:
        request.status = status
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("Content-Length", str(len(content) if stated_length is None else stated_length))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def _flipped(content: bytes) -> bytes:
    """The content with one bit changed in its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else content


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    proxy: FaultyProxy

    def handle_error(self, *_: object) -> None:
        """Clients that go away are not worth a traceback."""


@contextmanager
def faulty_proxy(upstream: str, seed: int = 0) -> Iterator[FaultyProxy]:
    """Start a proxy in front of the server at a URL, and end it."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.proxy = FaultyProxy(f"http://127.0.0.1:{server.server_port}", upstream, seed)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.proxy.end_faults()
        server.shutdown()
        server.server_close()
        thread.join()
