"""A fake Google Drive v3 server on loopback, with its OAuth token endpoint, faults on request and a log.

    with drive_server() as drive:
        folder = drive.add_folder("lab")
        drive.add_file("lab/train/skin/a.tif", data)
        drive.fail(path="alt=media", status=503, times=2)
        key = drive.write_key(tmp_path / "key.json")
        run_job(..., env=drive.environment(key))

It is stricter than it needs to be: what is in a shared drive is only found with the parameters that Drive asks for.
"""

import functools
import json
import random
import re
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from tests.fakes.drive_model import DOCUMENT, FOLDER, ROOT, SHORTCUT, Model, Record, parse_query, project

SERVICE_ACCOUNT = "converter@lab-project.iam.gserviceaccount.com"
PERSON = "ana@lab.example"
AUDIENCE = "https://oauth2.googleapis.com/token"  # what google-auth puts there, whatever the token_uri
SCOPE = "https://www.googleapis.com/auth/drive"
REFRESH_TOKEN, CLIENT_SECRET = "1//fake-refresh-token", "fake-client-secret"
MESSAGES = {
    "userRateLimitExceeded": "User Rate Limit Exceeded",
    "accessNotConfigured": "Google Drive API has not been used in project 123456 before or it is disabled.",
}


@dataclass
class Fault:
    """What goes wrong with some of the requests whose method and `path?query` match."""

    method: str
    path: str
    times: float
    skip: int
    probability: float
    status: int = 0
    reason: str = ""
    retry_after: str | None = None
    reset: bool = False
    lose_answer: bool = False
    short: bool = False
    garble: bool = False
    cut_upload: int | None = None
    stall_s: float = 0.0
    latency_s: float = 0.0
    hits: int = 0
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class LoggedRequest:
    """One request as it was answered; status 0 if it was not."""

    method: str
    target: str
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    units: int = 0
    began_s: float = 0.0
    thread: int = 0
    connection: int = 0


@dataclass
class UploadSession:
    """A resumable upload under way."""

    metadata: dict[str, Any]
    existing: Record | None
    total: int
    fields: str
    received: bytearray = field(default_factory=bytearray)


class Refused(Exception):  # noqa: N818
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str | None = None, retry_after: str | None = None) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after
        self.message = message or MESSAGES.get(reason, reason or "error")


@functools.lru_cache(maxsize=1)
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


def private_pem() -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private_key().private_bytes(*form).decode()


