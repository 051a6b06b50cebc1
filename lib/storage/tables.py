"""Parquet files in storage, written in one step and read as one table."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lib.errors import StorageError
from lib.storage.location import Location

ResultT = TypeVar("ResultT")
Row = dict[str, Any]
"""One row of a table as Python values, by column."""


def write_table(table: pa.Table, location: Location) -> None:
    """Write one Parquet file in one step."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    location.write_bytes(sink.getvalue().to_pybytes())


def write_spreadsheet(columns: Sequence[str], rows: Sequence[Row], location: Location) -> None:
    """Write a table for people, which a spreadsheet opens and takes for UTF-8 by its first bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    location.write_bytes(text.getvalue().encode("utf-8-sig"))


def read_table(location: Location, columns: list[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """One Parquet file, or every `*.parquet` below a folder in the order of their names, as one table.

    Args:
        columns: What to read; None for all columns.
        schema: If given, those of its columns that an earlier version did not write are null.

    Raises:
        StorageError: If there is none, or one cannot be read as Parquet.
    """
    if location.uri.endswith(".parquet") and location.is_file():
        return read_table_file(location, columns, schema)
    tables = read_tables(location, columns, schema)
    if not tables:
        raise StorageError(f"there is no Parquet file below {location.uri}")
    try:
        return pa.concat_tables(tables.values())
    except pa.ArrowException as error:
        raise StorageError(f"the Parquet files below {location.uri} are not of one kind: {error}") from error


def read_table_file(location: Location, columns: list[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """One Parquet file, which is known to be there; see `read_table`.

    Raises:
        StorageError: If it cannot be read as Parquet.
    """
    return _parse(location.read_bytes(), location, columns, schema)


def read_tables(
    location: Location, columns: list[str] | None = None, schema: pa.Schema | None = None
) -> dict[str, pa.Table]:
    """Every `*.parquet` below a folder, by its name and in the order of the names; see `read_table`.

    Raises:
        StorageError: If one cannot be read as Parquet.
    """
    names = [file.path for file in location.list_files() if file.path.endswith(".parquet")]
    contents = location.read_many(names)
    return {name: _parse(data, location / name, columns, schema) for name, data in zip(names, contents, strict=True)}


def footer(location: Location) -> Mapping[bytes, bytes]:
    """The key-value metadata of a Parquet file, read without its rows.

    Raises:
        StorageError: If it cannot be read as Parquet.
    """
    return read_parquet_parts(location, pq.read_metadata).metadata or {}


def read_parquet_parts(location: Location, parse: Callable[[IO[bytes]], ResultT]) -> ResultT:
    """What `parse` makes of an open Parquet file that it need not read as a whole.

    Raises:
        StorageError: If it cannot be read as Parquet.
    """
    try:
        return location.read_parts(parse)
    except pa.ArrowException as error:
        raise StorageError(f"{location.uri} cannot be read as Parquet: {error}") from error


def rows_as_json(table: pa.Table) -> bytes:
    """Rows for a footer: a JSON list of objects without their nulls, which `Table.from_pylist` fills in again."""
    rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
    return json.dumps(rows, ensure_ascii=False).encode()


def completed(table: pa.Table, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Some columns of a table, null in those that it lacks and a schema has."""
    for name in columns:
        if name not in table.column_names:
            table = table.append_column(schema.field(name), pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(columns)


def _parse(data: bytes, location: Location, columns: list[str] | None, schema: pa.Schema | None) -> pa.Table:
    try:
        if schema is None:
            return pq.read_table(pa.BufferReader(data), columns=columns)
        wanted = columns or schema.names
        return completed(pq.ParquetFile(pa.BufferReader(data)).read(wanted), wanted, schema)
    except pa.ArrowException as error:
        raise StorageError(f"{location.uri} cannot be read as Parquet: {error}") from error
