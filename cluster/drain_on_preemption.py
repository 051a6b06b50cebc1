"""Tells Ray that this machine is about to be taken away, so that its work leaves in time.

    python drain_on_preemption.py                            # waits for Google's notice, then drains this node
    python drain_on_preemption.py --now --deadline-seconds 14  # drains at once and waits: Kubernetes' preStop hook

Google gives a spot machine 30 seconds, and Ray does not look for the notice. Ray starts nothing on a draining node, and
Ray Train saves a checkpoint and goes on elsewhere. It runs on the node, in the container of its raylet, and needs only
Python's standard library and the `ray` of the same Python. The exit code is 1 only if draining was tried in vain.

Source: https://cloud.google.com/compute/docs/instances/create-use-spot and .../metadata/getting-live-migration-notice
"""

import argparse
import http.client
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

METADATA_HOST = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
"""As Google's own libraries name it: a host, or host:port."""
PREEMPTED, MAINTENANCE = "preempted", "maintenance-event"
POLL_SECONDS = 10
"""How long the server may hold a request while nothing changes."""
ATTEMPTS = 5
"""How often an address without an answer is tried before this is taken for a machine outside Google's cloud."""
SPOT_SECONDS = 25
"""What is left of the 30 seconds when this is noticed."""
MAINTENANCE_SECONDS = 3600
"""Machines with a GPU are told of maintenance an hour before."""

logger = logging.getLogger("drain_on_preemption")


@dataclass(frozen=True)
class Notice:
    """Why the machine goes, and in how many seconds."""

    message: str
    seconds: int


class NoMetadataServerError(Exception):
    """What answers is not Google's metadata server, or one that does not tell of preemption."""


class MetadataServerError(OSError):
    """Google's metadata server answers with an error, as it does for a moment while the host is under maintenance."""


def read_metadata(key: str, *, last_etag: str | None = None) -> tuple[str, str]:
    """Read a value of this machine.

    Args:
        key: Below `instance/`.
        last_etag: If given, the answer comes when the value is no longer that of this etag, or after `POLL_SECONDS`.
            No change can be missed between two calls in this way; "0" is no value's etag.

    Returns:
        The value and its etag.

    Raises:
        NoMetadataServerError: If it is not Google's metadata server, or does not know the key.
        MetadataServerError: If it answers with an error.
        OSError: If it cannot be reached.
        http.client.HTTPException: If its answer is not HTTP.
    """
    path = f"/computeMetadata/v1/instance/{key}"
    if last_etag is not None:
        path += f"?wait_for_change=true&timeout_sec={POLL_SECONDS}&last_etag={last_etag}"
    connection = http.client.HTTPConnection(METADATA_HOST, timeout=POLL_SECONDS + 5)
    try:
        connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
        answer = connection.getresponse()
        body = answer.read().decode()
    finally:
        connection.close()
    if answer.getheader("Metadata-Flavor") != "Google":
        raise NoMetadataServerError(f"{METADATA_HOST} is not Google's metadata server")
    if answer.status == http.client.NOT_FOUND:
        raise NoMetadataServerError(f"{METADATA_HOST} does not know instance/{key}")
    if answer.status != http.client.OK:
        raise MetadataServerError(f"HTTP {answer.status}")
    return body.strip(), answer.getheader("ETag", "0")


def wait_for_notice(pause_s: float = 1.0) -> Notice:
    """Wait until Google tells that it takes this machine, however often the metadata server fails in between.

    Args:
        pause_s: Seconds between an error and the next attempt.

    Raises:
        NoMetadataServerError: If there is none.
    """
    reached, failures, etag = False, 0, "0"
    while True:
        try:
            preempted, etag = read_metadata(PREEMPTED, last_etag=etag)
            reached, failures = True, 0
            if preempted == "TRUE":
                return Notice("Google reclaims this spot machine", SPOT_SECONDS)
            if read_metadata(MAINTENANCE)[0] == "TERMINATE_ON_HOST_MAINTENANCE":
                return Notice("Google ends this machine for maintenance of its host", MAINTENANCE_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            failures, reached = failures + 1, reached or isinstance(error, MetadataServerError)
            if failures >= ATTEMPTS and not reached:
                raise NoMetadataServerError(f"{METADATA_HOST} cannot be reached: {error}") from error
            logger.warning("%s does not answer (%s); trying again", METADATA_HOST, error)
            time.sleep(pause_s)


def nodes_here(processes: Path = Path("/proc")) -> list[str]:
    """The hexadecimal ids of the Ray nodes whose raylet runs here, as their command lines have them."""
    found = []
    for file in processes.glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # the process has ended meanwhile
            continue
        if Path(command[0]).name == "raylet":
            found += [it.removeprefix("--node_id=") for it in command if it.startswith("--node_id=")]
    return sorted(found)


def drain(node: str, notice: Notice, address: str | None, pause_s: float = 1.0) -> bool:
    """Tell Ray that a node goes, again and again until it is told or the time is over.

    Args:
        node: Its id.
        notice: Why, and in how many seconds from now.
        address: Host and port of the cluster; by default what `RAY_ADDRESS` says, or the cluster of this machine.
        pause_s: Seconds between two attempts.

    Returns:
        Whether Ray was told.
    """
    deadline = time.monotonic() + notice.seconds
    while (left := int(deadline - time.monotonic())) > 0:
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", node]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.message]
        command += ["--deadline-remaining-seconds", str(left), *(["--address", address] if address else [])]
        try:
            subprocess.run(command, check=True, timeout=left, stdout=subprocess.DEVNULL)  # noqa: S603 (all our own)
        except (subprocess.SubprocessError, OSError) as error:
            logger.warning("node %s could not be drained: %s", node, error)
            time.sleep(pause_s)
        else:
            logger.warning("node %s drains: %s, %d s are left", node, notice.message, left)
            return True
    return False


def wait_until_gone(node: str, deadline: float) -> None:
    """Wait for the end of a node's raylet, which is when its work has left, until a time of `time.monotonic`."""
    while node in nodes_here() and time.monotonic() < deadline:
        time.sleep(0.2)


def main(arguments: list[str]) -> int:
    """Wait for the notice, or take it as given, and drain this machine's node."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--address", help="host:port of the cluster; by default RAY_ADDRESS or this machine's")
    parser.add_argument("--node-id", help="by default the one node whose raylet runs here")
    parser.add_argument("--now", action="store_true", help="do not wait for a notice, but for the end of the raylet")
    parser.add_argument("--deadline-seconds", type=int, default=SPOT_SECONDS, help="with --now")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    try:
        notice = Notice("this pod ends", options.deadline_seconds) if options.now else wait_for_notice()
    except NoMetadataServerError as error:
        logger.info("nothing to watch: %s", error)
        return 0
    deadline = time.monotonic() + notice.seconds
    nodes = [options.node_id] if options.node_id else nodes_here()
    if not nodes:
        logger.info("no Ray node runs here: nothing to drain")
        return 0
    told = [drain(node, notice, options.address) for node in nodes]
    if options.now:
        for node in nodes:
            wait_until_gone(node, deadline)
    return 0 if all(told) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
