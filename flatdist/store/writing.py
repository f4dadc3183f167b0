"""From rows of results to a part in the store, and whether a store can be written at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatdist.errors import StoreError
from flatdist.store.filesystem import Filesystem
from flatdist.store.layout import part_name
from flatdist.store.parts import write_part
from flatdist.store.schema import rows_to_table
from flatdist.store.tombstones import Generations, Key

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]


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
        raise StoreError(f"history of replicate {replicate} of cell {cell_id} comes without its row of trials")
    name = part_name((cell_id, replicate, generations[cell_id, replicate]) for cell_id, replicate in keys)

    def table(table_name: str, rows: Iterable[Row]) -> pa.Table:
        rows = list(rows)
        numbers = [generations[_key(row, table_name)] for row in rows]
        return rows_to_table(table_name, rows, {"generation": numbers, "part": [name] * len(rows)})

    ordered = table("history", sorted(history, key=lambda row: (*_key(row, "history"), row.get("step") or 0)))
    write_part(files, name, table("trials", sorted(trials, key=lambda row: _key(row, "trials"))), ordered)
    return name


def check_access(files: Filesystem) -> None:
    """Write a file, read it back and delete it.

    Raises:
        StoreError: says what the store does not allow, and what to do.
    """
    path = f"probe-{uuid.uuid4().hex}"
    content = path.encode()
    files = files.hasty()
    files.write(path, content)
    try:
        found = files.read(path)
    except FileNotFoundError as error:
        raise StoreError(f"store {files.uri}: a file just written cannot be found; use another store") from error
    finally:
        files.delete(path)
    if found != content:
        raise StoreError(f"store {files.uri}: a file just written reads back differently; use another store")


def _key(row: Row, table: str) -> Key:
    try:
        return str(row["cell_id"]), int(row["replicate"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a row of {table} needs a cell_id and a replicate; it has {sorted(row)}") from error
