"""The file of weights that a SPEC names, on this machine and proven to be the one meant."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from lib.errors import StorageError, TissueError
from lib.models.spec import ARCHIVE_ENDINGS, ModelSpec
from lib.storage.location import Location
from lib.storage.web import download

LARGEST_DOWNLOAD_BYTES = 16 << 30
COMPRESSED_FORM = "tf-hub-format=compressed"
"""Asks TF Hub for a `.tar.gz` instead of a page for people."""


@contextmanager
def given_weights(spec: ModelSpec) -> Iterator[Path]:
    """The weights file that a SPEC names by its URI, on this machine.

    Raises:
        TissueError: If it is not the file that the SPEC's `sha256` names.
        StorageError: If it cannot be read.
    """
    if spec.is_handle:
        yield _downloaded(spec)
        return
    with Location(spec.weights).as_local_file() as file:
        if spec.sha256 is not None:
            require_digest(spec, file_digest(file))
        yield file


def copy_folder(spec: ModelSpec, folder: Path) -> None:
    """Copy every file of the folder that a SPEC names into one on this machine.

    Raises:
        TissueError: If it is not the folder that the SPEC's `sha256` names.
        StorageError: If it cannot be read.
    """
    source, target = Location(spec.weights), Location(str(folder))
    for file in source.list_files():
        (target / file.path).write_bytes((source / file.path).read_bytes())
    if spec.sha256 is not None:
        require_digest(spec, folder_digest(target))


def require_digest(spec: ModelSpec, found: str) -> None:
    """Refuse weights that are not those that the SPEC's `sha256` names.

    Raises:
        TissueError: With both checksums.
    """
    if spec.sha256 not in {None, found}:
        raise TissueError(f"the weights {spec.weights} are another file: sha256 is {found}, expected {spec.sha256}")


def file_digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def folder_digest(folder: Location) -> str:
    """The SHA-256 of all files of a folder together with their names, in hexadecimal."""
    digest = hashlib.sha256()
    for file in folder.list_files():
        content = hashlib.sha256((folder / file.path).read_bytes())
        digest.update(f"{content.hexdigest()}  {file.path}\n".encode())
    return digest.hexdigest()


def _downloaded(spec: ModelSpec) -> Path:
    """The archive behind a handle of TF Hub, downloaded unless this machine has it.

    It is kept in the folder `saved_models` of KERAS_HOME under a name that its address and the demanded checksum make
    up. Only what has that checksum gets there.
    """
    address = archive_address(spec.weights)
    name = hashlib.sha256(f"{address} {spec.sha256}".encode()).hexdigest()[:32]
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "saved_models"
    kept = folder / f"{name}.tar.gz"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{uuid.uuid4().hex}.partial"
        try:
            _fetch(spec, address, partial)
            partial.replace(kept)
        finally:
            partial.unlink(missing_ok=True)
    return kept


def _fetch(spec: ModelSpec, address: str, file: Path) -> None:
    try:
        download(address, file, LARGEST_DOWNLOAD_BYTES)
    except StorageError as error:
        advice = f"on a machine without internet give the file or its folder: {spec.name}:path=URI.tar.gz"
        raise StorageError(f"{error}; {advice}") from error
    require_digest(spec, file_digest(file))


def archive_address(handle: str) -> str:
    """Where the `.tar.gz` of a handle is: TF Hub wants to be asked for this form, a link to a file does not."""
    parts = urlsplit(handle)
    if parts.path.endswith(ARCHIVE_ENDINGS) or COMPRESSED_FORM in parts.query:
        return parts._replace(fragment="").geturl()
    query = "&".join(part for part in (parts.query, COMPRESSED_FORM) if part)
    return parts._replace(query=query, fragment="").geturl()
