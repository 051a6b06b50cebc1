"""Parquet in storage: one file or a folder as one table, and shards that carry their verdicts."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lib.errors import StorageError
from lib.folders.manifest import MANIFEST_SCHEMA
from lib.folders.shards import SHARD_SCHEMA, read_verdicts, write_shard
from lib.ingest.listing import image_id
from lib.storage.location import Location
from lib.storage.tables import footer, read_table, write_table

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
