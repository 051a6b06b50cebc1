"""Environment variables that Ray and TensorFlow read while they are imported, so that they must be set before."""

import os
import secrets

MOST_MEMORY_RETRIES = 3
"""How often a task is tried again that Ray ended since its machine ran out of memory, after 1, 2, 4 ... seconds. Ray
would try for ever, and say nothing."""


def ray_is_ours() -> bool:
    """Whether this process starts a Ray of its own, rather than run as a job of a cluster."""
    return os.environ.get("RAY_ADDRESS", "") in {"", "local"}


def prepare_environment() -> None:
    """Set what is not set already.

    A local Ray gets a token of its own, so that no other user of the machine can use it. A process that runs as a job
    of a cluster finds the cluster's token in its environment.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(MOST_MEMORY_RETRIES))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else one process takes all memory of a shared GPU
    if ray_is_ours():
        # Ray's own switch for laptops with a firewall: its services then listen on loopback only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if ray_is_ours() and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)


JOB_VARIABLE, LOG_FORMAT_VARIABLE = "TISSUE_JOB", "TISSUE_LOG_FORMAT"
"""How workers know the job that they work for. A Ray of ours hands them its own environment;
`lib.runtime.ray_data` gives them to a cluster's."""


def name_job(job: str, log_format: str) -> None:
    """Say which job this process is, and how it and its workers write their logs."""
    os.environ |= {JOB_VARIABLE: job, LOG_FORMAT_VARIABLE: log_format}


def job_variables() -> dict[str, str]:
    """What `name_job` has set, and who pays for reading; empty in a process that is no job."""
    names = (JOB_VARIABLE, LOG_FORMAT_VARIABLE, "GCS_USER_PROJECT")
    return {name: os.environ[name] for name in names if name in os.environ}
