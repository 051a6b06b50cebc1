"""Google's metadata server, as far as the notice of preemption goes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class MetadataServer:
    """Serves values of a machine with etags, and holds `wait_for_change` requests as the real one does.

    Attributes:
        host: What belongs into `GCE_METADATA_HOST`.
        asked: The requests that came: path and query.
        failures: Statuses that the next requests are answered with instead of a value.
        flavor: The header by which clients know it.
    """

    def __init__(self, port: int = 0) -> None:
        self.asked: list[str] = []
        self.failures: list[int] = []
        self.flavor = "Google"
        self._values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self._versions = dict.fromkeys(self._values, 1)
        self._changed = threading.Condition()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.host = f"127.0.0.1:{self.server.server_port}"

    def set(self, key: str, value: str) -> None:
        """Change a value, and answer who waits for it."""
        with self._changed:
            self._values[key], self._versions[key] = value, self._versions[key] + 1
            self._changed.notify_all()

    def forget(self, key: str) -> None:
        """From now on the key is not found: GKE's own metadata server has few keys."""
        del self._values[key]

    def answer(self, path: str, flavor: str | None) -> tuple[int, str, str]:
        """Status, etag and body."""
        self.asked.append(path)
        parts = urlsplit(path)
        key, query = parts.path.removeprefix("/computeMetadata/v1/instance/"), parse_qs(parts.query)
        if self.failures:
            return self.failures.pop(0), "0", "try later"
        if flavor != "Google":
            return 403, "0", "Missing Metadata-Flavor:Google header."
        if key not in self._values:
            return 404, "0", "not found"
        with self._changed:
            if "wait_for_change" in query:
                unchanged = query.get("last_etag", [f"{self._versions[key]:x}"])[0]
                timeout = float(query["timeout_sec"][0])
                self._changed.wait_for(lambda: f"{self._versions[key]:x}" != unchanged, timeout)
            return 200, f"{self._versions[key]:x}", self._values[key]

    def _handler(server: "MetadataServer") -> type[BaseHTTPRequestHandler]:  # noqa: N805 (`self` is the handler below)
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, etag, body = server.answer(self.path, self.headers.get("Metadata-Flavor"))
                self.send_response(status)
                self.send_header("Metadata-Flavor", server.flavor)
                self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    """Serve on loopback, and stop."""
    fake = MetadataServer()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        thread.join()
        fake.server.server_close()
