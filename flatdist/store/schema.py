"""Arrow schemas of the tables, made from :mod:`flatdist.cells.columns`; rows to Parquet bytes and back.

A schema is never inferred from rows: a column that happens to be all null would change its type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.cells.cell import FIELDS, PROBLEM_FIELDS
from flatdist.cells.columns import BOOKKEEPING, SCHEMA_VERSION, TABLES
from flatdist.errors import StoreError, did_you_mean
from flatdist.store import arrow as pa

if TYPE_CHECKING:
    import pandas as pd

SOMETIMES_NULL = {name for name in FIELDS if name not in PROBLEM_FIELDS} | {"steps_run"}
"""Columns that some methods leave null."""


@cache
def schema(table: str) -> pa.Schema:
    """Return a table's schema, bookkeeping columns included, with units and meanings as field metadata."""
    columns = (*TABLES[table], *BOOKKEEPING)
    fields = [
        pa.field(one.name, _arrow_type(one.type), not one.required, {"unit": one.unit, "meaning": one.meaning})
        for one in columns
    ]
    return pa.schema(fields, {"flatdist.table": table, "flatdist.schema_version": str(SCHEMA_VERSION)})


def _arrow_type(name: str) -> pa.DataType:
    kind, _, rest = name.removesuffix(">").removesuffix("]").replace("[", "<").partition("<")
    parts = rest.split(", ")
    if kind == "list":
        return pa.list_(pa.type_for_alias(rest))
    if kind == "map":
        return pa.map_(*map(pa.type_for_alias, parts))
    return pa.timestamp(*parts) if kind == "timestamp" else pa.type_for_alias(name)


def rows_to_table(table: str, rows: Sequence[Mapping[str, Any]], bookkeeping: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Turn rows, and the store's own columns, into an Arrow table with the table's schema.

    Missing columns become null; numpy scalars and arrays are accepted.

    Raises:
        StoreError: a row has an unknown column, a value of the wrong type, or lacks a required one.
    """
    names = [column.name for column in TABLES[table]]
    known = set(names)
    for row in rows:
        if unknown := row.keys() - known:
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


def conform(data: pa.Table, table: str) -> pa.Table:
    """Bring a table read from a file to the declared types, so that old and new parts concatenate.

    Dictionary-encoded text is left encoded. Columns that newer code wrote, and this declaration lacks, are kept.
    """
    declared = schema(table)
    data = data.replace_schema_metadata(None)
    for index, field in enumerate(data.schema):
        place = declared.get_field_index(field.name)
        target = declared.field(place).type if place >= 0 else field.type
        is_encoded = pa.types.is_dictionary(field.type) and field.type.value_type == target
        if field.type != target and not is_encoded:
            data = data.set_column(index, field.with_type(target), data.column(index).cast(target))
    return data


def plain(rows: pa.Table) -> pa.Table:
    """A table whose text is not dictionary-encoded, as it is declared."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            text = field.with_type(field.type.value_type)
            rows = rows.set_column(index, text, rows.column(index).cast(text.type))
    return rows


def with_columns(rows: pa.Table, table: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns; those that no file had are null."""
    declared = schema(table)
    for name in columns:
        if name not in rows.column_names:
            kind = declared.field(name).type if name in declared.names else pa.null()
            kind = pa.dictionary(pa.int32(), pa.string()) if kind == pa.string() else kind  # as text is read
            rows = rows.append_column(pa.field(name, kind), pa.nulls(len(rows), kind))
    return rows.select(list(columns))


def empty(table: str, columns: Iterable[str] | None = None) -> pa.Table:
    """Return a table without rows."""
    whole = pa.Table.from_batches([], schema(table))  # not empty_table(), which imports pandas
    return whole if columns is None else whole.select(list(columns))


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return [(key, _plain(entry)) for key, entry in value.items()]
    return value


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def rows_to_frame(table: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows that are not in a store as a DataFrame, with the types they would have if read from one."""
    bookkeeping = {column.name: [0 if column.type == "int32" else ""] * len(rows) for column in BOOKKEEPING}
    return to_frame(rows_to_table(table, rows, bookkeeping).drop_columns(list(bookkeeping)))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Convert a table.

    Integers that can be null are float64 whatever rows were read; lists of integers (``width``) become tuples, so that
    they can be grouped by, lists of floats arrays, maps dictionaries. Text that repeats is text, not a category.
    """
    import pandas as pd

    table = plain(table).replace_schema_metadata(None)
    made = {field.name: made for field in table.schema if (made := _objects(table.column(field.name))) is not None}
    frame: pd.DataFrame = table.drop_columns(list(made)).to_pandas()
    for position, field in enumerate(table.schema):
        if field.name in made:
            frame.insert(position, field.name, pd.Series(made[field.name], dtype=object, index=frame.index))
        elif pa.types.is_integer(field.type) and field.name in SOMETIMES_NULL:
            frame[field.name] = frame[field.name].astype("float64")
        elif pa.types.is_boolean(field.type) and field.name not in PROBLEM_FIELDS:
            frame[field.name] = frame[field.name].astype(object)
    return frame


def _objects(column: pa.ChunkedArray) -> list[Any] | None:
    """Lists of integers as tuples, and maps as dictionaries; None for columns of other types."""
    if pa.types.is_map(column.type):
        if column.null_count == len(column):
            return [None] * len(column)
        return [None if item is None else dict(item) for item in column.to_pylist()]
    if not (pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type)):
        return None
    found: list[Any] = []
    same: dict[tuple[int, ...], tuple[int, ...]] = {}  # equal lists share one tuple: a table has millions of rows
    for chunk in column.chunks:
        numbers, ends = (one.to_numpy(zero_copy_only=False).tolist() for one in (chunk.values, chunk.offsets))
        valid = chunk.is_valid().to_pylist()
        for a, b, here in zip(ends, ends[1:], valid, strict=False):
            one = tuple(numbers[a:b])
            found.append(same.setdefault(one, one) if here else None)
    return found
