"""Checksums: published vectors, and what was read against what was listed."""

import base64

import pytest

from lib.errors import StorageError
from lib.storage.checksum import crc32c, md5, verified_checksum

CHECK = b"123456789"  # the message whose checksum every CRC catalogue states
CRC32C = "crc32c:" + base64.b64encode(bytes.fromhex("e3069283")).decode()
MD5 = "md5:25f9e794323b453885f5181f1b624d0b"


def test_the_published_vectors_come_out() -> None:
    assert crc32c(CHECK) == CRC32C == "crc32c:4waSgw=="
    assert crc32c(b"") == "crc32c:AAAAAA=="
    assert md5(CHECK) == MD5
    assert md5(b"") == "md5:d41d8cd98f00b204e9800998ecf8427e"  # RFC 1321, A.5


def test_what_is_as_listed_gets_the_listed_checksum_and_crc32c_where_none_was_listed() -> None:
    assert verified_checksum(CHECK, 9, CRC32C) == CRC32C
    assert verified_checksum(CHECK, 9, MD5) == MD5
    assert verified_checksum(CHECK, 9, None) == CRC32C


@pytest.mark.parametrize("stated", [None, CRC32C, MD5])
@pytest.mark.parametrize("size", [8, 10])
def test_another_size_than_listed_is_a_fault_of_storage(size: int, stated: str | None) -> None:
    with pytest.raises(StorageError, match=rf"^read 9 bytes where {size} were listed"):
        verified_checksum(CHECK, size, stated)


@pytest.mark.parametrize("stated", [CRC32C, MD5])
def test_other_content_than_listed_is_a_fault_of_storage(stated: str) -> None:
    with pytest.raises(StorageError, match=r"^its content has ") as caught:
        verified_checksum(b"123456780", 9, stated)
    assert stated in str(caught.value)
