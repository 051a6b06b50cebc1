"""Errors of ours cross processes and carry their exit codes."""

import pickle

import pytest

from lib.errors import (
    DataError,
    DivergedError,
    ImageRefused,
    MemoryKillsError,
    SettingsError,
    StorageError,
    TissueError,
    TooManyBadImagesError,
)

EXIT_CODES = {
    TissueError: 1,
    SettingsError: 2,
    DataError: 1,
    DivergedError: 1,
    MemoryKillsError: 1,
    StorageError: 1,
    TooManyBadImagesError: 3,
}


def all_subclasses(kind: type) -> set[type]:
    return {kind}.union(*(all_subclasses(below) for below in kind.__subclasses__()))


def test_every_error_of_ours_is_listed_here() -> None:
    ours = {kind for kind in all_subclasses(TissueError) if kind.__module__ == "lib.errors"}
    assert ours == set(EXIT_CODES)


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES.items())
def test_an_error_keeps_its_kind_text_and_exit_code_between_processes(kind: type[TissueError], code: int) -> None:
    copy = pickle.loads(pickle.dumps(kind("gs://b/x: gone")))
    assert type(copy) is kind
    assert str(copy) == "gs://b/x: gone"
    assert copy.exit_code == code


def test_a_refusal_keeps_its_code_and_detail_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(ImageRefused("truncated", "strip 3 ends at 17")))
    assert (type(copy), copy.code, copy.detail) == (ImageRefused, "truncated", "strip 3 ends at 17")
    assert str(copy) == "truncated: strip 3 ends at 17"


def test_a_bad_image_is_not_a_failure_of_the_run() -> None:
    assert not issubclass(ImageRefused, TissueError)
