"""Jobs whose source is in the cloud: a worker, a node or the job is killed while it waits for an image.

They go on where they stopped, and lose and double nothing. The server lets a number of images through and keeps the
next ones waiting until something was killed, so what is running at that moment is known, and its log tells which images
were fetched a second time.
"""

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from lib.config.conversion import ConvertConfig
from lib.runs.command_line import parse_settings
from tests.fakes.chain import Chain
from tests.fakes.cluster import RayCluster, ray_cluster
from tests.fakes.conversion import convert_here
from tests.fakes.datasets import assert_complete, completed_verdicts, files_below
from tests.fakes.drive import FakeDrive, drive_server
from tests.fakes.gcs import GcsServer, gcs_server
from tests.fakes.jobs import (
    job_beside,
    job_here,
    kill_job,
    start_job,
    task_workers,
    wait_for,
    wait_for_file,
    wait_until,
)
from tests.fakes.proxy import FaultyProxy, faulty_proxy
from tests.fakes.sources import damage, write_source
from tests.fakes.storage import ray_with_storage_here, storage_here

pytestmark = pytest.mark.slow

IMAGES, PER_UNIT = 48, 4
FLAGS = ("--image-size", 32, "--tiff-range", "0:255", "--max-bad-fraction", 0.1)
DOWNLOAD = r"GET .*/o/organs/.*alt=media"
LET_THROUGH = 4 * PER_UNIT
WAIT_S = 55.0
"""Longest that a request to Drive is kept waiting; less than what is taken for a stalled connection."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which one is damaged, and a file that is none."""
    folder = write_source(
        tmp_path_factory.mktemp("cloud") / "source", {"liver": 20, "lung": 20}, test_per_class=4, size=32
    )
    damage(folder / "train" / "lung" / "lung_train_003.tif")
    (folder / "train" / "liver" / "notes.txt").write_text("taken on a Monday")
    return folder


@pytest.fixture(scope="module")
def gcs(source: Path) -> Iterator[GcsServer]:
    with gcs_server() as server:
        server.upload(source, "organs")
        yield server


@pytest.fixture(scope="module")
def proxy(gcs: GcsServer) -> Iterator[FaultyProxy]:
    with faulty_proxy(gcs.url) as proxy:
        yield proxy


@pytest.fixture
def log(proxy: FaultyProxy) -> FaultyProxy:
    proxy.heal()
    return proxy


def fetched(proxy: FaultyProxy) -> Counter[str]:
    """How often each image was asked for."""
    return Counter(re.search(r"/o/organs/(.*)\?", request.target)[1] for request in proxy.matching(DOWNLOAD))  # type: ignore[index]


def images_below(source: Path) -> list[str]:
    return [name for name in files_below(source) if name.endswith(".tif")]


def waiting_workers(proxy: FaultyProxy, *parents: int) -> list[psutil.Process]:
    """The processes that run tasks below each of some others, if every one of them waits for its image; or else none.

    To be asked once the images that were let through are done: then nothing changes while it looks.
    """
    running = [task_workers(parent) for parent in parents]
    workers = list(itertools.chain(*running))
    return workers if all(running) and len(workers) == len(proxy.under_way(DOWNLOAD)) else []


@pytest.fixture(scope="module")
def ray_here(proxy: FaultyProxy) -> Iterator[None]:
    """A Ray of this process, whose workers find the bucket behind the proxy."""
    with ray_with_storage_here({"STORAGE_EMULATOR_HOST": proxy.url}):
        yield


@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_is_replaced_and_only_its_image_is_fetched_again(
    log: FaultyProxy, source: Path, tmp_path: Path
) -> None:
    output, let_through = tmp_path / "dataset", 8
    flags = ("--source", "gs://lab/organs", "--output", output, "--images-per-shard", 1, *FLAGS)
    log.fail("hold", DOWNLOAD, skip=let_through)
    with job_beside("convert", *flags) as job:
        try:
            wait_until(
                job, lambda: len(list(output.glob("images/*.parquet"))) == let_through, "what was let through is done"
            )
            workers = wait_until(job, lambda: waiting_workers(log, os.getpid()), "every worker waits for an image")
            workers[0].kill()
        finally:
            log.end_faults()

    assert job.result()["accepted"] == IMAGES - 1
    assert_complete(output, source)
    counts = fetched(log)
    assert sorted(counts) == images_below(source)
    assert sorted(counts.values()) == [1] * (IMAGES - 1) + [2]


