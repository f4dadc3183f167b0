"""Arrow tables to pandas: plain types that numpy, seaborn and groupby take as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatdist.cells.columns import BOOKKEEPING
from flatdist.store.schema import rows_to_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def rows_to_frame(table: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows that are in no store as a DataFrame with the types that they would have if read from one."""
    bookkeeping = {column.name: [0 if column.type == "int32" else ""] * len(rows) for column in BOOKKEEPING}
    return to_frame(rows_to_table(table, rows, bookkeeping).drop_columns(list(bookkeeping)))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Convert a table.

    Integers with nulls become float64, lists of integers (``width``) tuples, so that they can be grouped by; lists of
    floats become arrays, maps dictionaries. Text that repeats is text, not a category.
    """
    import pandas as pd
    import pyarrow as pa

    for position, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(position).cast(field.type.value_type)
            table = table.set_column(position, pa.field(field.name, field.type.value_type), column)
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas()
    for field in table.schema:
        if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type):
            values = [None if item is None else tuple(int(entry) for entry in item) for item in frame[field.name]]
            frame[field.name] = pd.Series(values, dtype=object, index=frame.index)
        elif pa.types.is_map(field.type):
            maps = [None if item is None else dict(item) for item in frame[field.name]]
            frame[field.name] = pd.Series(maps, dtype=object, index=frame.index)
    return frame
