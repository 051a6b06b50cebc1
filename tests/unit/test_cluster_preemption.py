"""The watcher for Google's notice that it takes a machine: what it waits for, what it retries, and when it gives up."""

import logging
import re
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import drain_on_preemption as watcher
from cluster.drain_on_preemption import NoMetadataServerError, Notice, drain, main, nodes_here, wait_for_notice
from tests.fakes.jobs import wait_for
from tests.fakes.metadata_server import MetadataServer, metadata_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataServer]:
    monkeypatch.setattr(watcher, "POLL_SECONDS", 0.1)
    with metadata_server() as fake:
        monkeypatch.setattr(watcher, "METADATA_HOST", fake.host)
        yield fake


class Waiting:
    """A watcher that waits, in a thread of its own."""

    def __init__(self) -> None:
        self.notice: Notice | None = None
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self.notice = wait_for_notice(pause_s=0.01)

    def end(self) -> Notice | None:
        self._thread.join()
        return self.notice


def wait_until_asked(server: MetadataServer, times: int) -> None:
    wait_for(lambda: len(server.asked) >= times, f"the server is asked {times} times")


def test_a_spot_machine_is_left_at_once_when_google_takes_it(server: MetadataServer) -> None:
    waiting = Waiting()
    wait_until_asked(server, 3)
    assert waiting.notice is None
    server.set("preempted", "TRUE")
    assert waiting.end() == Notice("Google reclaims this spot machine", 25)


def test_a_change_between_two_requests_is_not_missed(server: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_SECONDS", 3600)  # the test would not end if the second request had to wait
    _, etag = watcher.read_metadata("preempted", last_etag="0")
    server.set("preempted", "TRUE")
    assert watcher.read_metadata("preempted", last_etag=etag)[0] == "TRUE"


def test_an_unchanged_value_is_waited_for(server: MetadataServer) -> None:
    _, etag = watcher.read_metadata("preempted", last_etag="0")
    start = time.monotonic()
    assert watcher.read_metadata("preempted", last_etag=etag) == ("FALSE", etag)
    assert time.monotonic() - start >= 0.1


def test_maintenance_that_ends_a_machine_is_a_notice_and_one_that_moves_it_is_none(server: MetadataServer) -> None:
    server.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
    waiting = Waiting()
    wait_until_asked(server, 4)
    assert waiting.notice is None
    server.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
    assert waiting.end() == Notice("Google ends this machine for maintenance of its host", 3600)


def test_errors_of_the_metadata_server_are_retried_however_many_come(server: MetadataServer) -> None:
    server.failures = [503] * 20
    server.set("preempted", "TRUE")
    assert wait_for_notice(pause_s=0.001).seconds == 25
    assert len(server.asked) == 21


def test_a_metadata_server_that_was_there_and_is_gone_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "POLL_SECONDS", 0.1)
    with metadata_server() as first:
        monkeypatch.setattr(watcher, "METADATA_HOST", first.host)
        waiting = Waiting()
        wait_until_asked(first, 2)
    time.sleep(0.3)  # some twenty attempts in vain, fewer on a busy machine
    with metadata_server() as second:
        second.set("preempted", "TRUE")
        monkeypatch.setattr(watcher, "METADATA_HOST", second.host)
        assert waiting.end() == Notice("Google reclaims this spot machine", 25)


def test_outside_googles_cloud_the_watcher_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        monkeypatch.setattr(watcher, "METADATA_HOST", f"127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setattr(watcher.time, "sleep", lambda _: None)
        with caplog.at_level(logging.INFO):
            assert main([]) == 0
    assert "nothing to watch" in caplog.messages[-1]
    assert "cannot be reached" in caplog.messages[-1]


def test_another_server_at_that_address_is_not_believed(server: MetadataServer) -> None:
    server.flavor = "Other"
    server.set("preempted", "TRUE")
    with pytest.raises(NoMetadataServerError, match="is not Google's metadata server"):
        wait_for_notice()


def test_a_metadata_server_that_tells_nothing_of_preemption_ends_the_watcher(server: MetadataServer) -> None:
    server.forget("preempted")
    with pytest.raises(NoMetadataServerError, match="does not know instance/preempted"):
        wait_for_notice()


def test_the_node_of_this_machine_is_found_by_its_raylet(tmp_path: Path) -> None:
    commands = {
        "12": ["/x/ray/core/src/ray/raylet/raylet", "--store_socket_name=s", "--node_id=abc1"],
        "13": ["/usr/bin/python", "agent.py", "--node-id=abc1", "--node_id=abc2"],
        "14": [""],
        "self": ["/x/raylet", "--node_id=abc3"],
    }
    for process, command in commands.items():
        (tmp_path / process).mkdir()
        (tmp_path / process / "cmdline").write_bytes("\0".join(command).encode() + b"\0")
    (tmp_path / "15").mkdir()  # a process that has just ended
    assert nodes_here(tmp_path) == ["abc1"]


def ray_that_fails(folder: Path, times: int) -> tuple[Path, Path]:
    """A program that fails some times, as `ray drain-node` may, and writes down what it was asked."""
    program, asked = folder / "ray", folder / "asked"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\ntest $(wc -l < {asked}) -gt {times}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program, asked


def test_draining_is_tried_until_ray_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, asked = ray_that_fails(tmp_path, times=2)
    monkeypatch.setattr(sys, "executable", str(program))
    assert drain("abc1", Notice("it goes", 2999), "10.0.0.1:6379", pause_s=0.01)
    *_, last = asked.read_text().splitlines()
    assert len(asked.read_text().splitlines()) == 3
    flags = "--node-id abc1 --reason DRAIN_NODE_REASON_PREEMPTION --reason-message it goes"
    in_time = r"--deadline-remaining-seconds 2\d\d\d --address 10\.0\.0\.1:6379"
    assert re.fullmatch(f"-m ray.scripts.scripts drain-node {flags} {in_time}", last)


def test_draining_in_vain_ends_with_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = ray_that_fails(tmp_path, times=10**6)
    monkeypatch.setattr(sys, "executable", str(program))
    start = time.monotonic()
    assert not drain("abc1", Notice("it goes", 2), None, pause_s=0.1)
    assert time.monotonic() - start >= 1
    assert main(["--now", "--deadline-seconds", "2", "--node-id", "abc1"]) == 1


def test_where_no_node_runs_there_is_nothing_to_drain(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watcher, "nodes_here", list)
    with caplog.at_level(logging.INFO):
        assert main(["--now"]) == 0
    assert "nothing to drain" in caplog.messages[-1]
