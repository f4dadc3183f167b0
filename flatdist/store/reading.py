"""Queries: which files, columns and rows to read for a question about trials or history, and in what order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flatdist.cells.cell import FIELDS
from flatdist.cells.columns import BOOKKEEPING, HISTORY, OLDER_NULLS, TRIALS, column_names
from flatdist.errors import StoreError, did_you_mean
from flatdist.expressions import HISTORY_NAMES as NAMES_OF_HISTORY
from flatdist.expressions import TRIAL_NAMES as NAMES_OF_TRIALS
from flatdist.expressions import Condition, Where, conjunction, holding, parse_where
from flatdist.store import arrow as pa
from flatdist.store import parquet
from flatdist.store.catalog import Catalog, Reread, View
from flatdist.store.filesystem import Damaged
from flatdist.store.index import Array, Selection
from flatdist.store.layout import part_path
from flatdist.store.manifest import Segment
from flatdist.store.schema import empty, with_columns

TRIAL_NAMES = (*column_names(TRIALS), *column_names(BOOKKEEPING))
HISTORY_NAMES = (*column_names(HISTORY), *column_names(BOOKKEEPING))
_ALONG_TRAINING = set(HISTORY_NAMES) - set(FIELDS)
_BOTH = tuple(dict.fromkeys((*HISTORY_NAMES, *TRIAL_NAMES)))
_POSITION = "flatdist:position"


@dataclass(frozen=True)
class Scope:
    """The rows requested, before conditions."""

    cell_ids: Collection[str] | None = None  # only these cells; None for all
    follow: bool = False  # the cells' configurations at any numerics, instead of the very cells
    all_numerics: bool = False  # also rows of older numerics than a configuration's newest

    def narrow(self, selection: Selection) -> Selection:
        """Return the rows in scope."""
        if self.cell_ids is not None:
            selection = selection.of_cells(self.cell_ids, follow=self.follow)
        return selection if self.all_numerics else selection.latest_numerics()


def read_trials(catalog: Catalog, scope: Scope, where: Where, columns: Sequence[str] | None) -> pa.Table:
    """Return trials with the wanted columns, by default all but the store's own."""
    conditions = parse_where(where, NAMES_OF_TRIALS)
    names = _checked(columns, TRIAL_NAMES, "trials")

    def read(view: View) -> pa.Table:
        rows, _ = read_rows(catalog, scope.narrow(view.selection), "trials", _with_older(names), conditions)
        if names is not None:
            return _without_older_nulls(rows).select(names)
        newer = (name for name in rows.column_names if name not in _BOTH)
        return _without_older_nulls(with_columns(rows, "trials", [*column_names(TRIALS), *newer]))

    return catalog.answer(read)


def read_history(catalog: Catalog, scope: Scope, where: Where, columns: Sequence[str] | None) -> pa.Table:
    """Return history with the wanted columns, joined with those that only trials have."""
    # on history only, on trials only, and on both; a field that both have means the cell's
    own, of_trials, mixed = [], [], []
    for condition in parse_where(where, NAMES_OF_HISTORY):
        if condition.names <= _ALONG_TRAINING:
            own.append(condition)
        elif condition.names & _ALONG_TRAINING <= {"cell_id", "replicate"}:
            of_trials.append(condition)
        else:
            mixed.append(condition)
    names = _checked(columns, _BOTH, "history") or list(column_names(HISTORY))
    deciding = _names(mixed)
    joined = [name for name in names if name not in HISTORY_NAMES]
    of_cells = _united(joined, (name for name in deciding if name not in _ALONG_TRAINING))
    mine = _united((name for name in names if name in HISTORY_NAMES), (n for n in deciding if n in _ALONG_TRAINING))

    def read(view: View) -> pa.Table:
        selection, trials = scope.narrow(view.selection), pa.table({})
        if of_cells or of_trials:
            trials, position = read_rows(catalog, selection, "trials", _with_older(of_cells), of_trials)
            trials, selection = _without_older_nulls(trials), selection.where(position)
        table, position = read_rows(catalog, selection, "history", mine, own)
        if mixed:
            sides = {name: table if name in _ALONG_TRAINING else trials.take(position) for name in deciding}
            kept = _holding(pa.table({name: side.column(name) for name, side in sides.items()}), mixed)
            table, position = table.filter(kept), position[kept]
        for name in joined:
            table = table.append_column(name, trials.column(name).take(position))
        return table.select(names)

    return catalog.answer(read)


def read_rows(
    catalog: Catalog,
    selection: Selection,
    table: str,
    columns: Sequence[str] | None = None,
    conditions: Sequence[Condition] = (),
) -> tuple[pa.Table, Array]:
    """Read rows of a selection that satisfy some conditions, in the order of the selection and by step.

    Returns:
        A table with ``columns``, by default those that the files have, and each row's position in the selection.

    Raises:
        Reread: there is damage.
        FileNotFoundError: a file is gone.
    """
    needed = None
    if columns is not None:  # a table without columns would not know how many rows it has
        needed = _united(columns, _names(conditions), ["step"] if table == "history" else ["replicate"])
    used = selection.used()
    pieces = [_of_segment(catalog, one.segment, table, selection, needed) for one in used if one.segment is not None]
    pieces += _of_parts(catalog, [one.name for one in used if one.segment is None], table, selection, needed)
    pieces = [_filtered(rows, position, table, conditions) for rows, position in pieces]
    position = np.concatenate([np.zeros(0, np.int64), *(one for _, one in pieces)])
    rows = _concatenated([rows for rows, _ in pieces], table)
    rows = rows if needed is None else with_columns(rows, table, needed)
    if (np.diff(position) < 0).any():
        order = np.argsort(position, kind="stable")
        rows, position = rows.take(order), position[order]
    if table == "history" and len(rows):  # a key's rows are in one file, nearly always in order
        steps = rows.column("step").to_numpy()
        if ((np.diff(position) == 0) & (np.diff(steps) <= 0)).any():
            rows = rows.take(np.lexsort((steps, position)))
    return rows if columns is None else rows.select(list(columns)), position


