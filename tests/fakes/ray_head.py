"""A Ray cluster as `ray start` makes it: a head with a dashboard, a Jobs API and a token, and nodes on this machine."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any

import psutil

from tests.fakes.jobs import FOREIGN_VARIABLES, JOB_TIMEOUT_S, ROOT, JobResult, kill_family, wait_for

PORTS = range(20_000, 30_000)
"""Above those of Ray's workers, below those that the kernel gives away."""
STORE = 80 * 2**20


@dataclass
class RayHead:
    """A running head.

    Attributes:
        address: Of its GCS: host and port.
        api: The Jobs API.
        token: What the cluster asks for.
        folder: Where it writes.
        environment: Of its processes.
        pids: The processes that we started, by the name of their node.
        processes: The same ones, so that they are waited for.
    """

    address: str
    api: str
    token: str
    folder: Path
    environment: dict[str, str]
    pids: dict[str, int] = field(default_factory=dict)
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def client(self) -> dict[str, str]:
        """What a shell needs to submit."""
        return {"RAY_API_SERVER_ADDRESS": self.api, "RAY_AUTH_TOKEN": self.token}

    def add_node(self, name: str, *flags: str, cpus: int = 1) -> None:
        """Start a node."""
        size = (f"--num-cpus={cpus}", f"--object-store-memory={STORE}")
        self._start(name, "--address", self.address, *size, *flags)
        wait_for(lambda: self.node_id(name) is not None, f"node {name} is up")

    def node_id(self, name: str) -> str | None:
        """How Ray names a node of ours, once its raylet runs."""
        for process in psutil.Process(self.pids[name]).children(recursive=True):
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if command and Path(command[0]).name == "raylet":
                return next(word.removeprefix("--node_id=") for word in command if word.startswith("--node_id="))
        return None

    def submit(
        self, *command: object, env: Mapping[str, str] | None = None, timeout: float = JOB_TIMEOUT_S
    ) -> JobResult:
        """`cluster/submit.sh JOB ARGS...` to its end, in a shell that has the token."""
        process = self.start_submit(*command, env=env)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:
                kill_family(process.pid)
                process.communicate()
        return JobResult(process.returncode, stdout, stderr)

    def start_submit(self, *command: object, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start `cluster/submit.sh`."""
        return subprocess.Popen(
            [str(ROOT / "cluster" / "submit.sh"), *map(str, command)],
            cwd=self.folder,
            env=plain_environment() | self.client | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _start(self, name: str, *flags: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *flags, "--block"]
        with (self.folder / f"{name}.log").open("w") as log:
            started = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pids[name] = started.pid
        self.processes.append(started)


def plain_environment() -> dict[str, str]:
    """This process's, without its own Ray and its token."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN_VARIABLES and not name.startswith("RAY_")
    }
    return ours | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def free_port() -> int:
    """A port on loopback that nobody listens on at this moment."""
    random = SystemRandom()
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@contextmanager
def ray_head(*flags: str, port: int | None = None, env: Mapping[str, str] | None = None) -> Iterator[RayHead]:
    """Start a head that runs no work, as that of ray-cluster.yaml, and end it with all its nodes.

    Args:
        flags: More of `ray start`.
        port: Of its GCS; by default one that is free.
        env: More environment of its processes.
    """
    folder = Path(tempfile.mkdtemp(prefix="rh", dir="/tmp"))  # sockets have short names
    token, port, api = secrets.token_hex(16), port or free_port(), free_port()
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
    }
    head = RayHead(
        f"127.0.0.1:{port}", f"http://127.0.0.1:{api}", token, folder, plain_environment() | own | dict(env or {})
    )
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_end, head)
        head._start(
            *("head", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0", "--num-gpus=0"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={api}", "--include-dashboard=true"),
            *(f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"),
            *(f"--object-store-memory={STORE}", f"--temp-dir={folder / 'ray'}", *flags),
        )
        wait_for(lambda: _answers(head), "the Jobs API answers")
        yield head


def jobs_api(head: RayHead, path: str, token: str | None) -> tuple[int, Any]:
    """Ask the Jobs API without Ray: the HTTP status and the answer, if it is JSON."""
    import urllib.error
    import urllib.request

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{head.api}{path}", headers=headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


def _answers(head: RayHead) -> bool:
    time.sleep(0.2)
    assert psutil.pid_exists(head.pids["head"]), (head.folder / "head.log").read_text()
    try:
        return jobs_api(head, "/api/jobs/", head.token)[0] == 200
    except OSError:
        return False


def _end(head: RayHead) -> None:
    for process in reversed(head.processes):
        if process.poll() is None:
            kill_family(process.pid)
        process.wait()
