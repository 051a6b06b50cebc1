"""One unit of work: fetch the listed files, decode and resize each, and say of each what became of it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import pyarrow as pa

from lib.config.images import ImageConfig
from lib.errors import ImageRefused
from lib.ingest.image import resize_image
from lib.ingest.pixel_use import pixel_use
from lib.ingest.tiff.decode import TiffImage, UInt8Array, read_tiff
from lib.ingest.tiff.isolate import run_isolated
from lib.runtime.ray_data import is_repeated_task
from lib.storage.location import FETCH_CONCURRENCY, Location
from lib.storage.scan import StoredFile
from lib.storage.tables import Row

FETCH_BYTES = 128 * 2**20
"""Most that one fetch of several files brings into memory, where the next one may be under way too."""
ISOLATED_S = 600.0
"""How long one file may take to decode in a unit that has ended a process before."""


@dataclass(frozen=True)
class UnitResult:
    """What became of one listed file.

    Attributes:
        row: Its manifest row (`MANIFEST_SCHEMA`), with the verdict.
        image: RGB uint8, shape (image_size, image_size, 3); None if it was quarantined.
        height: Rows of the original, in pixels; 0 if quarantined.
        width: Columns of the original, in pixels; 0 if quarantined.
    """

    row: Row
    image: UInt8Array | None
    height: int = 0
    width: int = 0


def read_unit(unit: pa.Table, source: Location, config: ImageConfig) -> Iterator[UnitResult]:
    """Fetch and decode every file of a unit, in its order.

    If a process ended in the middle of this unit, one of its files may have crashed a decoder that is trusted. So each
    is decoded in a child process from then on, and the one that is to blame is refused by name.

    Args:
        unit: Rows of `LISTING_SCHEMA`.
        source: The folder that the listed paths are relative to.
        config: The TIFF policy and the side of the square images, in pixels.

    Raises:
        StorageError: If a file cannot be read as it was listed: a fault, not a bad image.
    """
    cv2.setNumThreads(1)  # Ray runs one unit a core; OpenCV's own threads would only compete with it
    decode = _decode_isolated if is_repeated_task() else _decode
    for rows, contents in _fetched(batches_to_fetch(unit.to_pylist()), source):
        for row, (data, checksum) in zip(rows, contents, strict=True):
            yield _result(row | {"checksum": checksum}, data, config, decode)


def _fetched(batches: Iterator[list[Row]], source: Location) -> Iterator[tuple[list[Row], list[tuple[bytes, str]]]]:
    """Each batch with its files; from remote storage, the next ones arrive while one is being decoded."""

    def fetch(rows: list[Row]) -> tuple[list[Row], list[tuple[bytes, str]]]:
        files = [StoredFile.of(row) for row in rows]
        return rows, source.read_listed(files)

    if source.is_local:
        yield from map(fetch, batches)
        return
    with ThreadPoolExecutor(max_workers=1) as ahead:
        coming: Future[tuple[list[Row], list[tuple[bytes, str]]]] | None = None
        for rows in batches:
            before, coming = coming, ahead.submit(fetch, rows)
            if before is not None:
                yield before.result()
        if coming is not None:
            yield coming.result()


def batches_to_fetch(rows: list[Row]) -> Iterator[list[Row]]:
    """Cut listed files into runs that are fetched at once.

    As many as `FETCH_CONCURRENCY` and as large as `FETCH_BYTES` in all, but one file at least: this bounds the memory
    of a worker, whatever the files are.
    """
    batch: list[Row] = []
    size_bytes = 0
    for row in rows:
        if batch and (len(batch) == FETCH_CONCURRENCY or size_bytes + row["size_bytes"] > FETCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(row)
        size_bytes += row["size_bytes"]
    if batch:
        yield batch


def _decode(data: bytes, config: ImageConfig) -> TiffImage:
    return read_tiff(data, config, config.image_size)


def _decode_isolated(data: bytes, config: ImageConfig) -> TiffImage:
    return run_isolated(ISOLATED_S, read_tiff, data, config, config.image_size)


def _result(row: Row, data: bytes, config: ImageConfig, decode: Callable[..., TiffImage]) -> UnitResult:
    try:
        found = decode(data, config)
    except ImageRefused as refusal:
        verdict = {"verdict": "quarantined", "reason": refusal.code, "detail": refusal.detail}
        return UnitResult(row | verdict, None)
    facts = {name: getattr(found, name) for name in ("sample_type", "pages", "micrometres", "note")}
    facts |= {"height": found.height, "width": found.width, **found.traits}
    accepted = row | {"verdict": "accepted"} | facts | pixel_use(found.some_rows)
    return UnitResult(accepted, resize_image(found.rgb, config.image_size), found.height, found.width)