def _of_segment(
    catalog: Catalog, segment: Segment, table: str, selection: Selection, columns: Sequence[str] | None
) -> tuple[pa.Table, Array]:
    """The wanted rows of a segment, and their positions in the selection."""
    mine = selection.within(segment.name)
    start, steps = selection.start[mine], selection.steps[mine]
    if table == "trials":
        start, steps = selection.row[mine], np.ones(len(mine), np.int64)
    numbers = None
    is_known = not (steps < 0).any()
    if not is_known:
        columns = None if columns is None else _united(columns, ["cell_id", "replicate"])
    elif len(mine) < segment.trials:
        numbers = np.repeat(start - (np.cumsum(steps) - steps), steps) + np.arange(steps.sum())
    try:
        rows = parquet.read_segment(catalog.files, table, segment.name, segment.seals.get(table), columns, numbers)
    except Damaged as damage:
        raise Reread(catalog.note(segment.name, table, damage)) from damage
    return (rows, np.repeat(mine, steps)) if is_known else _located(rows, segment.name, selection)


def _of_parts(
    catalog: Catalog, parts: Sequence[str], table: str, selection: Selection, columns: Sequence[str] | None
) -> list[tuple[pa.Table, Array]]:
    """The wanted rows of parts as one piece, since conditions cost more than rows here."""
    wanted = None if columns is None else _united(columns, ["cell_id", "replicate"])

    def read(part: str) -> pa.Table:
        path = part_path(table, part)
        try:
            return parquet.read_part(catalog.files, table, path, wanted)
        except FileNotFoundError as error:
            if table == "trials":
                raise
            catalog.files.read(part_path("trials", part), checked=False)  # both are gone where this fails, too
            raise Damaged(path, "is missing") from error

    found, damaged = catalog.files.sift(read, parts)
    if damaged:
        catalog.bad_parts |= damaged
        raise Reread([*damaged.values()])
    pieces = [_located(rows, part, selection) for part, rows in found.items()]
    return pieces and [(_concatenated([rows for rows, _ in pieces], table), np.concatenate([one for _, one in pieces]))]


def _located(rows: pa.Table, source: str, selection: Selection) -> tuple[pa.Table, Array]:
    """Those of a file's rows that are in a selection, and their positions there."""
    position = selection.locate(rows, source)
    kept = np.flatnonzero(position >= 0)
    return (rows, position) if len(kept) == len(rows) else (rows.take(kept), position[kept])


def _filtered(rows: pa.Table, position: Array, table: str, conditions: Sequence[Condition]) -> tuple[pa.Table, Array]:
    if not conditions or len(rows) == 0:
        return rows, position
    kept = _holding(with_columns(rows, table, _united(rows.column_names, _names(conditions))), conditions)
    return rows.filter(kept), position[kept]


def _holding(table: pa.Table, conditions: Sequence[Condition]) -> Array:
    """Which rows satisfy the conditions, as a mask."""
    mask = np.zeros(len(table), bool)
    numbered = table.append_column(_POSITION, pa.array(np.arange(len(table))))
    expression = conjunction(conditions)
    kept = numbered if expression is None else numbered.filter(expression)
    mask[kept.column(_POSITION).to_numpy()[holding(kept, conditions)]] = True
    return mask


def _concatenated(tables: Sequence[pa.Table], table: str) -> pa.Table:
    """Tables together, by the union of their columns."""
    filled = [rows for rows in tables if len(rows)] or [empty(table)]
    return filled[0] if len(filled) == 1 else pa.concat_tables(filled, promote_options="default")


def _checked(columns: Sequence[str] | None, known: Sequence[str], table: str) -> list[str] | None:
    """The wanted columns, each once, all of which exist."""
    if columns is None:
        return None
    names = _united([columns] if isinstance(columns, str) else columns)
    for name in names:
        if name not in known:
            raise StoreError(f"{table} has no column {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")
    return names


def _names(conditions: Sequence[Condition]) -> list[str]:
    return sorted({name for condition in conditions for name in condition.names})


def _united(*names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for some in names for name in some))


def _with_older(columns: list[str] | None) -> list[str] | None:
    """The wanted columns and those that say what a null in them means."""
    return columns and _united(columns, (beside for name in columns if (beside := OLDER_NULLS.get(name)) is not None))


def _without_older_nulls(rows: pa.Table) -> pa.Table:
    for name in OLDER_NULLS.keys() & set(rows.column_names):
        index = rows.column_names.index(name)
        if (column := rows.column(index)).null_count:
            filled = column.fill_null(FIELDS[name].default)
            if (beside := OLDER_NULLS[name]) is not None:
                filled = pa.compute.if_else(rows.column(beside).is_valid(), filled, column)
            rows = rows.set_column(index, rows.schema.field(index), filled)
    return rows
