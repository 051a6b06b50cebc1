"""How many files a unit fetches at once, and what it keeps of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from lib.ingest.unit import FETCH_BYTES, batches_to_fetch
from lib.storage.location import FETCH_CONCURRENCY


@given(sizes=st.lists(st.integers(0, 2 * FETCH_BYTES), max_size=300))
def test_every_file_is_fetched_once_in_order_and_memory_stays_bounded(sizes: list[int]) -> None:
    rows = [{"number": number, "size_bytes": size} for number, size in enumerate(sizes)]
    batches = list(batches_to_fetch(rows))
    assert [row for batch in batches for row in batch] == rows
    for batch in batches:
        assert 1 <= len(batch) <= FETCH_CONCURRENCY
        assert len(batch) == 1 or sum(row["size_bytes"] for row in batch) <= FETCH_BYTES


def test_small_files_are_fetched_many_at_a_time() -> None:
    rows = [{"size_bytes": 1000}] * (2 * FETCH_CONCURRENCY)
    assert [len(batch) for batch in batches_to_fetch(rows)] == [FETCH_CONCURRENCY, FETCH_CONCURRENCY]


PEAK = """
import sys, tracemalloc
from lib.config.images import ImageConfig, ListingConfig
from lib.ingest.listing import list_labelled
from lib.ingest.unit import read_unit
from lib.storage.location import Location
source = Location(sys.argv[1])
tracemalloc.start()
for unit in list_labelled(source, ListingConfig()).units(16):
    for result in read_unit(unit, source, ImageConfig()):
        assert result.image is not None
print(tracemalloc.get_traced_memory()[1] // 2**20)
"""


def test_memory_does_not_grow_with_the_number_of_large_images(tmp_path: Path) -> None:
    side, copies = 4000, 8
    size_mib = side * side * 3 // 2**20
    for label in ("liver", "lung"):
        (tmp_path / "train" / label).mkdir(parents=True)
        first = tmp_path / "train" / label / "0.tif"
        tifffile.imwrite(first, np.full((side, side, 3), 99, np.uint8), photometric="rgb")
        for number in range(1, copies):
            os.link(first, first.with_name(f"{number}.tif"))
    run = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (
        int(run.stdout) < 9 * size_mib
    )  # a fetch of five files, and what decoding one takes; all would be 16 and more
