import asyncio
from collections.abc import Callable

import pytest
from gcsfs.retry import HttpError

from lib.errors import StorageError
from lib.storage.faults import GivenUpError, RetryPolicy, TransientStorageError, attempt, named


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are not made."""
    pauses: list[float] = []
    monkeypatch.setattr("lib.storage.faults.time.sleep", pauses.append)
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


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("The billing account for the owning project is disabled in state absent", "switch billing on for the project"),
        (
            "Cloud Storage JSON API has not been used in project 123456 before or it is disabled. Enable it",
            "enable the Cloud Storage JSON API in that project",
        ),
        ("Bucket is a requester pays bucket but no user project provided.", "set GCS_USER_PROJECT to the project"),
        (
            "ada@lab.org does not have serviceusage.services.use access to the Google Cloud project.",
            "the role Service Usage Consumer in the project that GCS_USER_PROJECT names",
        ),
        (
            "ada@lab.org does not have storage.objects.list access to the Google Cloud Storage bucket. "
            "Permission 'storage.objects.list' denied on resource (or it may not exist).",
            "needs the role Storage Object Viewer on a source",
        ),
        ("Object 'lab/x' is subject to bucket's retention policy and cannot be overwritten", "choose another output"),
        ("Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: x", "ask who runs it"),
    ],
)
def test_a_refusal_of_google_says_the_fact_first_and_then_the_advice_that_fits(
    words: str, advice: str, waits: list[float]
) -> None:
    status = 400 if "requester pays" in words else 403
    kinds = [HttpError({"code": status, "message": words})]
    kinds += (
        [OSError(f"Forbidden: https://storage.googleapis.com/storage/v1/b/lab/o\n{words}")] if status == 403 else []
    )
    for error in kinds:
        with pytest.raises(StorageError) as caught:
            attempt("read", "gs://lab/x", failing(1, error))
        line = str(caught.value)
        assert line.startswith(f"cannot read gs://lab/x: HTTP {status}: {words.rstrip('.')}; ")
        assert advice in line
        assert "\n" not in line
    assert waits == []


def test_a_bug_stays_a_bug(waits: list[float]) -> None:
    assert named(KeyError("x"), "read", "gs://lab/x") is None
    with pytest.raises(KeyError):
        attempt("read", "gs://lab/x", failing(1, KeyError("x")))
    assert waits == []


def test_a_server_that_says_nothing_is_tried_less_often_and_one_that_asks_for_a_pause_gets_it(
    waits: list[float],
) -> None:
    policy = RetryPolicy(attempts=8, silent_attempts=4)
    for fault, times in ((TransientStorageError("busy"), 8), (TransientStorageError("", is_silent=True), 4)):
        waits.clear()
        with pytest.raises(StorageError, match=rf"^cannot read gs://lab/x: .*\(tried {times} times\)$"):
            policy.run(failing(9, fault), "read gs://lab/x")
        assert len(waits) == times - 1
    waits.clear()
    assert policy.run(failing(2, TransientStorageError("busy", asked_s=30)), "read gs://lab/x") == "content"
    assert waits == [30, 30]
    with pytest.raises(StorageError, match=r"busy; the server asks to wait 601 s \(tried once\)$"):
        policy.run(failing(2, TransientStorageError("busy", asked_s=601)), "read gs://lab/x")


def test_coroutines_are_tried_as_often_as_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def no_pause(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr("lib.storage.faults.asyncio.sleep", no_pause)

    def run(times: int) -> str:
        call = failing(times, TransientStorageError("busy"))

        async def action() -> str:
            return call()

        return asyncio.run(RetryPolicy(attempts=3).run_async(action))

    assert run(2) == "content"
    assert len(pauses) == 2
    with pytest.raises(GivenUpError, match=r"^busy \(tried 3 times\)$"):
        run(3)


def test_pauses_are_random_below_a_limit_that_doubles(waits: list[float]) -> None:
    for _ in range(200):
        with pytest.raises(StorageError):
            RetryPolicy(attempts=5).run(failing(9, TransientStorageError("busy")), "read gs://lab/x")
    for position, limit_s in enumerate((0.5, 1.0, 2.0, 4.0)):
        pauses = waits[position::4]
        assert all(0 <= pause <= limit_s for pause in pauses)
        assert max(pauses) > 0.8 * limit_s
        assert min(pauses) < 0.2 * limit_s
