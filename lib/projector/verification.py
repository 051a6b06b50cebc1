"""Asks TensorBoard itself, over HTTP, whether its Projector shows what it should."""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lib.errors import DataError
from lib.projector.points import ProjectorPoints
from lib.projector.run_folder import COLUMNS, TENSOR_NAME
from lib.projector.sprite import columns, thumbnail_side

START_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 120.0
LISTED_TIMEOUT_S = 120.0
"""How long TensorBoard may take to find the run: it lists its folder anew every five seconds."""
POLL_INTERVAL_S = 0.1
ROUTES = "data/plugin/projector/"
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")
AS_USERS_DO = ("-m", "tensorboard.main")
WITHOUT_TENSORFLOW = (
    "-c",
    "import sys; sys.modules['tensorboard.compat.notf'] = sys; from tensorboard.main import run_main; run_main()",
)
"""Has TensorBoard read files by its own functions, as where TensorFlow is not installed: importing that takes 5 s."""
UNIT_TOLERANCE = 1e-3


def verify_projector(logdir: Path, run: str, points: ProjectorPoints) -> None:
    """Start TensorBoard on a folder, see that its Projector serves all points of a run, and end it. Takes 2 s.

    Args:
        logdir: A folder on this machine; it may hold other files and runs.
        run: The run's folder, relative to `logdir`.
        points: What was written to it.

    Raises:
        DataError: If TensorBoard does not start, or does not serve this run as it should.
    """
    with tensorboard(logdir) as address:
        check_routes(address, run, points)


def verify_projector_files(files: Mapping[str, bytes], points: ProjectorPoints) -> None:
    """As `verify_projector`, for a run folder that TensorBoard cannot open where it is: its content, by name.

    Raises:
        DataError: As `verify_projector`.
    """
    with tempfile.TemporaryDirectory(prefix="projector-") as folder:
        run = Path(folder) / "projector"
        run.mkdir()
        for name, content in files.items():
            (run / name).write_bytes(content)
        verify_projector(Path(folder), run.name, points)


@contextmanager
def tensorboard(logdir: Path, start: Sequence[str] = WITHOUT_TENSORFLOW) -> Iterator[str]:
    """TensorBoard on a free port of this machine alone, for as long as the context lasts.

    Args:
        start: What Python is told to run.

    Yields:
        Its address, ending in `/`.

    Raises:
        DataError: If it does not start.
    """
    command = [sys.executable, *start, "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as messages:
        process = subprocess.Popen(  # noqa: S603 - this interpreter
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages
        )
        try:
            yield _address(process, messages)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process: "subprocess.Popen[bytes]", messages: Any) -> str:
    """What TensorBoard says on stderr once it serves."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        messages.seek(0)
        text = messages.read()
        if found := ADDRESS.search(text):
            return found.group()
        if ended:
            last = deque(filter(None, map(str.strip, text.splitlines())), maxlen=1)
            raise DataError(f"TensorBoard ended with code {process.returncode}: {' '.join(last)}")
        time.sleep(POLL_INTERVAL_S)
    raise DataError(f"TensorBoard did not start within {START_TIMEOUT_S:.0f} s")


def check_routes(address: str, run: str, points: ProjectorPoints) -> None:
    """Compare what the Projector's routes serve with what they should.

    Raises:
        DataError: With the route and both counts, if they differ.
    """
    count, dimensions = points.embeddings.shape
    _await_run(address, run)
    info = json.loads(_get(address, "info", run=run))
    embeddings = [one for one in info["embeddings"] if one["tensorName"] == TENSOR_NAME]
    shapes = [one.get("tensorShape") for one in embeddings]
    _expect("info", run, "tensors of shape", shapes, [[count, dimensions]])
    vectors = np.frombuffer(_get(address, "tensor", run=run, name=TENSOR_NAME), np.float32)
    _expect("tensor", run, "numbers", vectors.size, count * dimensions)
    lengths = np.linalg.norm(vectors.reshape(count, dimensions), axis=1)
    unit = np.isclose(lengths, 1, atol=UNIT_TOLERANCE) | (lengths == 0)
    _expect("tensor", run, "vectors of unit length", int(unit.sum()), count)
    header, *rows = _get(address, "metadata", run=run, name=TENSOR_NAME).decode().rstrip("\n").split("\n")
    _expect("metadata", run, "columns", header.split("\t"), list(COLUMNS))
    _expect("metadata", run, "rows", len(rows), count)
    if points.thumbnails is not None:
        _check_sprite(address, run, count, embeddings[0].get("sprite", {}).get("singleImageDim"))


def _check_sprite(address: str, run: str, count: int, thumbnail: list[int] | None) -> None:
    side = thumbnail_side(count)
    _expect("info", run, "a thumbnail of", thumbnail, [side, side])
    data = _get(address, "sprite_image", run=run, name=TENSOR_NAME)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    size = None if image is None else [image.shape[1], image.shape[0]]
    _expect("sprite_image", run, "a picture of", size, [columns(count) * side] * 2)


def _await_run(address: str, run: str) -> None:
    deadline = time.monotonic() + LISTED_TIMEOUT_S
    while run not in (runs := json.loads(_get(address, "runs"))):
        if time.monotonic() > deadline:
            raise DataError(f"TensorBoard's Projector does not list the run {run!r}, only {runs}")
        time.sleep(POLL_INTERVAL_S)


def _expect(route: str, run: str, what: str, served: object, expected: object) -> None:
    if served != expected:
        raise DataError(f"TensorBoard's Projector serves for {run!r} {what} {served}, not {expected} ({ROUTES}{route})")


def _get(address: str, route: str, **query: str) -> bytes:
    url = f"{address}{ROUTES}{route}?{urllib.parse.urlencode(query)}"
    # Straight to this machine, whatever proxy the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=REQUEST_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        reason = error.read(200).decode(errors="replace").split("\n")[0]
        raise DataError(f"TensorBoard's Projector answers {error.code} to {ROUTES}{route}: {reason}") from error
    except OSError as error:
        raise DataError(f"TensorBoard's Projector does not answer {ROUTES}{route}: {error}") from error
