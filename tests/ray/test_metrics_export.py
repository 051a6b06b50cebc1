"""What Prometheus reads from a real Ray, and what the workers of a job write into its logs."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib.config.conversion import ConvertConfig
from lib.errors import StorageError
from lib.ingest.convert import convert_images
from lib.runtime import counters as metrics
from lib.runtime.environment import JOB_VARIABLE, LOG_FORMAT_VARIABLE, name_job
from lib.runtime.logs import join_stage
from lib.storage.drive.limiter import ClusterBucket
from lib.storage.faults import RetryPolicy, TransientStorageError
from tests.fakes.cluster import ray_cluster
from tests.fakes.sources import damage, write_source

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
JOB = "convert"
Scrape = Callable[[metrics.Metric], dict[frozenset[tuple[str, str]], float]]


@pytest.fixture(scope="module")
def port(no_ray: None) -> Iterator[int]:
    import ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JOB_VARIABLE, "")
        patch.setenv(LOG_FORMAT_VARIABLE, "")
        name_job(JOB, "json")
        options = {"_metrics_export_port": number, "_system_config": {"metrics_report_interval_ms": 300}}
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address="local", num_cpus=2, **quiet, **options)
        yield number
        ray.shutdown()


@pytest.fixture
def scrape(port: int) -> Scrape:
    def scrape(metric: metrics.Metric) -> dict[frozenset[tuple[str, str]], float]:
        """The values of a metric by its own tags, summed over processes."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        values: dict[frozenset[tuple[str, str]], float] = {}
        for labels, value in (
            match.groups() for match in map(re.compile(rf"ray_{metric.name}{{(.*)}} (\S+)$").match, lines) if match
        ):
            tags = frozenset(tag for tag in re.findall(r'(\w+)="([^"]*)"', labels) if tag[0] in metric.tags)
            values[tags] = values.get(tags, 0) + float(value)
        return values

    return scrape


def wait_for(scrape: Scrape, metric: metrics.Metric, wanted: dict[frozenset[tuple[str, str]], float]) -> None:
    deadline = time.monotonic() + 300
    while (found := scrape(metric)) != wanted:
        assert time.monotonic() < deadline, f"{metric.name} is {found}"
        time.sleep(0.3)


def of(**tags: str) -> frozenset[tuple[str, str]]:
    return frozenset(tags.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, by Ray
def test_images_of_a_conversion_are_counted_by_verdict(scrape: Scrape, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", {"liver": 8, "lung": 8}, test_per_class=2)
    damage(source / "train" / "lung" / "lung_train_003.tif")
    settings = {"image_size": 32, "images_per_shard": 4, "max_bad_fraction": 1}
    counts = convert_images(ConvertConfig(source=str(source), output=str(tmp_path / "out"), **settings)).counts
    assert (counts.accepted, counts.quarantined) == (19, 1)
    tags = {"job_name": JOB, "stage": "convert"}
    verdicts = {of(**tags, verdict=verdict): getattr(counts, verdict) for verdict in ("accepted", "quarantined")}
    wait_for(scrape, metrics.IMAGES, verdicts)


def test_an_epoch_sets_rate_and_wait_share(scrape: Scrape) -> None:
    metrics.count_epoch(120, 40.5, 0.25)
    tags = of(job_name=JOB, stage="train")
    wait_for(scrape, metrics.IMAGES_PER_SECOND, {tags: 40.5})
    wait_for(scrape, metrics.WAIT_SHARE, {tags: 0.25})


def test_a_gpu_is_shown_as_far_as_it_tells(scrape: Scrape) -> None:
    metrics.show_gpu(None, 3 * 2**30)
    wait_for(scrape, metrics.GPU_MEMORY, {of(job_name=JOB, stage="train"): 3 * 2**30})
    assert scrape(metrics.GPU_UTILISATION) == {}


def test_retries_and_drive_units_of_workers_are_counted(scrape: Scrape) -> None:
    import ray

    def work() -> None:
        def fail() -> None:
            raise TransientStorageError("half a file")

        with pytest.raises(StorageError):
            RetryPolicy(attempts=3, first_delay_s=0.01).run(fail, "read gs://lab/x")
        ClusterBucket("counted", 60_000).lease(300)

    ray.get(ray.remote(work).remote())
    wait_for(scrape, metrics.STORAGE_RETRIES, {of(reason="damaged"): 2})
    wait_for(scrape, metrics.DRIVE_UNITS, {of(): 300})


def test_the_lines_of_a_worker_are_json_in_rays_log_of_its_node(port: int) -> None:
    import ray
    from ray._private.worker import global_worker

    def work() -> int:
        for _ in range(2):
            join_stage("convert")
        logging.getLogger("lib.storage").info("again in %d s", 3)
        return os.getpid()

    pid = ray.get(ray.remote(work).remote())
    logs = Path(global_worker.node.get_session_dir_path()) / "logs"
    lines = [line for path in logs.glob(f"worker-*-{pid}.err") for line in path.read_text().splitlines()]
    records = [json.loads(line) for line in lines if line.startswith('{"time": ')]
    (record,) = [record for record in records if record["message"] == "again in 3 s"]
    assert (record["job"], record["stage"], record["pid"], record["severity"]) == (JOB, "convert", pid, "INFO")


DRIVER = """
import os
from lib.runtime.environment import name_job, prepare_environment
prepare_environment()
name_job("predict", "json")
from lib.config.base import JobConfig
from lib.runtime.ray_data import start_ray
start_ray(JobConfig())
import ray
print(*ray.get(ray.remote(lambda: [os.environ["TISSUE_JOB"], os.environ["TISSUE_LOG_FORMAT"]]).remote()))
"""


def test_workers_of_a_cluster_know_the_job_that_they_work_for() -> None:
    variables = {name: value for name, value in os.environ.items() if name not in (JOB_VARIABLE, LOG_FORMAT_VARIABLE)}
    with ray_cluster({}, nodes=1) as cluster:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER],
            cwd=ROOT,
            env=variables | cluster.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    assert done.stdout.split() == ["predict", "json"], done.stderr
