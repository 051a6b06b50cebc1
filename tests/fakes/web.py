"""A web server with a certificate of its own, on loopback."""

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"


@dataclass
class Website:
    """What a server answers and was asked.

    Attributes:
        url: Of its root, without a slash.
        certificate: Of the authority that a client must trust.
        files: Content by path and query.
        redirects: Where a path leads to.
        failures: How often each path answers 503 before it answers.
        cut: Paths of which half is sent.
        asked: The paths, in order.
    """

    url: str
    certificate: Path
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    website: Website

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        site = self.website
        site.asked.append(self.path)
        if site.failures.get(self.path, 0):
            site.failures[self.path] -= 1
            self._answer(503, b"busy")
        elif self.path in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in site.files:
            self._answer(200, site.files[self.path])
        else:
            self._answer(404, b"nothing here")

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path in self.website.cut else content)


@contextmanager
def website(folder: Path, *, encrypted: bool = True) -> Iterator[Website]:
    """A server that serves until the end of the block; its certificate is put into a folder."""
    kind: Any = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer((HOST, 0), kind)
    certificate = folder / "certificate.pem"
    if encrypted:
        _write_certificate(certificate, folder / "key.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, folder / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site = Website(f"http{'s' if encrypted else ''}://{HOST}:{server.server_address[1]}", certificate)
    kind.website = site
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _write_certificate(certificate: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
