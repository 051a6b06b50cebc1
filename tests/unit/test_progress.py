"""Progress: plain lines in a log, one live line on a terminal."""

import io
import logging
from types import SimpleNamespace

import pytest

from lib.runtime.logs import NUMBERS
from lib.runtime.progress import LOG_INTERVAL_S, Progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, logger="lib.runtime.progress")
    clock = Clock()
    monkeypatch.setattr("lib.runtime.progress.time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_a_log_gets_a_line_every_interval_with_what_is_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("convert", 100) as progress:
        clock.now_s += LOG_INTERVAL_S - 1
        progress.advance(9)
        assert caplog.messages == []
        clock.now_s += 1
        progress.advance(11)
        assert caplog.messages == ["convert: 20 of 100 images, 2/s, 40 s left"]
        clock.now_s += LOG_INTERVAL_S - 1
        progress.advance(1)
        assert len(caplog.messages) == 1


def test_how_it_goes_at_the_moment_stands_in_the_line_until_all_is_done(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("train cnn", 100) as progress:
        progress.describe("epoch 3 of 20, 412 images/s, 8 % waiting for images", {"wait_share": 0.08})
        clock.now_s += LOG_INTERVAL_S
        progress.advance(20)
        progress.advance(80)
    now, end = caplog.messages
    assert now == "train cnn: 20 of 100 images, 2/s, 40 s left; epoch 3 of 20, 412 images/s, 8 % waiting for images"
    assert [getattr(record, NUMBERS).get("wait_share") for record in caplog.records] == [0.08, None]
    assert end == "train cnn: 100 of 100 images, 10/s, in 10.0 s"


def test_the_last_line_has_the_totals(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("sample", 30, unit="files") as progress:
        clock.now_s += 4
        progress.advance(10)
        progress.advance_to(30)
        clock.now_s += 1
    assert caplog.messages == ["sample: 30 of 30 files, 6/s, in 5.0 s"]
    assert (progress.seconds, progress.rate) == (5, 6)


def test_where_there_is_no_terminal_nothing_is_drawn(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("convert", 2) as progress:
        progress.note("a line")
        progress.advance(2)
        clock.now_s += 1
    assert capfd.readouterr() == ("", "")


def test_a_note_goes_to_the_log(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    Progress("train", 2).note("epoch 1: [loss] 0.5")
    assert caplog.messages == ["train: epoch 1: [loss] 0.5"]
    assert clock.now_s == 1000


def test_a_stage_that_fails_does_not_end_with_totals(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    clock.now_s += 1
    with pytest.raises(OSError, match="gone"), Progress("convert", 2):
        raise OSError("gone")
    assert caplog.messages == []


@pytest.mark.parametrize(("total", "done"), [(0, 0), (5, 0), (5, 5)])
@pytest.mark.usefixtures("clock")
def test_no_time_and_no_rows_are_not_divided_by(total: int, done: int, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("predict", total) as progress:
        progress.advance(done)
    (line,) = caplog.messages
    assert line.startswith(f"predict: {done} of {total} images, ")


def test_a_terminal_gets_one_live_line_and_the_log_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="lib.runtime.progress")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("convert", 7) as progress:
        progress.note("a [note]")
        progress.describe("epoch 1 of 2", {})
        progress.advance(7)
    assert caplog.messages == []
    assert "convert" in terminal.getvalue()
    assert "7/7" in terminal.getvalue()
    assert "epoch 1 of 2" in terminal.getvalue()
    assert "a [note]" in terminal.getvalue()
