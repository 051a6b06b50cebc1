"""Parquet in storage: one file or a folder as one table, and shards that carry their verdicts."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileOpener

from lib.errors import StorageError
from lib.folders.manifest import MANIFEST_SCHEMA
from lib.folders.shards import (
    IMAGES_PER_ROW_GROUP,
    PLAIN_VERDICTS_KEY,
    SHARD_SCHEMA,
    read_shard,
    read_shard_rows,
    read_verdicts,
    write_shard,
)
from lib.ingest.listing import image_id
from lib.storage.location import Location
from lib.storage.tables import footer, read_table, rows_as_json, write_table

PATHS = ["train/liver/a.tif", "train/Ärzte & Söhne/切片 1.tif", "train/lung/quote\"s 'n' \\.tif"]


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location(str(tmp_path))


def table_of(*numbers: int) -> pa.Table:
    return pa.table({"number": pa.array(numbers, pa.int64()), "name": pa.array([str(n) for n in numbers], pa.string())})


def verdict_on(path: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "image_id": image_id(path), "path": path, "size_bytes": 2**40, "checksum": "crc32c:4waSgw==",
        "label": path.split("/")[1], "split": "train", "group": None,
        "verdict": "quarantined" if reason else "accepted",
        "reason": reason, "detail": reason and f"detail of {path}",
    }  # fmt: skip


def test_one_file_comes_back_as_it_was_written(folder: Location) -> None:
    write_table(table_of(3, 1, 2), folder / "x.parquet")
    assert read_table(folder / "x.parquet").equals(table_of(3, 1, 2))
    assert read_table(folder / "x.parquet", ["name"]).to_pydict() == {"name": ["3", "1", "2"]}


def test_a_folder_is_one_table_in_the_order_of_its_names(folder: Location) -> None:
    for name, numbers in {"b": (4, 5), "a": (2, 3), "c/d": (6,), "A": (1,)}.items():
        write_table(table_of(*numbers), folder / f"{name}.parquet")
    (folder / "notes.txt").write_bytes(b"not a table")
    assert read_table(folder)["number"].to_pylist() == [1, 2, 3, 4, 5, 6]
    assert read_table(folder, ["number"]).column_names == ["number"]


def test_empty_tables_keep_their_types(folder: Location) -> None:
    write_table(SHARD_SCHEMA.empty_table(), folder / "a.parquet")
    write_table(SHARD_SCHEMA.empty_table(), folder / "b.parquet")
    assert read_table(folder).schema == SHARD_SCHEMA


@pytest.mark.parametrize("name", ["gone", "gone.parquet", "empty"])
def test_no_table_is_an_error_that_names_the_place(folder: Location, name: str) -> None:
    (folder / "empty/notes.txt").write_bytes(b"not a table")
    with pytest.raises(StorageError, match=re.escape(f"no Parquet file below {folder.uri}/{name}")):
        read_table(folder / name)


@pytest.mark.parametrize("content", [b"", b"not a table", b"PAR1 cut off"])
def test_what_is_not_parquet_is_named(folder: Location, content: bytes) -> None:
    (folder / "a/b.parquet").write_bytes(content)
    for location in (folder / "a/b.parquet", folder / "a"):
        with pytest.raises(StorageError, match=re.escape(f"{folder.uri}/a/b.parquet cannot be read as Parquet")):
            read_table(location)


def test_files_that_are_not_of_one_table_are_an_error_of_storage(folder: Location) -> None:
    write_table(table_of(1), folder / "a.parquet")
    write_table(pa.table({"number": ["one"]}), folder / "b.parquet")
    with pytest.raises(StorageError, match=re.escape(folder.uri)):
        read_table(folder)


def test_a_shard_holds_its_images_and_the_verdicts_on_all_of_its_files(folder: Location) -> None:
    verdicts = [verdict_on(PATHS[0]), verdict_on(PATHS[1]), verdict_on(PATHS[2], "truncated")]
    images = [row | {"height": 40, "width": 50, "image": bytes([n, 0, 255])} for n, row in enumerate(verdicts[:2])]
    table = pa.Table.from_pylist(verdicts, schema=MANIFEST_SCHEMA)
    write_shard(images, table, folder / "s.parquet")
    assert read_verdicts(folder / "s.parquet").equals(table)
    stored = read_table(folder / "s.parquet")
    assert stored.schema.names == SHARD_SCHEMA.names
    assert stored["path"].to_pylist() == PATHS[:2]
    assert stored["image"].to_pylist() == [b"\x00\x00\xff", b"\x01\x00\xff"]
    assert stored["height"].to_pylist() == [40, 40]


def test_a_shard_without_images_still_holds_its_verdicts(folder: Location) -> None:
    table = pa.Table.from_pylist([verdict_on(path, "damaged") for path in PATHS], schema=MANIFEST_SCHEMA)
    write_shard([], table, folder / "s.parquet")
    assert read_verdicts(folder / "s.parquet").equals(table)
    assert read_table(folder / "s.parquet").num_rows == 0


def test_verdicts_of_shards_of_earlier_versions_are_read(folder: Location) -> None:
    table = pa.Table.from_pylist([verdict_on(path) for path in PATHS], schema=MANIFEST_SCHEMA)
    schema = SHARD_SCHEMA.with_metadata({PLAIN_VERDICTS_KEY: rows_as_json(table)})
    write_table(schema.empty_table(), folder / "s.parquet")
    assert read_verdicts(folder / "s.parquet").equals(table)


@pytest.fixture
def shard(folder: Location) -> Location:
    """512 images of 8 kB, and the verdicts on them."""
    verdicts = [verdict_on(f"train/liver/slide_{number:07d}.tif") for number in range(512)]
    pixels = np.random.default_rng(0).bytes(512 * 8000)
    images = [
        row | {"height": 300, "width": 300, "image": pixels[8000 * number : 8000 * (number + 1)]}
        for number, row in enumerate(verdicts)
    ]
    write_shard(images, pa.Table.from_pylist(verdicts, schema=MANIFEST_SCHEMA), folder / "s.parquet")
    return folder / "s.parquet"


def test_row_groups_of_a_shard_are_read_one_by_one_in_little_more_than_its_bytes(
    shard: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, fetched, read = shard.read_bytes(), [], LocalFileOpener.read
    monkeypatch.setattr(LocalFileOpener, "read", lambda file, size: fetched.append(size) or read(file, size))
    parts = [
        read_shard_rows(shard, pa.chunked_array([range(first, first + IMAGES_PER_ROW_GROUP)]), ["path", "image"])
        for first in range(0, 512, IMAGES_PER_ROW_GROUP)
    ]
    monkeypatch.undo()
    assert pa.concat_tables(parts).equals(read_table(shard, ["path", "image"]))
    assert 0.9 < sum(fetched) / len(whole) < 1.15


@pytest.mark.parametrize("rows", [[0], [63, 64], [5, 100, 130], [511], list(range(40, 200))])
def test_some_rows_of_a_shard_are_those_of_all_of_it(shard: Location, rows: list[int]) -> None:
    found = read_shard_rows(shard, pa.chunked_array([rows]), ["image_id", "image"])
    assert found.equals(read_shard(shard, ["image_id", "image"]).take(rows))


def test_a_row_group_that_is_not_as_it_was_written_is_named(shard: Location) -> None:
    content = bytearray(shard.read_bytes())
    content[300_000] ^= 1  # within the images of the first row group
    shard.write_bytes(bytes(content))
    with pytest.raises(StorageError, match=r"s\.parquet: could not verify page integrity"):
        read_shard_rows(shard, pa.chunked_array([[0]]), ["image"])
    read_shard_rows(shard, pa.chunked_array([[64]]), ["image"])


def test_shards_with_different_verdicts_are_one_table(folder: Location) -> None:
    for number, path in enumerate(PATHS):
        row = verdict_on(path)
        table = pa.Table.from_pylist([row], schema=MANIFEST_SCHEMA)
        write_shard([row | {"height": 1, "width": 1, "image": b""}], table, folder / f"{number}.parquet")
    assert read_table(folder)["path"].to_pylist() == PATHS


@pytest.mark.parametrize("content", [None, b"", b"not a table"])
def test_a_footer_that_cannot_be_read_is_an_error_of_storage(folder: Location, content: bytes | None) -> None:
    if content is not None:
        (folder / "s.parquet").write_bytes(content)
    with pytest.raises(StorageError, match=re.escape(f"{folder.uri}/s.parquet")):
        footer(folder / "s.parquet")
