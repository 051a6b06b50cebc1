"""The clouds that this process reads and writes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pytest

from lib.storage.location import FILESYSTEMS


@contextmanager
def storage_here(environment: Mapping[str, str]) -> Iterator[None]:
    """Work with the servers that some environment variables name, by connections of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for scheme in ("gs", "gdrive"):
            patch.setitem(FILESYSTEMS, scheme, partial(FILESYSTEMS[scheme]))
        yield
