"""Failures: what a replicate's code raised, kept beside the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatdist.store.filesystem import Filesystem
from flatdist.store.layout import digest, part_folder, part_path
from flatdist.store.location import redact
from flatdist.store.parts import Unreadable, read_parts
from flatdist.store.schema import empty, rows_to_table, to_parquet
from flatdist.store.tombstones import Generations, Key

if TYPE_CHECKING:
    import pyarrow as pa

_TEXTS = ("message", "traceback", "host", "error_type")


def write_failures(files: Filesystem, rows: Sequence[Mapping[str, Any]], generations: Generations) -> None:
    """Write rows of failures, credentials removed from their texts; the part is named by its content."""
    clean = [
        {name: redact(str(value)) if name in _TEXTS and value is not None else value for name, value in row.items()}
        for row in rows
    ]
    numbers = [generations[row["cell_id"], int(row["replicate"])] for row in clean]
    name = digest(repr([sorted((key, str(value)) for key, value in row.items()) for row in clean]).encode())
    bookkeeping: dict[str, Sequence[Any]] = {"generation": numbers, "part": [name] * len(clean)}
    files.write(part_path("failures", name), to_parquet(rows_to_table("failures", clean, bookkeeping)))


def read_failures(files: Filesystem) -> tuple[pa.Table, list[Unreadable]]:
    """Read all failures ever recorded, in order of cell, replicate, attempt and time."""
    import pyarrow as pa

    paths = [info.path for info in files.list(part_folder("failures")) if info.path.endswith(".parquet")]
    tables, unreadable = read_parts(files, "failures", paths, None)
    plain = [_decode(table) for table in tables.values()] or [empty("failures")]
    whole = pa.concat_tables(plain, promote_options="default")
    order = [(name, "ascending") for name in ("cell_id", "replicate", "generation", "attempt", "at", "part")]
    return whole.sort_by(order), unreadable


def count_failures(table: pa.Table, generations: Generations) -> Counter[Key]:
    """Count the failures of every key since it was last invalidated."""
    counts: Counter[Key] = Counter()
    columns = (table.column(name).to_pylist() for name in ("cell_id", "replicate", "generation"))
    for cell_id, replicate, generation in zip(*columns, strict=True):
        if generation >= generations[cell_id, replicate]:
            counts[cell_id, replicate] += 1
    return counts


def _decode(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    for position, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = field.with_type(field.type.value_type)
            table = table.set_column(position, plain, table.column(position).cast(plain.type))
    return table
