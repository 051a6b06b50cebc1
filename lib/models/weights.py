"""The file of weights that a SPEC names, proven to be the one meant."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.errors import TissueError
from lib.models.spec import ModelSpec
from lib.storage.location import Location


@contextmanager
def given_weights(spec: ModelSpec) -> Iterator[Path]:
    """The weights file that a SPEC names by its URI, on this machine.

    Raises:
        TissueError: If it is not the file that the SPEC's `sha256` names.
        StorageError: If it cannot be read.
    """
    with Location(spec.weights).as_local_file() as file:
        if spec.sha256 is not None and (found := file_digest(file)) != spec.sha256:
            raise TissueError(f"the weights {spec.weights} are another file: sha256 is {found}, expected {spec.sha256}")
        yield file


def file_digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
