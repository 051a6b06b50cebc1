"""Submits a job to a Ray cluster, follows it, and says what became of it.

    cluster/submit.sh pipeline --source gs://lab/organs --output gs://lab/results/first --num-workers 4 --use-gpu

Reads RAY_API_SERVER_ADDRESS, the Jobs API (http://127.0.0.1:8265 through `ray dashboard ray-cluster.yaml`), and
RAY_AUTH_TOKEN or ~/.ray/auth_token, the cluster's token. Prints the job's output on stdout and its own words on stderr.

The exit code is the job's own. Ray's status of a job can be wrong (ray#65608), so it is 0 only if the completion file
is in storage. A job is submitted under a name that follows from its --output, and refused while one of that name runs.
"""

import asyncio
import hashlib
import importlib
import logging
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import yaml

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from lib.config.base import Settings
    from lib.folders.record import Completion

ROOT = Path(__file__).parents[1]
RUNTIME_ENV = ROOT / "cluster" / "runtime-env.yaml"
API_SERVER = "http://127.0.0.1:8265"
PASSED_ON = (
    "STORAGE_EMULATOR_HOST",
    "DRIVE_API_ENDPOINT",
    "DRIVE_ACKNOWLEDGE_ABUSE",
    "DRIVE_UNITS_PER_MINUTE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
)
"""Variables of this shell that a job gets too. None of them is a secret, and those stay on the nodes."""
RUNNING = {"PENDING", "RUNNING"}
PATIENCE_S = 60.0
"""How long the Jobs API may be unreachable, or say that a job runs whose output has ended."""


class RefusedError(Exception):
    """What was asked for cannot be submitted; the text says why."""


def job_names() -> list[str]:
    """What can be submitted."""
    return sorted(file.stem for file in (ROOT / "jobs").glob("[a-z]*.py"))


def read_settings(job: str, flags: list[str]) -> "Settings":
    """The settings of a job, so that wrong ones are refused here.

    Raises:
        SettingsError: As the job itself would.
    """
    from lib.runs.command_line import parse_settings

    main = importlib.import_module(f"jobs.{job}").main
    settings: Settings = parse_settings(get_type_hints(main)["config"], flags, f"cluster/submit.sh {job}")
    return settings


def run_name(job: str, output: str) -> str:
    """The name of a run: the same for the same job and output, of letters, digits and dashes."""
    words = re.sub(r"[^a-z0-9]+", "-", output.rpartition("://")[2].lower()).strip("-")[-40:].strip("-")
    return f"{job}-{words}-{hashlib.sha256(output.encode()).hexdigest()[:8]}"


def runtime_env() -> dict[str, Any]:
    """The code of this repository, and the environment of a job on every node."""
    environment: dict[str, Any] = yaml.safe_load(RUNTIME_ENV.read_text())
    given = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if "@" in given.get("MLFLOW_TRACKING_URI", ""):
        raise RefusedError("MLFLOW_TRACKING_URI holds a password, which anyone who can see the job could read")
    environment["env_vars"] |= given
    return environment | {"working_dir": str(ROOT)}


