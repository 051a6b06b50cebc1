from collections.abc import Callable

import pytest
from gcsfs.retry import HttpError

from lib.errors import StorageError
from lib.storage import faults as retry_module
from lib.storage.faults import TransientStorageError, attempt, named, retry


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are not made."""
    pauses: list[float] = []
    monkeypatch.setattr(retry_module.time, "sleep", pauses.append)
    return pauses


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def call() -> str:
        if left:
            raise left.pop()
        return "content"

    return call


@pytest.mark.parametrize(
    "error",
    [
        *(HttpError({"code": status, "message": "busy"}) for status in (408, 429, 500, 502, 503, 504)),
        ConnectionResetError("reset by peer"),
        TimeoutError(),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error: Exception, waits: list[float]) -> None:
    assert attempt("read", "gs://lab/x", failing(2, error)) == "content"
    assert len(waits) == 2


def test_what_does_not_pass_is_given_up_with_the_number_of_attempts(waits: list[float]) -> None:
    with pytest.raises(StorageError, match=r"cannot read gs://lab/x: HTTP 503 .*tried 5 times") as caught:
        attempt("read", "gs://lab/x", failing(99, HttpError({"code": 503, "message": "busy"})))
    assert not isinstance(caught.value, TransientStorageError)
    assert len(waits) == 4


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (HttpError({"code": 401, "message": "Invalid Credentials"}), "gcloud auth application-default login"),
        (OSError("Forbidden: lab/x\nno access"), "Storage Object Viewer"),
        (HttpError({"code": 403, "message": "no access"}), "Storage Object Viewer"),
        (FileNotFoundError("lab/x"), "no such file or bucket"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
    ids=repr,
)
def test_what_does_not_pass_by_itself_fails_at_once_with_its_remedy(
    error: Exception, remedy: str, waits: list[float]
) -> None:
    with pytest.raises(StorageError, match=remedy) as caught:
        attempt("read", "gs://lab/x", failing(1, error))
    assert "\n" not in str(caught.value)
    assert waits == []


def test_a_bug_stays_a_bug(waits: list[float]) -> None:
    assert named(KeyError("x"), "read", "gs://lab/x") is None
    with pytest.raises(KeyError):
        attempt("read", "gs://lab/x", failing(1, KeyError("x")))
    assert waits == []


def test_pauses_are_random_below_a_limit_that_doubles(waits: list[float]) -> None:
    for _ in range(200):
        with pytest.raises(StorageError):
            retry(failing(9, TransientStorageError("busy")), attempts=5)
    for position, limit_s in enumerate((0.5, 1.0, 2.0, 4.0)):
        pauses = waits[position::4]
        assert all(0 <= pause <= limit_s for pause in pauses)
        assert max(pauses) > 0.8 * limit_s
        assert min(pauses) < 0.2 * limit_s
