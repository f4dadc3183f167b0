"""Arrow schemas of the tables, made from :mod:`flatdist.cells.columns`; rows to Parquet bytes and back.

A schema is never inferred from rows: a column that happens to be all null would change its type.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.cells.columns import BOOKKEEPING, SCHEMA_VERSION, TABLES, Column
from flatdist.errors import StoreError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

# Repeated text is stored as a dictionary; the other columns are numbers that hardly repeat.
_DICTIONARY = ("string", "bool")
ROW_GROUP = 1 << 18


@cache
def schema(table: str) -> pa.Schema:
    """Return a table's schema, bookkeeping columns included, with units and meanings as field metadata."""
    import pyarrow as pa

    fields = [
        pa.field(
            column.name,
            arrow_type(column),
            nullable=not column.required,
            metadata={"unit": column.unit, "meaning": column.meaning},
        )
        for column in (*TABLES[table], *BOOKKEEPING)
    ]
    return pa.schema(fields, metadata={"flatdist.table": table, "flatdist.schema_version": str(SCHEMA_VERSION)})


def encoded(table: str) -> list[str]:
    """Return the columns of a table that repeat so much that they are read as dictionaries."""
    return [name for name in ("cell_id", "part", "configuration_id") if name in schema(table).names]


def arrow_type(column: Column) -> pa.DataType:
    """Return a column's Arrow type."""
    import pyarrow as pa

    name = column.type
    if name.startswith("list<"):
        return pa.list_(pa.type_for_alias(name[len("list<") : -1]))
    if name.startswith("map<"):
        return pa.map_(*(pa.type_for_alias(part) for part in name[len("map<") : -1].split(", ")))
    if name.startswith("timestamp["):
        unit, zone = name[len("timestamp[") : -1].split(", ")
        return pa.timestamp(unit, zone)
    return pa.type_for_alias(name)


def rows_to_table(table: str, rows: Sequence[Mapping[str, Any]], bookkeeping: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Turn rows into an Arrow table with the table's schema.

    Args:
        table: trials, history or failures.
        rows: column -> value; missing columns become null, numpy scalars and arrays are taken as they read.
        bookkeeping: the store's own columns, one value a row.

    Raises:
        StoreError: a row has an unknown column, a value of the wrong type, or lacks a required one.
    """
    import pyarrow as pa

    names = [column.name for column in TABLES[table]]
    known = set(names)
    for row in rows:
        unknown = row.keys() - known
        if unknown:
            name = min(unknown)
            raise StoreError(
                f"a row of {table} has a column {name!r} that does not exist{did_you_mean(name, names)}; "
                "declare it in flatdist/cells/columns.py, or leave it out"
            )
    arrays = []
    for field in schema(table):
        values = bookkeeping[field.name] if field.name in bookkeeping else [_plain(row.get(field.name)) for row in rows]
        try:
            array = pa.array(values, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            bad = next((value for value in values if not _fits(value, field.type)), None)
            raise StoreError(
                f"column {field.name} of {table} cannot hold {bad!r}; allowed: {field.type} or null"
            ) from error
        if array.null_count and not field.nullable:
            raise StoreError(f"column {field.name} of {table} is missing or null in {array.null_count} rows; give it")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema(table))


def to_parquet(table: pa.Table, metadata: Mapping[str, Any] | None = None) -> bytes:
    """Serialise a table to Parquet in memory, so that writing it is one atomic step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if metadata:
        extra = {key: json.dumps(value) for key, value in metadata.items()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="snappy",
        row_group_size=ROW_GROUP,
        use_dictionary=[field.name for field in table.schema if str(field.type) in _DICTIONARY],
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def conform(data: pa.Table, table: str) -> pa.Table:
    """Bring a table read from a file to the declared types, so that old and new parts concatenate.

    Dictionary-encoded text is left encoded. Columns that newer code wrote, and this declaration lacks, are kept.

    Raises:
        pyarrow.ArrowInvalid: a column cannot be brought to its declared type.
    """
    import pyarrow as pa

    declared = _declared_types(table)
    data = data.replace_schema_metadata(None)
    for index, field in enumerate(data.schema):
        target = declared.get(field.name, field.type)
        is_encoded = pa.types.is_dictionary(field.type) and field.type.value_type == target
        if field.type != target and not is_encoded:
            data = data.set_column(index, field.with_type(target), data.column(index).cast(target))
    return data


@cache
def _declared_types(table: str) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in schema(table)}


def empty(table: str, columns: Iterable[str] | None = None) -> pa.Table:
    """Return a table without rows."""
    whole = schema(table).empty_table()
    return whole if columns is None else whole.select(list(columns))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return [(key, _plain(entry)) for key, entry in value.items()]
    return value


def _fits(value: Any, kind: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        pa.array([value], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True