class FakeDrive:
    """A running server and all that is in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.model = Model()
        self.page_size = 1000
        self.token_lifetime_s = 3600
        self.accepts_grants = True
        self.requests: list[LoggedRequest] = []
        self.max_concurrency = 0
        self.lock = threading.RLock()
        self.tokens: dict[str, str] = {}
        self.grants: list[str] = []
        self.sessions: dict[str, UploadSession] = {}
        self.pages: dict[str, int] = {}
        self._faults: list[Fault] = []
        self._random = random.Random(0)
        self._under_way = 0

    # Building

    def add_folder(self, path: str, parent: str = ROOT) -> str:
        """The id of the folder at a path below `parent`, made if it is not there."""
        for name in path.split("/"):
            known = next((r for r in self.model.children(parent, name) if r.mime_type == FOLDER), None)
            parent = (known or self.add(name, parent, FOLDER)).id
        return parent

    def add_file(self, path: str, content: bytes, parent: str = ROOT, **more: Any) -> str:
        """A file, beside others of its name if there are some; returns its id."""
        return self._add_at(path, parent, "image/tiff", content=content, **more)

    def add_google_doc(self, path: str, parent: str = ROOT) -> str:
        return self._add_at(path, parent, DOCUMENT)

    def add_shortcut(self, path: str, target: str, parent: str = ROOT) -> str:
        return self._add_at(path, parent, SHORTCUT, target=target)

    def add_drive(self, name: str) -> str:
        """A shared drive; its id is that of its root folder."""
        drive_id = self.model.new_id()
        self.model.drives[drive_id] = name
        self.model.add(Record(drive_id, "Drive", FOLDER, None, self.model.now(), drive_id=drive_id))
        return drive_id

    def _add_at(self, path: str, parent: str, mime_type: str, **more: Any) -> str:
        folder, _, name = path.rpartition("/")
        return self.add(name, self.add_folder(folder, parent) if folder else parent, mime_type, **more).id

    def add(self, name: str, parent: str, mime_type: str, **more: Any) -> Record:
        drive_id = self.model.records[parent].drive_id
        details = {"created": self.model.now(), "drive_id": drive_id} | more
        return self.model.add(Record(self.model.new_id(), name, mime_type, parent, **details))

    def record(self, file_id: str) -> Record:
        return self.model.records[file_id]

    def named(self, name: str) -> list[Record]:
        """Every item of that name that is not in the bin."""
        return [r for r in self.model.records.values() if r.name == name and not self.model.is_trashed(r)]

    def download(self, root: str, folder: Path) -> Path:
        """Copy what is below a folder to a local one, and return that."""
        for record in self.model.children(root):
            if record.content is None:
                self.download(record.id, folder / record.name)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / record.name).write_bytes(record.content)
        return folder

    def names(self) -> list[str]:
        """The name of every item, with those in the bin."""
        with self.lock:
            return [record.name for record in self.model.records.values()]

    # Credentials

    def write_key(self, path: Path) -> Path:
        """A service-account key whose tokens come from this server."""
        key = {
            "type": "service_account",
            "project_id": "lab-project",
            "private_key_id": "fake",
            "private_key": private_pem(),
            "client_email": SERVICE_ACCOUNT,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(key))
        return path

    def write_user_token(self, path: Path) -> Path:
        """A person's token file, as `gcloud auth application-default login` writes it."""
        token = {
            "type": "authorized_user",
            "client_id": "fake-client",
            "client_secret": CLIENT_SECRET,
            "refresh_token": REFRESH_TOKEN,
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(token))
        return path

    def environment(self, key: Path, units_per_minute: int = 60_000_000) -> dict[str, str]:
        """What a job needs to find this server and not to wait for a quota that it does not have."""
        return {
            "DRIVE_API_ENDPOINT": self.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
            "DRIVE_UNITS_PER_MINUTE": str(units_per_minute),
        }

    def expire_tokens(self) -> None:
        """Answer 401 to every token that was given out so far."""
        with self.lock:
            self.tokens.clear()

    # Faults and the log

    def fail(
        self, *, method: str = "", path: str = "", times: float = 1, skip: int = 0, probability: float = 1, **what: Any
    ) -> Fault:
        """Let matching requests fail; see `Fault` for what can go wrong."""
        fault = Fault(method, path, times, skip, probability, **what)
        with self.lock:
            self._faults.append(fault)
        return fault

    def end_faults(self) -> None:
        """Forget all faults, and answer the requests that they keep waiting."""
        with self.lock:
            for fault in self._faults:
                fault.over.set()
            self._faults.clear()

    def next_fault(self, method: str, target: str) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if not (re.search(fault.method, method) and re.search(fault.path, target)):
                    continue
                fault.hits += 1
                due = fault.skip < fault.hits <= fault.skip + fault.times
                if due and self._random.random() < fault.probability:
                    return fault
        return None

    def sent(self, method: str = "", path: str = "") -> list[LoggedRequest]:
        """The requests whose method and `path?query` match, in the order in which they came."""
        with self.lock:
            return [r for r in self.requests if re.search(method, r.method) and re.search(path, r.target)]

    def forget_requests(self) -> None:
        with self.lock:
            self.requests.clear()
            self.max_concurrency = self._under_way

    @property
    def under_way(self) -> int:
        """How many requests are not answered yet."""
        return self._under_way

    @property
    def units(self) -> int:
        """Quota units of all requests in the log."""
        return sum(request.units for request in self.requests)

    @contextmanager
    def logged(self, request: LoggedRequest) -> Iterator[None]:
        with self.lock:
            self.requests.append(request)
            self._under_way += 1
            self.max_concurrency = max(self.max_concurrency, self._under_way)
        try:
            yield
        finally:
            with self.lock:
                self._under_way -= 1

    # The API

    def token_grant(self, form: dict[str, str]) -> dict[str, Any]:
        if not self.accepts_grants:
            raise Refused(400, "invalid_grant")
        if form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            form_of_key = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            public = private_key().public_key().public_bytes(*form_of_key)
            claims = jwt.decode(form["assertion"], certs=public, audience=AUDIENCE)
            if claims["iss"] != SERVICE_ACCOUNT or claims["scope"] != SCOPE:
                raise Refused(400, "invalid_grant")
            account = SERVICE_ACCOUNT
        elif form["grant_type"] == "refresh_token" and form["refresh_token"] == REFRESH_TOKEN:
            account = PERSON
        else:
            raise Refused(400, "invalid_grant")
        token = f"ya29.{secrets.token_hex(8)}"
        with self.lock:
            self.tokens[token] = account
            self.grants.append(form["grant_type"])
        return {"access_token": token, "expires_in": self.token_lifetime_s, "token_type": "Bearer"}

    def visible(self, file_id: str, query: dict[str, str]) -> Record:
        record = self.model.visible(file_id, all_drives=query.get("supportsAllDrives") == "true")
        if record is None:
            raise Refused(404, "notFound", f"File not found: {file_id}.")
        return record

    def list_files(self, query: dict[str, str]) -> dict[str, Any]:
        matches, parents = parse_query(query["q"], self.model)
        for parent in parents:
            self.visible(parent, query)
        offset = 0
        if token := query.get("pageToken"):
            if token not in self.pages:
                raise Refused(400, "invalid", "Invalid Value: pageToken")
            offset = self.pages[token]
        drive_id = query.get("driveId") if query.get("corpora") == "drive" else None
        if drive_id and query.get("includeItemsFromAllDrives") != "true":
            raise Refused(403, "teamDrivesParentLimit", "includeItemsFromAllDrives must be true")
        found = [r for r in reversed(self.model.records.values()) if r.drive_id == drive_id and r.shared and matches(r)]
        size = min(int(query.get("pageSize", "100")), self.page_size)
        content: dict[str, Any] = {"files": [self.model.described(r) for r in found[offset : offset + size]]}
        if offset + size < len(found):
            content["nextPageToken"] = token = secrets.token_hex(8)
            self.pages[token] = offset + size
        return project(content, query.get("fields", "nextPageToken,files(id,name,mimeType)"))

    def create(self, content: dict[str, Any], query: dict[str, str], data: bytes | None = None) -> Record:
        parent = self.visible(content.get("parents", ["root"])[0], query)
        if parent.read_only:
            raise Refused(403, "insufficientFilePermissions", "The user does not have sufficient permissions.")
        if content.get("id") in self.model.records:
            raise Refused(409, "fileIdInUse", "A file already exists with the provided ID.")
        record = self.add(content["name"], parent.id, content.get("mimeType", "application/octet-stream"))
        if "id" in content:
            del self.model.records[record.id]
            record.id = content["id"]
            self.model.add(record)
        record.content = data
        return record

    def start_upload(self, existing: Record | None, content: dict[str, Any], query: dict[str, str], who: str) -> str:
        place = existing or self.visible(content.get("parents", ["root"])[0], query)
        if place.read_only:
            raise Refused(403, "insufficientFilePermissions", "The user does not have sufficient permissions.")
        if existing is None and place.drive_id is None and who == SERVICE_ACCOUNT:
            raise Refused(403, "storageQuotaExceeded", "Service Accounts do not have storage quota.")
        name = secrets.token_hex(8)
        self.sessions[name] = UploadSession(content, existing, -1, query.get("fields", "id"))
        return f"{self.url}/upload/drive/v3/files?uploadType=resumable&upload_id={name}"

    def finish_upload(self, session: UploadSession) -> dict[str, Any]:
        data = bytes(session.received)
        if session.existing is None:
            session.existing = self.create(session.metadata, {"supportsAllDrives": "true"}, data)
        elif session.existing.content != data:
            session.existing.content = data
            session.existing.revisions += 1
        return project(self.model.described(session.existing), session.fields)


