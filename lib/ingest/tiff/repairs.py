"""Tags that contradict what a file plainly holds, as some scanners and programs write them, put right.

Looked for only in a file that was refused, so that no other file pays for it. What is put right is checked and decoded
as any file is; only what the pixels themselves settle is changed.
"""

import math
import struct
from typing import Any, Final

from lib.ingest.tiff.pages import all_pages, byte_order
from lib.ingest.tiff.structure import UNCOMPRESSED, row_bytes, segment_shape

STRIP_BYTE_COUNTS, IMAGE_DEPTH = 279, 32997
_SHORT, _LONG = 3, 4
_LAYOUTS: Final = {_SHORT: "H", _LONG: "I"}


def as_plainly_meant(data: bytes) -> bytes | None:
    """The same file with such tags put right; None where there are none, or where it is too damaged to tell.

    - `ImageDepth` of a page whose strips or tiles make one plane: Philips' scanners count their levels in it.
    - `StripByteCounts` 0 of a single uncompressed strip whose pixels are all in the file.
    """
    changed = bytearray(data)
    try:
        _put_right(data, changed)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - damage raises anything; why the file is refused is known already
        return None
    return bytes(changed) if changed != data else None


def _put_right(data: bytes, changed: bytearray) -> None:
    with all_pages(data) as pages:
        for page in pages:
            if page.imagedepth > 1 and len(page.dataoffsets) == _segments(page):
                _put(changed, page.tags[IMAGE_DEPTH], 1)
            if page.compression == UNCOMPRESSED and not page.is_tiled and tuple(page.databytecounts) == (0,):
                needed = page.imagelength * row_bytes(page)
                if 0 < page.dataoffsets[0] <= len(data) - needed:
                    _put(changed, page.tags[STRIP_BYTE_COUNTS], needed)


def _segments(page: Any) -> int:
    """How many strips or tiles one plane of a page takes."""
    rows, columns = segment_shape(page)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1  # noqa: PLR2004 - separate planes
    return int(math.ceil(page.imagelength / rows) * math.ceil(page.imagewidth / columns) * planes)


def _put(data: bytearray, tag: Any, value: int) -> None:
    if tag.count == 1 and int(tag.dtype) in _LAYOUTS and value < 2 ** (16 if tag.dtype == _SHORT else 32):
        struct.pack_into(byte_order(data) + _LAYOUTS[int(tag.dtype)], data, tag.valueoffset, value)
