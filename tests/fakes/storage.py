"""The clouds that this process and its Ray read and write."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pytest

from lib.config.base import JobConfig
from lib.runtime.ray_data import start_ray, stop_ray
from lib.storage.location import FILESYSTEMS


@contextmanager
def storage_here(environment: Mapping[str, str]) -> Iterator[None]:
    """Work with the servers that some environment variables name, by connections of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for scheme in ("gs", "gdrive", "s3"):
            patch.setitem(FILESYSTEMS, scheme, partial(FILESYSTEMS[scheme]))
        yield


@contextmanager
def ray_with_storage_here(environment: Mapping[str, str]) -> Iterator[None]:
    """The same with a Ray of this process, whose workers have these variables too; with `RAY_ADDRESS`, a cluster's."""
    stop_ray()
    with storage_here(environment):
        start_ray(JobConfig())
        try:
            yield
        finally:
            stop_ray()
