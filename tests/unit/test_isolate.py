"""Decoders in a child process: a crash or a hang is a refusal, the parent goes on, and no process is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import psutil
import pytest

from lib.errors import ImageRefused, TissueError
from lib.ingest.tiff import isolate, samples
from lib.ingest.tiff.decode import decode_tiff
from lib.ingest.tiff.isolate import run_isolated
from tests.fakes.crashes import crash, exhaust, hang
from tests.fakes.tiff_bytes import NOISE, POLICY, refusal_of, segments_of, written

ROOT = Path(__file__).parents[2]
LIMIT_S = 300.0
"""Longer than any call takes here, however busy the machine is."""
NEEDS_CHILD = written(NOISE, compression="packbits")
FIRST_PAGE = int.from_bytes(NEEDS_CHILD[4:8], "little")


def crashing_lzw(seed: int) -> bytes:
    """A stream on which `lzw_decode` of imagecodecs 2026.3.6 writes outside its memory."""
    noise = np.random.default_rng(seed).integers(0, 256, 20_000, dtype=np.uint8)
    return bytes.fromhex("804be040") + bytes(imagecodecs.lzw_encode(noise.tobytes()))[4:]


def end_child() -> None:
    """Make the next call start a new process."""
    with pytest.raises(MemoryError, match="killed"):
        run_isolated(LIMIT_S, signal.raise_signal, signal.SIGKILL)


def test_a_call_gives_the_result_and_the_next_one_is_answered_by_the_same_process() -> None:
    np.testing.assert_array_equal(run_isolated(LIMIT_S, np.flip, NOISE, axis=0), NOISE[::-1])
    child = run_isolated(LIMIT_S, os.getpid)
    assert child == run_isolated(LIMIT_S, os.getpid) != os.getpid()


def test_a_decoder_that_really_crashes_is_a_refusal() -> None:
    codes = set()
    for seed in range(5):
        end_child()  # a write outside of memory does no harm at once where a used process has memory of its own
        with pytest.raises(ImageRefused) as caught:
            run_isolated(LIMIT_S, imagecodecs.lzw_decode, crashing_lzw(seed))
        codes.add(caught.value.code)
        assert run_isolated(LIMIT_S, len, b"abc") == 3
    assert codes <= {"decoder_crashed", "damaged"}
    if imagecodecs.__version__ == "2026.3.6":
        assert "decoder_crashed" in codes


@pytest.mark.parametrize(
    ("decoder", "limit_s", "code"), [(crash, LIMIT_S, "decoder_crashed"), (hang, 0.5, "decoder_timeout")]
)
def test_a_crash_or_hang_refuses_one_image_and_the_next_is_decoded(
    decoder: object, limit_s: float, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(samples, "decode_page", decoder)
        patch.setattr(samples, "ISOLATED_S", limit_s)
        assert refusal_of(NEEDS_CHILD).code == code
    np.testing.assert_array_equal(decode_tiff(NEEDS_CHILD, POLICY), NOISE)


def test_what_the_machine_does_to_the_child_is_no_verdict_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    end_child()
    with pytest.raises(TissueError, match="exit code -15"):
        run_isolated(LIMIT_S, signal.raise_signal, signal.SIGTERM)
    monkeypatch.setattr(samples, "decode_page", exhaust)
    with pytest.raises(MemoryError, match="no room"):
        decode_tiff(NEEDS_CHILD, POLICY)


def test_a_refusal_in_the_child_is_that_refusal_and_any_other_exception_is_damage() -> None:
    with pytest.raises(ImageRefused) as caught:
        run_isolated(LIMIT_S, int, "seven")
    assert (caught.value.code, "ValueError" in caught.value.detail) == ("damaged", True)


@pytest.mark.parametrize("bad", [b"no number", "damaged"])
def test_a_process_that_has_raised_anything_decodes_no_other_image(bad: object) -> None:
    before = run_isolated(LIMIT_S, os.getpid)
    with pytest.raises(ImageRefused):
        run_isolated(LIMIT_S, int, bad)
    after = run_isolated(LIMIT_S, os.getpid)
    assert after == run_isolated(LIMIT_S, os.getpid) != before
    assert not is_running(before)


def test_a_damaged_image_ends_the_process_that_saw_it() -> None:
    np.testing.assert_array_equal(decode_tiff(NEEDS_CHILD, POLICY), NOISE)
    before = run_isolated(LIMIT_S, os.getpid)
    [(offset, size)] = segments_of(NEEDS_CHILD)
    damaged = NEEDS_CHILD[:offset] + b"\x80" * size + NEEDS_CHILD[offset + size :]  # each byte stands for nothing
    assert refusal_of(damaged).code == "damaged"
    assert run_isolated(LIMIT_S, os.getpid) != before
    np.testing.assert_array_equal(decode_tiff(NEEDS_CHILD, POLICY), NOISE)


def test_another_process_is_a_fork_of_one_that_has_imported_the_decoders() -> None:
    """That takes milliseconds, and to import them 0.2 s."""
    end_child()
    run_isolated(LIMIT_S, samples.decode_page, NEEDS_CHILD, 0, FIRST_PAGE)
    forks, parents = set(), set()
    for _ in range(5):
        with pytest.raises(ImageRefused):
            run_isolated(LIMIT_S, samples.decode_page, b"II", 0, 0)
        forks.add(run_isolated(LIMIT_S, os.getpid))
        parents.add(run_isolated(LIMIT_S, os.getppid))
    assert (len(forks), len(parents)) == (5, 1)


def test_a_crash_on_a_busy_machine_is_no_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the child takes to tell how its fork ended, as where a core of 2 GB is written."""
    monkeypatch.setattr(isolate, "TO_END_S", 0.1)
    end_child()
    with ThreadPoolExecutor(1) as there, stopped(run_isolated(LIMIT_S, os.getppid), 1):
        call = there.submit(run_isolated, LIMIT_S, os.abort)
        with pytest.raises(ImageRefused, match="SIGABRT"):
            call.result()


