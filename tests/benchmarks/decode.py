"""One core: our strict decoding beside what does less."""

import contextlib
import io

import cv2
import imagecodecs
import numpy as np
import tifffile

from lib.config.images import TiffPolicy
from lib.errors import ImageRefused
from lib.ingest.tiff.decode import decode_tiff
from lib.ingest.tiff.isolate import run_isolated
from tests.benchmarks.sources import COMPRESSIONS, PICTURES, tissue_tiffs
from tests.benchmarks.timing import interleaved_medians, print_row


def run(repeats: int) -> None:
    """Images a second, 512 px RGB."""
    cv2.setNumThreads(1)
    policy = TiffPolicy()
    print_row("decode 512 px, one core, images/s", "ours (checked)", "tifffile", "OpenCV", "imagecodecs (unchecked)")
    print_row(*["---"] * 5)
    for compression in COMPRESSIONS:
        files = tissue_tiffs(compression)
        programs = {
            "ours": lambda files=files: [decode_tiff(data, policy) for data in files],
            "tifffile": lambda files=files: [tifffile.imread(io.BytesIO(data)) for data in files],
            "opencv": lambda files=files: [cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in files],
            "imagecodecs": lambda files=files: [imagecodecs.tiff_decode(data) for data in files],
        }
        medians = interleaved_medians(programs, repeats)
        print_row(compression, *(f"{PICTURES / medians[name]:,.0f}" for name in programs))
    print_row("a decoder process after a refusal, ms", f"{1000 * interleaved_medians({'': refuse}, 10)['']:.0f}")


def refuse() -> None:
    """End the fork that answers, and have the next one answer."""
    with contextlib.suppress(ImageRefused):
        run_isolated(60, int, "no number")
    run_isolated(60, len, b"")
