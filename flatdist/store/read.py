"""Reading trials and history: each key once, filters pushed down, columns that only some parts have read as null."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flatdist.cells.columns import BOOKKEEPING, HISTORY, OLDER_VALUES, TRIALS, column_names
from flatdist.errors import StoreError
from flatdist.expressions import Condition, conjunction, holding
from flatdist.store.filesystem import Filesystem
from flatdist.store.index import INDEX_COLUMNS, Array, Selection
from flatdist.store.layout import part_path, segment_path, stem
from flatdist.store.location import is_local
from flatdist.store.manifest import Segment, Snapshot
from flatdist.store.parts import Unreadable, read_parts
from flatdist.store.schema import conform, empty, encoded

if TYPE_CHECKING:
    import pyarrow as pa

KEY = ("cell_id", "replicate")
TRIAL_NAMES = (*column_names(TRIALS), *column_names(BOOKKEEPING))
HISTORY_NAMES = (*column_names(HISTORY), *column_names(BOOKKEEPING))
_MOST_CELLS_PUSHED_DOWN = 2_000  # a longer list of cells costs more to compare with than it saves
_WHOLE = 1 << 25  # bytes; a smaller remote file is fetched in one request


@dataclass(frozen=True)
class Loaded:
    """Rows of several files, each with the file it came from in ``source``, and the files that could not be read."""

    table: pa.Table
    unreadable: tuple[Unreadable, ...]


def load_part_rows(
    files: Filesystem, table: str, parts: Iterable[str], columns: Iterable[str] | None, *, whole: bool = False
) -> Loaded:
    """Read parts by name; with ``whole`` those damaged in columns that are not wanted count as unreadable.

    Raises:
        FileNotFoundError: a part has vanished: take a new snapshot.
    """
    paths = [part_path(table, part) for part in parts]
    tables, unreadable = read_parts(files, table, paths, columns, whole=whole)
    sourced = [_with_source(rows, stem(path)) for path, rows in tables.items()]
    return Loaded(_concatenate(sourced, table, columns), tuple(unreadable))


def load_segment_rows(
    files: Filesystem,
    table: str,
    segments: Sequence[Segment],
    columns: Iterable[str] | None,
    conditions: Sequence[Condition] = (),
    cells: Sequence[str] | None = None,
) -> pa.Table:
    """Read compacted files, only the rows that may satisfy the conditions and belong to the cells.

    Raises:
        FileNotFoundError: a file has vanished: take a new snapshot.
        StoreError: a file is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = None if columns is None else list(columns)
    expression = conjunction(conditions)
    if cells is not None and len(cells) <= _MOST_CELLS_PUSHED_DOWN:
        inside = pc.field("cell_id").isin(list(cells))
        expression = inside if expression is None else expression & inside
    tables = []
    for segment in segments:
        if (segment.trials if table == "trials" else segment.history) == 0:
            continue
        path = segment_path(table, segment.name)
        try:
            rows = _read_segment(files, path, table, wanted, expression)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
            if isinstance(error, OSError) and "checksum" not in str(error):  # of the storage, not of the content
                raise
            raise StoreError(
                f"store {files.uri}: {path} cannot be read ({error}); restore it from a backup, or give it "
                f"up with 'flatdist gc --drop-segment {segment.name}': its replicates then run again"
            ) from error
        tables.append(_with_source(rows, segment.name))
    return _concatenate(tables, table, wanted)


def filter_rows(table: pa.Table, conditions: Sequence[Condition]) -> pa.Table:
    """Return the rows that may satisfy the conditions: those that Arrow does not rule out."""
    expression = conjunction(conditions)
    return table if expression is None else table.filter(expression)


def rows_that_hold(table: pa.Table, conditions: Sequence[Condition]) -> npt.NDArray[np.bool_]:
    """Return which rows satisfy the conditions."""
    numbered = table.append_column("row", [np.arange(len(table))])
    kept = filter_rows(numbered, conditions)
    mask = np.zeros(len(table), bool)
    mask[kept.column("row").to_numpy()[holding(kept, conditions)]] = True
    return mask


def read_trials(
    files: Filesystem,
    snapshot: Snapshot,
    selection: Selection,
    part_rows: pa.Table,
    columns: Sequence[str],
    conditions: Sequence[Condition],
) -> tuple[pa.Table, Selection]:
    """Read the trials of a selection.

    Args:
        files: the storage.
        snapshot: where the selection comes from.
        selection: the rows that hold.
        part_rows: the rows of the snapshot's parts, with at least ``columns`` and the conditions' columns.
        columns: what to read.
        conditions: what the rows must satisfy.

    Returns:
        A table with ``columns`` and the part of the selection that satisfies the conditions, row for row.
    """
    needed = _needed(columns, conditions)
    segments = [segment for segment in snapshot.manifest.segments if segment.name in selection.used_sources()]
    compacted = load_segment_rows(files, "trials", segments, needed, conditions, _cells_of(selection))
    rows = _stack([compacted, filter_rows(with_columns(part_rows, "trials", [*needed, "source"]), conditions)])
    position = selection.locate(rows)
    order = np.argsort(position, kind="stable")[np.count_nonzero(position < 0) :]
    rows, position = rows.take(order), position[order]
    kept = holding(rows, conditions)
    if not kept.all():
        rows, position = rows.filter(kept), position[kept]
    return _without_older_nulls(rows.select(list(columns))), selection.where(position)