def interrupt(log: FaultyProxy, job: str, flags: tuple[object, ...], finished: str, output: Path) -> dict[str, int]:
    """Kill a job that waits for an image, and say which files that match it had finished, and when."""
    log.fail("hold", DOWNLOAD, skip=LET_THROUGH)
    process = start_job(job, *flags, env={"STORAGE_EMULATOR_HOST": log.url})
    try:
        wait_for_file(process, output, finished)
        wait_until(process, lambda: bool(log.under_way(DOWNLOAD)), "it waits for an image")
    finally:
        kill_job(process)
    log.heal()
    files = {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in output.glob(finished)}
    assert 0 < len(files) <= LET_THROUGH // PER_UNIT
    return files


def test_a_killed_conversion_on_a_disk_goes_on_and_has_each_image_once(
    log: FaultyProxy, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "dataset"
    flags = ("--source", "gs://lab/organs", "--output", output, "--images-per-shard", PER_UNIT, *FLAGS)
    finished = interrupt(log, "convert", flags, "images/*.parquet", output)
    done = done_before(output)
    with storage_here({"STORAGE_EMULATOR_HOST": log.url}):
        settings = parse_settings(ConvertConfig, list(map(str, flags)), "convert")
        assert convert_here(settings).counts.accepted == IMAGES - 1
    assert_complete(output, source)
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished
    assert fetched(log) == Counter(set(images_below(source)) - done)


@pytest.mark.usefixtures("ray_here")
def test_a_killed_prediction_on_a_disk_goes_on_and_has_each_image_once_with_two_actors(
    log: FaultyProxy, chain: Chain, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "predictions"
    flags = ("--model-dir", chain.output / "models" / "cnn", "--source", "gs://lab/organs", "--output", output)
    flags += ("--images-per-shard", PER_UNIT, "--num-actors", 2, "--max-bad-fraction", 0.1)
    finished = interrupt(log, "predict", flags, "predictions/*.parquet", output)
    assert not (output / "predictions.json").exists()
    assert job_here("predict", *flags)["accepted"] == IMAGES - 1
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == finished
    damaged = "train/lung/lung_train_003.tif"
    predicted = pd.read_parquet(output / "predictions")["path"]
    assert sorted(predicted) == sorted(set(images_below(source)) - {damaged})
    assert not list(output.rglob("*.partial"))


@pytest.fixture(scope="module")
def drive() -> Iterator[FakeDrive]:
    with drive_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(proxy: FaultyProxy, drive: FakeDrive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One node that can run tasks; its workers find both clouds."""
    environment = drive.environment(drive.write_key(tmp_path_factory.mktemp("key") / "key.json"))
    with ray_cluster(environment | {"STORAGE_EMULATOR_HOST": proxy.url}, nodes=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def driver(cluster: RayCluster) -> Iterator[None]:
    """This process has joined the cluster, and finds both clouds."""
    with ray_with_storage_here(cluster.environment):
        yield


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("let_through", [0, IMAGES // 2, IMAGES - 2], ids=["early", "middle", "late"])
def test_a_killed_node_is_done_without_and_only_its_image_is_fetched_again(
    let_through: int,
    cluster: RayCluster,
    log: FaultyProxy,
    gcs: GcsServer,
    source: Path,
    tmp_path: Path,
) -> None:
    doomed = cluster.add_node()
    flags = ("--source", "gs://lab/organs", "--output", f"gs://lab/{let_through}/dataset", "--images-per-shard", 1)
    log.fail("hold", DOWNLOAD, skip=let_through)
    shards = re.compile(rf"{let_through}/dataset/images/.*\.parquet")
    with job_beside("convert", *flags, *FLAGS) as job:
        try:
            done = f"the {let_through} images that were let through are done"
            wait_until(job, lambda: len(list(filter(shards.match, gcs.names()))) == let_through, done)
            wait_until(job, lambda: waiting_workers(log, *cluster.raylets), "both nodes wait for an image")
            finished = gcs.download(f"{let_through}/dataset", tmp_path / "before")
            assert len(completed_verdicts(finished)) == let_through
            cluster.kill_node(doomed)
        finally:
            log.end_faults()

    assert job.result()["accepted"] == IMAGES - 1
    assert_complete(gcs.download(f"{let_through}/dataset", tmp_path / "after"), source)
    counts = fetched(log)
    assert sorted(counts) == images_below(source)
    assert sorted(counts.values()) == [1] * (IMAGES - 1) + [2]


@pytest.mark.usefixtures("driver")
def test_a_killed_conversion_in_gcs_fetches_only_what_is_missing(
    cluster: RayCluster, log: FaultyProxy, gcs: GcsServer, source: Path, tmp_path: Path
) -> None:
    flags = ("--source", "gs://lab/organs", "--output", "gs://lab/killed/dataset", "--images-per-shard", PER_UNIT)
    log.fail("hold", DOWNLOAD, skip=LET_THROUGH)
    job = start_job("convert", *flags, *FLAGS, env=cluster.environment)
    shard = re.compile(r"killed/.*\.parquet")
    wait_until(job, lambda: any(map(shard.match, gcs.names())), "a shard is finished")
    wait_until(job, lambda: bool(log.under_way(DOWNLOAD)), "it waits for an image")
    kill_job(job)
    wait_for_its_tasks(cluster)
    wait_for(lambda: not log.under_way("POST"), "the killed job's uploads have ended")
    log.heal()
    done = done_before(gcs.download("killed/dataset", tmp_path / "killed"))

    assert job_here("convert", *flags, *FLAGS)["accepted"] == IMAGES - 1
    assert_complete(gcs.download("killed/dataset", tmp_path / "complete"), source)
    assert fetched(log) == Counter(set(images_below(source)) - done)


def wait_for_its_tasks(cluster: RayCluster) -> None:
    """Wait until the cluster has ended what a killed job had it do."""
    wait_for(lambda: not any(task_workers(raylet) for raylet in cluster.raylets), "the killed job's tasks have ended")


def done_before(dataset: Path) -> set[str]:
    """The images that are in the finished shards of a dataset folder that is not complete."""
    assert not (dataset / "dataset.json").exists()
    done = {path for paths in completed_verdicts(dataset).values() for path in paths}
    assert 0 < len(done) <= LET_THROUGH
    return done


@pytest.mark.usefixtures("driver")
def test_a_killed_conversion_in_drive_fetches_only_what_is_missing(
    cluster: RayCluster, drive: FakeDrive, source: Path, tmp_path: Path
) -> None:
    shared = drive.add_drive("Histology")
    names = {
        drive.add_file(f"organs/{name}", (source / name).read_bytes(), shared): name for name in files_below(source)
    }
    output = drive.add_folder("dataset", shared)
    flags = ("--source", f"gdrive://{shared}/organs", "--output", f"gdrive://{output}", "--images-per-shard", PER_UNIT)

    def downloaded() -> Counter[str]:
        ids = [request.target.split("?")[0].rsplit("/", 1)[-1] for request in drive.sent("GET", "alt=media")]
        return Counter(names[file_id] for file_id in ids if file_id in names)

    drive.fail(path=f"({'|'.join(names)}).*alt=media", skip=LET_THROUGH, times=math.inf, latency_s=WAIT_S)
    job = start_job("convert", *flags, *FLAGS, env=cluster.environment)
    wait_until(job, lambda: any(name.endswith(".parquet") for name in drive.names()), "a shard is finished")
    wait_until(job, lambda: downloaded().total() > LET_THROUGH, "it waits for an image")
    kill_job(job)
    wait_for_its_tasks(cluster)
    drive.end_faults()
    drive.forget_requests()
    done = done_before(drive.download(output, tmp_path / "killed"))

    assert job_here("convert", *flags, *FLAGS)["accepted"] == IMAGES - 1
    assert_complete(drive.download(output, tmp_path / "complete"), source)
    assert downloaded() == Counter(set(images_below(source)) - done)
