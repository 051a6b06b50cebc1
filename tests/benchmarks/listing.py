"""How long the `convert` job takes from its start to its first decoded image, and the memory of its driver."""

import statistics
import tempfile
import time
from pathlib import Path

from lib.ingest.tiff.ranges import MEASURED_FILES
from tests.benchmarks.timing import print_row
from tests.fakes.jobs import kill_job, start_job, wait_until
from tests.fakes.large_bucket import large_bucket

COUNTS = (100_000, 1_000_000)


def run(repeats: int) -> None:
    """Seconds to the first image, and the driver's peak by then, for listings that are only imagined."""
    print_row("listed in `gs://`", "first image decoded after, s", "driver's peak, MiB")
    print_row(*["---"] * 3)
    for count in COUNTS:
        waits_s, peaks_mib = zip(*(_start(count) for _ in range(repeats)), strict=True)
        print_row(f"{count:,}", f"{statistics.median(waits_s):.1f}", max(peaks_mib))


def _start(count: int) -> tuple[float, int]:
    with large_bucket(count) as bucket, tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        flags = ("--source", bucket.source, "--output", f"{folder}/dataset", "--duplicates", "keep")
        job = start_job("convert", *flags, env=bucket.environment)
        try:
            # The first images are read by the driver, to measure the range of their values.
            wait_until(job, lambda: bucket.downloads() > MEASURED_FILES, "an image is fetched to be decoded", 300)
            return time.perf_counter() - started, _peak_mib(job.pid)
        finally:
            kill_job(job)


def _peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) // 1024
