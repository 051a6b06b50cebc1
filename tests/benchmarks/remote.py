"""The `convert` job on storage that is far away: beside a one-by-one loop, a local disk, and on one node and four."""

import os
import tempfile
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lib.config.images import TiffPolicy
from lib.ingest.image import encode_jpeg, resize_image
from lib.ingest.tiff.decode import decode_tiff
from lib.runtime.environment import prepare_environment
from tests.benchmarks.bucket import SlowBucket, slow_bucket
from tests.benchmarks.sources import tissue_tiffs, write_linked_source
from tests.benchmarks.timing import interleaved_medians, print_row, seconds
from tests.fakes.cluster import ray_cluster
from tests.fakes.jobs import run_job

SIZE, PER_SHARD = 180, 128
LATENCY_S = 0.05
COUNTS = (512, 2560)
LOOP_COUNT = 60
COMPRESSIONS = ("lzw", "jpeg", "uncompressed")

NODES = (1, 4)
NODES_LATENCY_S = 0.2
NODES_SIZE, NODES_PER_SHARD = 64, 256
NODES_COUNTS = (16 * NODES_PER_SHARD, 48 * NODES_PER_SHARD)
"""Enough that the fewer keep every node busy too, beyond the start of its worker."""


def run(repeats: int) -> None:
    """Images a second, from storage that answers every request late."""
    title = f"convert 512 to {SIZE} px, {LATENCY_S * 1000:.0f} ms a request, steady images/s"
    print_row(title, "gs://", "local disk", "one-by-one loop", "gs / local", "gs / loop")
    print_row(*["---"] * 6)
    for compression in COMPRESSIONS:
        with slow_bucket(LATENCY_S) as bucket, tempfile.TemporaryDirectory() as folder:
            there, here = _rates(bucket, compression, Path(folder), repeats)
            loop = LOOP_COUNT / seconds(partial(_loop, bucket, compression))
        print_row(
            compression, f"{there:,.0f}", f"{here:,.0f}", f"{loop:,.1f}", f"{there / here:.2f}", f"{there / loop:.1f}"
        )


def run_nodes(repeats: int) -> None:
    """Images a second on one node and on four, from and to storage that answers every request late."""
    size = f"{NODES_SIZE} px, {len(tissue_tiffs('uncompressed', NODES_SIZE)[0]) / 1000:.0f} kB"
    title = f"convert {size}, units of {NODES_PER_SHARD}, {NODES_LATENCY_S * 1000:.0f} ms a request, steady images/s"
    print_row(title, *(f"nodes: {nodes}, one CPU each" for nodes in NODES), "four / one")
    print_row(*["---"] * 4)
    one, four = (_rate_of_nodes(nodes, repeats) for nodes in NODES)
    print_row("gs:// to gs://", f"{one:,.1f}", f"{four:,.1f}", f"{four / one:.2f}")


def _rates(bucket: SlowBucket, compression: str, folder: Path, repeats: int) -> tuple[float, float]:
    """Images a second from the bucket and from a disk."""
    programs = []
    for count in COUNTS:
        there = bucket.fill(f"{compression}_{count}", count, tissue_tiffs(compression))
        here = write_linked_source(folder / str(count), compression, count)
        programs.append({"there": partial(_job, there, bucket), "here": partial(_job, str(here), bucket)})
    rates = _slopes(programs, COUNTS, repeats)
    return rates["there"], rates["here"]


def _rate_of_nodes(nodes: int, repeats: int) -> float:
    """Images a second on a cluster of so many nodes on this machine."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="tb") as folder, slow_bucket(NODES_LATENCY_S) as bucket:
        os.environ["RAY_TMPDIR"] = folder  # no other Ray of this machine finds the cluster
        prepare_environment()
        tiffs = tissue_tiffs("uncompressed", NODES_SIZE)
        sources = [bucket.fill(f"source_{count}", count, tiffs) for count in NODES_COUNTS]
        with ray_cluster(bucket.environment, nodes) as cluster:
            programs = [{"job": partial(_job_of_nodes, source, cluster.environment)} for source in sources]
            return _slopes(programs, NODES_COUNTS, repeats)["job"]


def _slopes(programs: list[dict[str, Callable[[], object]]], counts: tuple[int, int], repeats: int) -> dict[str, float]:
    few, many = (interleaved_medians(each, repeats) for each in programs)
    return {name: (counts[1] - counts[0]) / (many[name] - few[name]) for name in few}


def _job(source: str, bucket: SlowBucket) -> None:
    with tempfile.TemporaryDirectory() as output:
        flags = ("--output", f"{output}/dataset", "--image-size", SIZE, "--images-per-shard", PER_SHARD)
        _convert(source, flags, bucket.environment)


def _job_of_nodes(source: str, environment: dict[str, str]) -> None:
    output = f"{source}_output_{uuid.uuid4().hex}"
    _convert(
        source, ("--output", output, "--image-size", NODES_SIZE, "--images-per-shard", NODES_PER_SHARD), environment
    )


def _convert(source: str, flags: tuple[object, ...], environment: dict[str, str]) -> None:
    flags += ("--duplicates", "keep")  # the source is a few pictures under many names
    result = run_job("convert", "--source", source, *flags, env=environment)
    assert result.summary["accepted"] == result.summary["listed"]


def _loop(bucket: SlowBucket, compression: str) -> None:
    with tempfile.TemporaryDirectory() as output:
        for number, data in enumerate(bucket.downloads(f"{compression}_{COUNTS[0]}", LOOP_COUNT)):
            image = resize_image(decode_tiff(data, TiffPolicy()), SIZE)
            (Path(output) / f"{number}.jpg").write_bytes(encode_jpeg(image, 95))
