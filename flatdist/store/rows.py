"""Rows of results and failures on their way into parts and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatdist.errors import StoreError
from flatdist.store import parquet
from flatdist.store.documents import Generations, Key
from flatdist.store.filesystem import Damaged, Filesystem
from flatdist.store.layout import digest, history_name, part_folder, part_name, part_path
from flatdist.store.location import redact
from flatdist.store.schema import empty, plain, rows_to_table

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]

_TEXTS = ("message", "traceback", "host", "error_type")


def write_part(files: Filesystem, part: str, trials: pa.Table, history: pa.Table) -> str:
    """Write a part: history first, so that the trials file acknowledges both; return the name of its files.

    The history carries the digest of its trials, so two parts never share a file.
    """
    data = parquet.encode(trials)
    mine = digest(data)
    extra = {**(history.schema.metadata or {}), b"flatdist.trials": mine.encode()}
    steps = parquet.encode(history.replace_schema_metadata(extra))
    name = f"{part}-{digest(steps)}-{mine}"
    files.write(part_path("history", name), steps)
    files.write(part_path("trials", name), data)
    return name


def write_rows(files: Filesystem, generations: Generations, trials: Sequence[Row], history: Sequence[Row]) -> str:
    """Write replicates and their history as one part; see :meth:`flatdist.store.store.Store.write`."""
    if not trials and not history:
        return ""
    keys = [_key(row, "trials") for row in trials]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise StoreError(f"replicate {twice[1]} of cell {twice[0]} is given twice; give each replicate one row")
    lost = {_key(row, "history") for row in history} - set(keys)
    if lost:
        cell_id, replicate = min(lost)
        raise StoreError(f"history of replicate {replicate} of cell {cell_id} has no row in trials")
    part = part_name((cell_id, replicate, generations[cell_id, replicate]) for cell_id, replicate in keys)

    def table(table_name: str, rows: Iterable[Row]) -> pa.Table:
        rows = list(rows)
        numbers = [generations[_key(row, table_name)] for row in rows]
        return rows_to_table(table_name, rows, {"generation": numbers, "part": [part] * len(rows)})

    ordered = table("history", sorted(history, key=lambda row: (*_key(row, "history"), row.get("step") or 0)))
    return write_part(files, part, table("trials", sorted(trials, key=lambda row: _key(row, "trials"))), ordered)


def write_failures(files: Filesystem, rows: Sequence[Row], generations: Generations) -> None:
    """Write rows of failures, credentials removed from their texts."""
    clean = [
        {name: redact(str(value)) if name in _TEXTS and value is not None else value for name, value in row.items()}
        for row in rows
    ]
    numbers = [generations[row["cell_id"], int(row["replicate"])] for row in clean]
    part = digest(repr([sorted((key, str(value)) for key, value in row.items()) for row in clean]).encode())
    bookkeeping: dict[str, Sequence[Any]] = {"generation": numbers, "part": [part] * len(clean)}
    data = parquet.encode(rows_to_table("failures", clean, bookkeeping))
    files.write(part_path("failures", f"{part}-{digest(data)}"), data)


def read_failures(files: Filesystem) -> tuple[pa.Table, list[Damaged]]:
    """Read all failures ever recorded, in order of cell, replicate, attempt and time."""
    import pyarrow as pa

    def read(path: str) -> pa.Table | Damaged:
        try:
            return plain(parquet.read_part(files, "failures", path, None))
        except Damaged as damage:
            return damage

    found = files.map(read, [info.path for info in files.list(part_folder("failures"))])
    tables = [one for one in found if not isinstance(one, Damaged)]
    if not tables:
        return empty("failures"), [one for one in found if isinstance(one, Damaged)]
    whole = pa.concat_tables(tables, promote_options="default")
    order = [(name, "ascending") for name in ("cell_id", "replicate", "generation", "attempt", "at", "part")]
    return whole.sort_by(order), [one for one in found if isinstance(one, Damaged)]


def count_failures(table: pa.Table, generations: Generations) -> Counter[Key]:
    """Count the failures of every key since it was last invalidated."""
    counts: Counter[Key] = Counter()
    columns = (table.column(name).to_pylist() for name in ("cell_id", "replicate", "generation"))
    for cell_id, replicate, generation in zip(*columns, strict=True):
        if generation >= generations[cell_id, replicate]:
            counts[cell_id, replicate] += 1
    return counts


def copy_part(files: Filesystem, theirs: Filesystem, name: str) -> None:
    """Copy a part unchanged, with the acknowledgement last."""
    trials, history = (theirs.read(part_path(table, name)) for table in ("trials", "history"))
    files.write(part_path("history", history_name(name)), history)
    files.write(part_path("trials", name), trials)


def _key(row: Row, table: str) -> Key:
    try:
        return str(row["cell_id"]), int(row["replicate"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a row of {table} needs a cell_id and a replicate; it has {sorted(row)}") from error
