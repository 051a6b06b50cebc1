"""What is in the way of a Ray is removed, or named in one line."""

import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import ray

from lib.errors import SettingsError, TissueError
from lib.runtime import ray_start
from lib.runtime.ray_start import SESSION, SOCKET_BYTES, init_ray, make_room_for_sockets, require_answer

BUSY = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


class Init:
    """Stands for `ray.init` on a machine that is too busy for some starts."""

    def __init__(self, *reasons: str) -> None:
        self.reasons, self.calls = list(reasons), 0

    def __call__(self, **_: Any) -> None:
        self.calls += 1
        if self.reasons:
            raise Exception(self.reasons.pop(0))  # noqa: TRY002 - as Ray does


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(ray_start.time, "sleep", waited.append)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return waited


def test_a_start_that_was_too_slow_is_made_once_more_and_told_in_one_line(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    init = Init(BUSY)
    monkeypatch.setattr(ray, "init", init)
    init_ray()
    assert (init.calls, pauses) == (2, [ray_start.PAUSE_S])
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "Ray did not start in time, since this machine is busy (load" in record.getMessage()


@pytest.mark.parametrize(("reasons", "calls"), [((BUSY, BUSY), 2), (("no such option\n\nat all",), 1)])
def test_a_start_that_fails_for_good_is_one_line(
    reasons: tuple[str, ...], calls: int, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Init(*reasons)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(TissueError, match=r"^Ray does not start on this machine \(load \d+ on \d+ CPUs\): ") as caught:
        init_ray()
    assert init.calls == calls
    assert "\n" not in str(caught.value)


def test_a_short_folder_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", "/" + "x" * (SOCKET_BYTES - len(SESSION) - 1))
    make_room_for_sockets()
    assert "RAY_TMPDIR" not in os.environ


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_whose_sockets_would_have_too_long_names_is_replaced_by_a_short_one(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv(variable, "/" + "x" * (SOCKET_BYTES - len(SESSION)))
    make_room_for_sockets()
    folder = Path(os.environ["RAY_TMPDIR"])
    assert len(str(folder)) + len(SESSION) <= SOCKET_BYTES
    assert folder.is_dir()
    folder.rmdir()


def test_without_a_short_folder_the_variable_to_set_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * SOCKET_BYTES)
    monkeypatch.setattr(ray_start, "SHORT_FOLDERS", (str(tmp_path / "none"),))
    with pytest.raises(SettingsError, match="set RAY_TMPDIR to a folder with a short name"):
        make_room_for_sockets()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (
            "http://127.0.0.1:8265",
            r"RAY_ADDRESS is 'http://127.0.0.1:8265'; expected host:port or auto; that of `ray job",
        ),
        ("head", "RAY_ADDRESS is 'head'; expected host:port or auto"),
        ("127.0.0.1:99999", r"no Ray answers at RAY_ADDRESS=127.0.0.1:99999"),
    ],
)
def test_what_is_no_address_is_refused(address: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        require_answer(address)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_something_listens_is_taken(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        require_answer(form.format(server.getsockname()[1]))
    require_answer("auto")