def connect() -> "JobSubmissionClient":
    """The Jobs API, with the cluster's token.

    Raises:
        RefusedError: If there is no token, it is another cluster's, or nobody answers.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    address = os.environ.setdefault("RAY_API_SERVER_ADDRESS", API_SERVER)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        detail = "it does not accept that of this shell" if "Invalid" in str(error) else "this shell has none"
        raise RefusedError(
            f"the cluster asks for its token, and {detail}: set RAY_AUTH_TOKEN, or keep it in ~/.ray/auth_token"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise RefusedError(f"no Jobs API found at {address}; see `ray dashboard ray-cluster.yaml`") from error


def submit(client: "JobSubmissionClient", name: str, job: str, flags: list[str]) -> str:
    """Submit a job under the next free number of its name.

    Returns:
        The submission id, such as `train-lab-models-cnn-1f3a5b7c-2`.

    Raises:
        RefusedError: If a job of this name runs, or another submit was quicker.
    """
    earlier = [it for it in client.list_jobs() if re.fullmatch(rf"{name}-\d+", it.submission_id or "")]
    for known in earlier:
        if known.status.value in RUNNING:
            raise RefusedError(
                f"{known.submission_id} writes into this output already: `ray job logs --follow {known.submission_id}` "
                f"shows it, `ray job stop {known.submission_id}` ends it"
            )
    submission = f"{name}-{max((int(it.submission_id.rpartition('-')[2]) for it in earlier), default=0) + 1}"
    entrypoint = shlex.join(["python", "-m", f"jobs.{job}", *flags])
    try:
        return str(client.submit_job(entrypoint=entrypoint, submission_id=submission, runtime_env=runtime_env()))
    except RuntimeError as error:
        if "already" not in str(error):
            raise
        raise RefusedError(f"{submission} was just submitted by somebody else") from error


@dataclass(frozen=True)
class Ending:
    """What Ray says of a job that is over.

    Attributes:
        status: Its word, or `UNKNOWN` where the Jobs API did not answer any more.
        exit_code: Of the job's process; None if Ray does not know.
        message: Why it failed, on one line; empty if it did not.
    """

    status: str
    exit_code: int | None
    message: str = ""


def follow(client: "JobSubmissionClient", submission: str) -> Ending:
    """Print what a job prints until it is over, also if the connection breaks now and then."""
    printed, deadline = 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            seen = asyncio.run(_print_log(client, submission, printed))
            info = client.get_job_info(submission)
        except (OSError, RuntimeError):  # of requests and aiohttp, and what the client makes of other answers
            time.sleep(1)
            continue
        if seen > printed:
            printed, deadline = seen, time.monotonic() + PATIENCE_S
        if info.status.value not in RUNNING:
            failed = info.status.value != "SUCCEEDED"
            code = info.driver_exit_code if failed else 0
            return Ending(info.status.value, code, (info.message or "").partition("\n")[0] if failed else "")
        if info.status.value == "PENDING":
            deadline = time.monotonic() + PATIENCE_S
        time.sleep(0.5)
    return Ending("UNKNOWN", None, "the Jobs API no longer knows it")


async def _print_log(client: "JobSubmissionClient", submission: str, printed: int) -> int:
    """Print a job's log but for its first characters, which were printed before; how many there are in all."""
    seen = 0
    async for text in client.tail_job_logs(submission):
        new = text[max(printed - seen, 0) :]
        seen += len(text)
        sys.stdout.write(new)
        sys.stdout.flush()
    return seen


def completion(job: str, output: str) -> "Completion | None":
    """What the completion file of a job says; None if there is none.

    Raises:
        TissueError: If storage cannot be read from here.
    """
    from lib.folders.markers import JOBS
    from lib.folders.record import Completion
    from lib.storage.location import Location

    return Completion.of(JOBS[job], Location(output))


def judge(ending: Ending, before: "Completion | None", after: "Completion | None") -> tuple[int, str]:
    """What became of a job, by storage rather than by Ray.

    Args:
        ending: What Ray says.
        before: The completion file before the job was submitted.
        after: The same when it was over.

    Returns:
        The exit code and a sentence.
    """
    said = f"Ray says {ending.status}"
    if ending.exit_code is None and after is not None and after != before:
        return 0, f"{said}, but the completion file is there: it is done"
    if ending.exit_code is None:
        return 1, f"{said} ({ending.message}), and there is no new completion file: it is not done"
    if ending.exit_code != 0:
        return ending.exit_code, f"it failed with exit code {ending.exit_code}"
    if after is None:
        return 1, f"{said}, but there is no completion file: it is not done"
    return 0, f"done at {after.completed_at}, by the completion file"


def run(job: str, flags: list[str]) -> int:
    """Submit one job, and follow it to its end."""
    from lib.errors import TissueError
    from lib.folders.markers import JOBS

    output = str(read_settings(job, flags).model_dump()["output"])
    writes = job in JOBS
    before = after = None
    client = connect()
    if writes:
        before = completion(job, output)
    submission = submit(client, run_name(job, output), job, flags)
    say(f"submitted as {submission}")
    try:
        ending = follow(client, submission)
    except KeyboardInterrupt:
        say(f"it keeps running; `ray job stop {submission}` ends it")
        return 130
    if not writes:
        return 1 if ending.exit_code is None else ending.exit_code
    try:
        after = completion(job, output)
    except TissueError as error:
        say(f"error: the state of the run could not be read from storage: {error}")
        return ending.exit_code or 1
    exit_code, sentence = judge(ending, before, after)
    say(f"{submission}: {sentence}")
    if exit_code:
        say(f"see `python -m jobs.status --output {output}`; run the same command again to resume")
    return exit_code


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command's messages


def main(arguments: list[str]) -> int:
    """Submit what the command line names.

    Returns:
        The job's exit code; 2 if it was refused before it was submitted.
    """
    os.environ["RAY_AUTH_MODE"] = "token"  # before `jobs` is imported, which makes a token for a Ray of this machine
    os.environ.pop("RAY_ADDRESS", None)  # Ray would take it for that of the Jobs API
    if not arguments or arguments[0] not in job_names():
        say(f"error: name a job: {', '.join(job_names())}")
        return 2
    from lib.errors import TissueError

    logging.disable(logging.WARNING)  # Ray's client tells of every file that it leaves out
    try:
        return run(arguments[0], arguments[1:])
    except (RefusedError, TissueError) as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