def _handler(drive: FakeDrive) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.drive = drive
    return Handler


class _Handler(BaseHTTPRequestHandler):
    drive: FakeDrive
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        log = LoggedRequest(self.command, self.path, began_s=time.monotonic(), thread=threading.get_ident())
        log.connection = self.client_address[1]
        log.units = _units(self.command, parts.path, self.query)
        with self.drive.logged(log):
            fault = self.drive.next_fault(self.command, self.path)
            if fault is not None:
                fault.over.wait(fault.latency_s + fault.stall_s)
                if fault.stall_s or fault.reset:
                    self._reset()
                    return
            self.fault = fault or Fault("", "", 0, 0, 0)
            self._answer(parts.path, log)

    def _answer(self, path: str, log: LoggedRequest) -> None:
        headers: dict[str, str] = {}
        try:
            body = self._body(log)
            with self.drive.lock:
                status, content, headers = self._route(path, body)
        except Refused as refused:
            status, content = refused.status, _error(refused, path)
            headers = {"Retry-After": refused.retry_after} if refused.retry_after else {}
        except (ValueError, KeyError) as error:
            status, content = 400, _error(Refused(400, "invalid", str(error)), path)
        except ConnectionAbortedError:
            self._reset()
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if self.fault.garble:
            data = bytes(255 - byte for byte in data)
        log.status = status
        if self.fault.lose_answer:
            self._reset()
            return
        self._send(status, data, headers, log)

    def _send(self, status: int, data: bytes, headers: dict[str, str], log: LoggedRequest) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        sent = data[: len(data) // 2] if self.fault.short else data
        self.wfile.write(sent)
        log.bytes_out = len(sent)
        if self.fault.short:
            self.wfile.flush()
            self.close_connection = True

    def _reset(self) -> None:
        """End the connection with a TCP reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        if self.connection.fileno() != -1:
            super().finish()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has gone away, or we have
            self.close_connection = True

    def _body(self, log: LoggedRequest) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        if self.fault.cut_upload is not None:
            part = self.rfile.read(self.fault.cut_upload)
            self.drive.sessions[self.query["upload_id"]].received += part
            raise ConnectionAbortedError
        log.bytes_in = length
        body = self.rfile.read(length)
        if self.fault.status:
            raise Refused(self.fault.status, self.fault.reason, retry_after=self.fault.retry_after)
        return body

    def _route(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:  # noqa: PLR0911
        if path == "/token":
            return 200, self.drive.token_grant({k: v[0] for k, v in parse_qs(body.decode()).items()}), {}
        who = self.drive.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if who is None:
            raise Refused(401, "authError", "Invalid Credentials")
        if path.startswith("/upload/"):
            return self._upload(path, body, who)
        if path == "/drive/v3/about":
            content = {"user": {"emailAddress": who}, "storageQuota": {"limit": "0", "usage": "0"}}
            return 200, project(content, self.query["fields"]), {}
        if path == "/drive/v3/drives":
            found = [{"id": i, "name": n} for i, n in self.drive.model.drives.items()]
            return 200, project({"drives": found}, self.query.get("fields", "drives(id,name)")), {}
        if path == "/drive/v3/files/generateIds":
            return 200, {"ids": [self.drive.model.new_id() for _ in range(int(self.query["count"]))]}, {}
        if path == "/drive/v3/files":
            if self.command == "GET":
                return 200, self.drive.list_files(self.query), {}
            return 200, self._described(self.drive.create(json.loads(body), self.query)), {}
        return self._file(self.drive.visible(path.rsplit("/", 1)[-1], self.query), body)

    def _described(self, record: Record) -> dict[str, Any]:
        return project(self.drive.model.described(record), self.query.get("fields", "id,name,mimeType"))

    def _file(self, record: Record, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if self.command == "DELETE":
            del self.drive.model.records[record.id]
            return 204, b"", {}
        if self.command == "PATCH":
            if record.read_only:
                raise Refused(403, "insufficientFilePermissions", "The user does not have sufficient permissions.")
            record.trashed = json.loads(body)["trashed"]
        if self.query.get("alt") == "media":
            return self._media(record)
        return 200, self._described(record), {}

    def _media(self, record: Record) -> tuple[int, Any, dict[str, str]]:
        if record.content is None:
            raise Refused(403, "fileNotDownloadable", "Only files with binary content can be downloaded.")
        if record.abusive and self.query.get("acknowledgeAbuse") != "true":
            raise Refused(403, "cannotDownloadAbusiveFile", "This file has been identified as malware or spam.")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match is None:
            return 200, record.content, {}
        first, last = int(match.group(1)), min(int(match.group(2)), len(record.content) - 1)
        if first > last:
            raise Refused(416, "requestedRangeNotSatisfiable")
        where = f"bytes {first}-{last}/{len(record.content)}"
        return 206, record.content[first : last + 1], {"Content-Range": where}

    def _upload(self, path: str, body: bytes, who: str) -> tuple[int, Any, dict[str, str]]:
        if self.command != "PUT":
            name = path.removeprefix("/upload/drive/v3/files").lstrip("/")
            existing = self.drive.visible(name, self.query) if name else None
            return 200, b"", {"Location": self.drive.start_upload(existing, json.loads(body), self.query, who)}
        session = self.drive.sessions.get(self.query["upload_id"])
        if session is None:
            raise Refused(404, "notFound", "Upload session not found")
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", self.headers.get("Content-Range", ""))
        if match is None:
            session.received[:], session.total = body, len(body)
        else:
            session.total = int(match.group(3))
            if match.group(1) is not None:
                first, last = int(match.group(1)), int(match.group(2))
                if first != len(session.received) or last - first + 1 != len(body):
                    raise Refused(400, "badRequest", "Failed to parse Content-Range header.")
                session.received += body
        if len(session.received) < session.total:
            received = len(session.received)
            return 308, b"", {"Range": f"bytes=0-{received - 1}"} if received else {}
        return 200, self.drive.finish_upload(session), {}


def _units(method: str, path: str, query: dict[str, str]) -> int:
    """Source: https://developers.google.com/workspace/drive/api/guides/limits."""
    if path == "/token":
        return 0
    if method != "GET":
        return 50
    if path in {"/drive/v3/files", "/drive/v3/drives"}:
        return 100
    return 200 if query.get("alt") == "media" else 5


def _error(refused: Refused, path: str) -> dict[str, Any]:
    if path == "/token":
        return {"error": refused.reason, "error_description": "Invalid grant: account not found"}
    detail = {"domain": "global", "reason": refused.reason, "message": refused.message}
    return {"error": {"code": refused.status, "message": refused.message, "errors": [detail]}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


@contextmanager
def drive_server() -> Iterator[FakeDrive]:
    """Start a server, and end it."""
    server = _Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    drive = FakeDrive(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = _handler(drive)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    try:
        yield drive
    finally:
        drive.end_faults()
        server.shutdown()
        server.server_close()
        thread.join()
