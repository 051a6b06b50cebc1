"""How a TIFF was written: what could tell where it is from, and says nothing of the tissue."""

import hashlib
from typing import Any, Final

from tifffile import COMPRESSION

from lib.ingest.tiff.structure import JPEG

_SOFTWARE, _JPEG_TABLES = 305, 347
_QUANTISATION, _START_OF_SCAN = 0xDB, 0xDA
_MOST_LETTERS: Final = 40
_HEADER_BYTES: Final = 4096


def file_traits(data: bytes, page: Any) -> dict[str, str | None]:
    """What the page that was read says of its writer (`lib.folders.manifest.FILE_FIELDS`, but for its size).

    Args:
        data: The whole file.
        page: The page (`tifffile.TiffPage`), whose structure has been checked.
    """
    codes = sorted(tag.code for tag in page.tags)
    software = page.tags.valueof(_SOFTWARE)
    return {
        "compression": COMPRESSION(
            int(page.compression)
        ).name.lower(),  # a plain number where the file has no tag for it
        "jpeg_tables": _jpeg_tables(data, page) if page.compression == JPEG else None,
        "tags": _digest(",".join(map(str, codes)).encode()),
        "software": str(software).strip()[:_MOST_LETTERS] or None if software else None,
    }


def _jpeg_tables(data: bytes, page: Any) -> str | None:
    """A digest of the quantisation tables, which follow from the quality that the file was written with."""
    stated = page.tags.valueof(_JPEG_TABLES)
    start = page.dataoffsets[0]
    for stream in (stated if isinstance(stated, bytes) else b"", data[start : start + _HEADER_BYTES]):
        if tables := b"".join(_quantisation(stream)):
            return _digest(tables)
    return None


def _quantisation(stream: bytes) -> list[bytes]:
    """The segments of a JPEG stream that hold quantisation tables, as far as its header can be followed.

    Source: ITU-T T.81, annex B: a marker, then two bytes for the length of the segment, themselves included.
    """
    found, place = [], 2
    while place + 4 <= len(stream) and stream[place] == 0xFF and stream[place + 1] != _START_OF_SCAN:  # noqa: PLR2004
        length = int.from_bytes(stream[place + 2 : place + 4], "big")
        if stream[place + 1] == _QUANTISATION:
            found.append(stream[place + 4 : place + 2 + length])
        place += 2 + length
    return found


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=3).hexdigest()
