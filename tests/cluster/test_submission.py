"""Jobs submitted through the Jobs API to a real Ray, with a head that runs no work, a node that does, and a token."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from tests.fakes.gcs import GcsServer, gcs_server
from tests.fakes.jobs import ROOT, run_job, wait_for
from tests.fakes.ray_head import RayHead, jobs_api, ray_head
from tests.fakes.sources import write_source

pytestmark = pytest.mark.slow

MOST_UPLOADED = 5 * 2**20


@dataclass(frozen=True)
class Cluster:
    """A running cluster, and a bucket with a source.

    Attributes:
        head: The head, with one node beside it.
        gcs: Has the bucket.
        source: In the bucket.
    """

    head: RayHead
    gcs: GcsServer
    source: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    source = write_source(tmp_path_factory.mktemp("submitted") / "source", {"liver": 8, "lung": 8})
    with gcs_server() as gcs, ray_head() as head:
        head.add_node("work", cpus=2)
        yield Cluster(head, gcs, gcs.upload(source, "organs"))


def test_what_is_uploaded_is_small_and_holds_the_code_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    assert package.stat().st_size < MOST_UPLOADED
    with zipfile.ZipFile(package) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    assert {"lib/config/base.py", "jobs/convert.py", "lib/report/templates/report.html.j2"} <= set(names)
    assert {name.partition("/")[0] for name in names if "/" in name} == {"lib", "jobs"}
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.timeout(600)
def test_convert_train_and_evaluate_run_on_the_cluster_and_storage_says_that_they_are_done(cluster: Cluster) -> None:
    results = "gs://lab/results"
    jobs = {
        "convert": ("--source", cluster.source, "--image-size", 32),
        "train": ("--dataset", f"{results}/dataset", "--image-size", 32, "--epochs", 2),
        "evaluate": ("--model-dir", f"{results}/model", "--dataset", f"{results}/dataset", "--maps", "pca"),
    }
    outputs = {"convert": "dataset", "train": "model", "evaluate": "evaluation"}
    for job, flags in jobs.items():
        result = cluster.head.submit(job, *flags, "--output", f"{results}/{outputs[job]}", env=cluster.gcs.environment)
        assert result.exit_code == 0, result.stdout[-3000:] + result.stderr
        assert "by the completion file" in result.stderr
        last = next(line for line in reversed(result.stdout.splitlines()) if line.startswith("{"))
        assert json.loads(last)["job"] == job
    status = run_job("status", "--output", results, env=cluster.gcs.environment)
    states = {folder["folder"]: folder["state"] for folder in status.summary["folders"]}
    assert states["dataset"] == states["model"] == states["evaluation"] == "done"


def test_a_job_that_fails_passes_its_exit_code_and_its_line_on(cluster: Cluster) -> None:
    flags = ("--source", "gs://lab/nowhere", "--output", "gs://lab/failed")
    result = cluster.head.submit("convert", *flags, env=cluster.gcs.environment)
    assert result.exit_code == 2
    assert "gs://lab/nowhere is missing or empty" in result.stdout + result.stderr


def test_wrong_settings_are_refused_before_anything_is_submitted(cluster: Cluster) -> None:
    before = jobs_api(cluster.head, "/api/jobs/", cluster.head.token)[1]
    result = cluster.head.submit("convert", "--source", cluster.source, "--output", "gs://lab/x", "--quality", 500)
    assert result.exit_code == 2
    assert "--quality" in result.stderr
    assert jobs_api(cluster.head, "/api/jobs/", cluster.head.token)[1] == before


def test_a_second_submit_into_an_output_that_is_being_written_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    flags = ("convert", "--source", cluster.source, "--output", "gs://lab/twice", "--image-size", 32)
    first = cluster.head.start_submit(*flags, env=cluster.gcs.environment)

    def running() -> bool:
        known = jobs_api(cluster.head, "/api/jobs/", cluster.head.token)[1]
        return any("twice" in job["entrypoint"] and job["status"] in {"PENDING", "RUNNING"} for job in known)

    wait_for(running, "the first is submitted", 60)
    second = cluster.head.submit(*flags, env=cluster.gcs.environment)
    assert second.exit_code == 2
    assert "writes into this output already" in second.stderr
    assert first.communicate(timeout=120)[0]
    assert first.returncode == 0


def test_a_submission_without_the_token_is_refused_with_the_remedy(cluster: Cluster, tmp_path: Path) -> None:
    flags = ("convert", "--source", cluster.source, "--output", "gs://lab/closed")
    for token in ("", "0" * 32):
        result = cluster.head.submit(*flags, env={"RAY_AUTH_TOKEN": token, "HOME": str(tmp_path)})
        assert result.exit_code == 2
        assert "RAY_AUTH_TOKEN" in result.stderr
    assert jobs_api(cluster.head, "/api/jobs/", token=None)[0] == 401