def read_history(
    files: Filesystem,
    snapshot: Snapshot,
    selection: Selection,
    columns: Sequence[str],
    conditions: Sequence[Condition],
) -> tuple[pa.Table, Array, tuple[Unreadable, ...]]:
    """Read the history of a selection, in the order of the selection and by step.

    Returns:
        A table with ``columns``, each row's position in the selection, and the files that could not be read.
    """
    needed = _needed((*columns, "step"), conditions)
    used = selection.used_sources()
    segments = [segment for segment in snapshot.manifest.segments if segment.name in used]
    parts = [stem(info.path) for info in snapshot.parts if stem(info.path) in used]
    compacted = load_segment_rows(files, "history", segments, needed, conditions, _cells_of(selection))
    loaded = load_part_rows(files, "history", parts, needed)
    rows = _stack([compacted, filter_rows(loaded.table, conditions)])
    position = selection.locate(rows)
    if (position < 0).any():
        kept = np.flatnonzero(position >= 0)
        rows, position = rows.take(kept), position[kept]
    holds = holding(rows, conditions)
    if not holds.all():
        rows, position = rows.filter(holds), position[holds]
    order = _order(position, rows.column("step").to_numpy())
    if order is not None:
        rows, position = rows.take(order), position[order]
    return rows.select(list(columns)), position, loaded.unreadable


def load_index(files: Filesystem, segments: Sequence[Segment]) -> pa.Table:
    """Read the columns of compacted trials that decide which rows hold."""
    return load_segment_rows(files, "trials", segments, INDEX_COLUMNS)


def segment_columns(files: Filesystem, table: str, segments: Sequence[Segment]) -> list[str]:
    """Return the columns that compacted files have, in their order."""
    import pyarrow.parquet as pq

    names: dict[str, None] = {}
    for segment in segments:
        with _open(files, segment_path(table, segment.name)) as handle:
            names.update(dict.fromkeys(pq.read_schema(handle).names))
    return list(names)


def _order(position: Array, step: Array) -> Array | None:
    """The order by position and step; None where the rows already have it, as compacted ones do."""
    ahead = np.diff(position)
    if ((ahead > 0) | ((ahead == 0) & (np.diff(step) > 0))).all():
        return None
    return np.lexsort((step, position))


def _cells_of(selection: Selection) -> list[str] | None:
    """The cells to push down; None where the selection is all there is."""
    cells = selection.used_cells()
    return None if len(cells) == len(selection.cells) else cells


def _needed(columns: Iterable[str], conditions: Sequence[Condition]) -> list[str]:
    names = [*KEY, *columns, *(name for condition in conditions for name in sorted(condition.names))]
    return list(dict.fromkeys(names))


def _read_segment(
    files: Filesystem, path: str, table: str, columns: list[str] | None, expression: object | None
) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    # Columns that were added after this file was written are null in it, for the filter too.
    declared = empty(table).schema
    parquet = ds.ParquetFileFormat(dictionary_columns=encoded(table), page_checksum_verification=True)
    with _open(files, path) as handle:
        written = pq.read_schema(handle)
        handle.seek(0)
        names = [*declared.names, *(name for name in written.names if name not in declared.names)]
        schema = pa.schema([declared.field(name) if name in declared.names else written.field(name) for name in names])
        fragment = parquet.make_fragment(handle)
        data = ds.FileSystemDataset([fragment], _encoded(schema), parquet).to_table(
            columns=names if columns is None else [name for name in columns if name in names], filter=expression
        )
    return conform(data, table)


def _encoded(schema: pa.Schema) -> pa.Schema:
    """The schema as files are read: repeated text as dictionaries."""
    import pyarrow as pa

    kind = pa.dictionary(pa.int32(), pa.string())
    for name in ("cell_id", "part", "configuration_id"):
        index = schema.get_field_index(name)
        if index >= 0:
            schema = schema.set(index, schema.field(index).with_type(kind))
    return schema


def _open(files: Filesystem, path: str) -> pa.NativeFile:
    import pyarrow as pa

    if is_local(files.uri):
        return pa.PythonFile(files.open(path), mode="r")
    handle = files.open(path)
    if getattr(handle, "size", _WHOLE + 1) <= _WHOLE:
        handle.close()
        return pa.BufferReader(files.read(path))
    return pa.PythonFile(handle, mode="r")


def _with_source(table: pa.Table, source: str) -> pa.Table:
    import pyarrow as pa

    indices = pa.array(np.zeros(len(table), np.int32))
    return table.append_column("source", pa.DictionaryArray.from_arrays(indices, pa.array([source])))


def _stack(tables: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    filled = [table for table in tables if len(table)] or list(tables[:1])
    return filled[0] if len(filled) == 1 else pa.concat_tables(filled, promote_options="default")


def _concatenate(tables: Sequence[pa.Table], table: str, columns: Iterable[str] | None) -> pa.Table:
    """Concatenate by the union of the columns; wanted columns that no file has are null."""
    import pyarrow as pa

    if not tables:
        tables = [_with_source(_encode_empty(empty(table)), "")]
    whole = pa.concat_tables(tables, promote_options="default")
    return whole if columns is None else with_columns(whole, table, [*columns, "source"])


def with_columns(rows: pa.Table, table: str, columns: Sequence[str]) -> pa.Table:
    """Return some columns; those that no file had are null."""
    import pyarrow as pa

    declared = empty(table).schema
    for name in columns:
        if name not in rows.column_names:
            field = declared.field(name) if name in declared.names else pa.field(name, pa.null())
            rows = rows.append_column(field.with_nullable(True), pa.nulls(len(rows), field.type))
    return rows.select(list(columns))


def _without_older_nulls(rows: pa.Table) -> pa.Table:
    for name in OLDER_VALUES.keys() & set(rows.column_names):
        index = rows.column_names.index(name)
        rows = rows.set_column(index, rows.schema.field(index), rows.column(index).fill_null(OLDER_VALUES[name]))
    return rows


def _encode_empty(table: pa.Table) -> pa.Table:
    return table.cast(_encoded(table.schema))