@contextmanager
def stopped(process: int, seconds: float) -> Iterator[None]:
    """Let a process stand still for so long."""
    os.kill(process, signal.SIGSTOP)
    waking = threading.Timer(seconds, os.kill, [process, signal.SIGCONT])
    waking.start()
    yield
    waking.join()


def test_threads_wait_for_each_other() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda number: run_isolated(LIMIT_S, abs, -number), range(64))) == list(range(64))


def test_a_child_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    end_child()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TissueError, match="did not start"):
        run_isolated(LIMIT_S, len, b"")


def test_a_fork_has_a_child_of_its_own() -> None:
    script = """
import os
from multiprocessing import get_context
from lib.ingest.tiff.isolate import run_isolated

def child(_):
    return os.getpid(), run_isolated(300, os.getpid)

if __name__ == "__main__":
    mine = run_isolated(300, os.getpid)
    with get_context("fork").Pool(2) as pool:
        pairs = set(pool.map(child, range(8), chunksize=1))
    assert run_isolated(300, os.getpid) == mine
    assert mine not in {decoder for _, decoder in pairs}
    assert len({decoder for _, decoder in pairs}) == len({worker for worker, _ in pairs})
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, check=True, timeout=600)


@pytest.mark.parametrize(
    "end",
    [
        "raise SystemExit",
        "os._exit(1)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "threading.Timer(0.3, os._exit, [1]).start(); run_isolated(1, time.sleep, 60)",
    ],
)
def test_no_child_outlives_its_parent(end: str) -> None:
    script = (
        "import os, signal, threading, time\n"
        "from lib.ingest.tiff.isolate import run_isolated\n"
        "print(run_isolated(300, os.getpid), run_isolated(300, os.getppid), flush=True)\n" + end
    )
    parent = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert parent.stderr == ""
    deadline = time.monotonic() + 300
    while any(is_running(int(process)) for process in parent.stdout.split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
