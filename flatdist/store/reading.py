"""Queries: which files, columns and rows to read for a question about trials or history, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from flatdist.cells.cell import FIELDS
from flatdist.cells.columns import BOOKKEEPING, HISTORY, OLDER_NULLS, TRIALS, column_names
from flatdist.errors import StoreError, did_you_mean
from flatdist.expressions import HISTORY_NAMES as NAMES_OF_HISTORY
from flatdist.expressions import TRIAL_NAMES as NAMES_OF_TRIALS
from flatdist.expressions import Condition, Where, conjunction, holding, parse_where
from flatdist.store import parquet
from flatdist.store.documents import Tombstones
from flatdist.store.filesystem import Damaged, Filesystem, warn_damaged
from flatdist.store.index import Array, Selection, select
from flatdist.store.layout import part_path, stem
from flatdist.store.parquet import SegmentRows
from flatdist.store.schema import empty, with_columns
from flatdist.store.snapshot import Catalog, Segment, Snapshot, take_snapshot

if TYPE_CHECKING:
    import pyarrow as pa

Answer = TypeVar("Answer")

TRIAL_NAMES = (*column_names(TRIALS), *column_names(BOOKKEEPING))
HISTORY_NAMES = (*column_names(HISTORY), *column_names(BOOKKEEPING))
_ALONG_TRAINING = set(HISTORY_NAMES) - set(FIELDS)
_BOTH = tuple(dict.fromkeys((*HISTORY_NAMES, *TRIAL_NAMES)))
_POSITION = "flatdist:position"
_ATTEMPTS = 1000
_LEFT_OUT = "left out; 'flatdist sweep' runs their replicates again, or restore the files from a backup"


@dataclass(frozen=True)
class Scope:
    """The rows requested, before conditions.

    Attributes:
        cell_ids: only these cells; None for all.
        follow: the cells' configurations at any numerics, instead of the very cells.
        all_numerics: also rows of older numerics than a configuration's newest.
    """

    cell_ids: Collection[str] | None = None
    follow: bool = False
    all_numerics: bool = False

    def narrow(self, selection: Selection) -> Selection:
        """Return the rows in scope."""
        if self.cell_ids is not None:
            selection = selection.of_cells(self.cell_ids, follow=self.follow)
        return selection if self.all_numerics else selection.latest_numerics()


@dataclass(frozen=True)
class View:
    """A snapshot, and the rows that count in it."""

    snapshot: Snapshot
    selection: Selection


class Reread(Exception):
    """Damage was found, and named, while rows were read: other rows hold without what is damaged."""


class Reader:
    """Answers queries from one store, each from a snapshot of its own.

    Every query may raise FileNotFoundError if a file is deleted while it is read: retry.
    """

    def __init__(self, files: Filesystem, tombstones: Tombstones, catalog: Catalog) -> None:
        self._files = files
        self._tombstones = tombstones
        self._catalog = catalog
        self._told: set[str] = set()  # damage that was named

    def view(self, *, whole: bool = False) -> tuple[View, dict[str, Damaged]]:
        """The store without its damaged parts, and their damage; ``whole`` checks every byte of the parts."""
        snapshot = take_snapshot(self._files, self._tombstones)
        sources, damaged = self._catalog.sources(snapshot, whole=whole)
        parts = tuple(info for info in snapshot.parts if stem(info.path) not in damaged)
        return View(replace(snapshot, parts=parts), select(sources, snapshot.generations)), damaged

    def tell(self, damaged: Sequence[Damaged], outcome: str = _LEFT_OUT) -> None:
        """Report damaged files whose rows are missing, each once."""
        new = [damage for damage in damaged if str(damage) not in self._told]
        self._told |= {str(damage) for damage in new}
        warn_damaged(self._files.uri, new, outcome)

    def trials(self, scope: Scope, where: Where, columns: Sequence[str] | None) -> pa.Table:
        """Return trials with the wanted columns, by default all but the store's own."""
        conditions = parse_where(where, NAMES_OF_TRIALS)
        names = checked_columns(columns, TRIAL_NAMES, "trials")

        def read(view: View) -> pa.Table:
            rows, _ = self.rows(view, "trials", scope.narrow(view.selection), _with_older(names), conditions)
            newer = (name for name in rows.column_names if name not in (*TRIAL_NAMES, *HISTORY_NAMES))
            every = [*column_names(TRIALS), *newer] if names is None else names
            rows = with_columns(rows, "trials", every) if names is None else rows
            return _without_older_nulls(rows).select(every)

        return self._reading(read)

    def history(self, scope: Scope, where: Where, columns: Sequence[str] | None) -> pa.Table:
        """Return history with the wanted columns, joined with those that only trials have."""
        own, of_trials, mixed = _sorted_by_table(parse_where(where, NAMES_OF_HISTORY))
        names = checked_columns(columns, _BOTH, "history") or list(column_names(HISTORY))
        deciding = sorted({name for condition in mixed for name in condition.names})
        joined = [name for name in names if name not in HISTORY_NAMES]
        of_cells = list(dict.fromkeys([*joined, *(name for name in deciding if name not in _ALONG_TRAINING)]))
        mine = [name for name in names if name in HISTORY_NAMES]
        mine = list(dict.fromkeys([*mine, *(name for name in deciding if name in _ALONG_TRAINING)]))

        def read(view: View) -> pa.Table:
            import pyarrow as pa

            selection, trials = scope.narrow(view.selection), pa.table({})
            if of_cells or of_trials:
                trials, position = self.rows(view, "trials", selection, _with_older(of_cells), of_trials)
                trials, selection = _without_older_nulls(trials), selection.where(position)
            table, position = self.rows(view, "history", selection, mine, own)
            if mixed:
                sides = {name: table if name in _ALONG_TRAINING else trials.take(position) for name in deciding}
                kept = rows_that_hold(pa.table({name: side.column(name) for name, side in sides.items()}), mixed)
                table, position = table.filter(kept), position[kept]
            for name in joined:
                table = table.append_column(name, trials.column(name).take(position))
            return table.select(names)

        return self._reading(read)

    def _reading(self, read: Callable[[View], Answer]) -> Answer:
        """Read; if there is damage, report it and read again without it."""
        for _ in range(_ATTEMPTS):
            view, damaged = self.view()
            self.tell([*damaged.values()])
            try:
                return read(view)
            except Reread:
                continue
        raise StoreError(f"store {self._files.uri}: every read finds new damage; check the disk")

    def rows(
        self,
        view: View,
        table: str,
        selection: Selection,
        columns: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
    ) -> tuple[pa.Table, Array]:
        """Read rows of a selection that satisfy some conditions, in the order of the selection and by step.

        Returns:
            A table with ``columns``, by default those that the files have, and each row's position in the selection.

        Raises:
            Reread: there is damage; it has been named.
        """
        used = selection.used_sources()
        segments = [one for one in view.snapshot.manifest.segments if one.name in used]
        parts = [stem(info.path) for info in view.snapshot.parts if stem(info.path) in used]
        needed = None if columns is None else _needed(columns, conditions, table)
        pieces = [self._of_segment(segment, table, selection, needed, conditions) for segment in segments]
        pieces += self._of_parts(parts, table, selection, needed, conditions)
        rows, position = _stacked(pieces, table, needed)
        if len(segments) == 1 and not parts and segments[0].seals:  # written in this order
            return rows if columns is None else with_columns(rows, table, columns), position
        ahead = np.diff(position)
        if table == "trials":
            if not (ahead > 0).all():
                order = np.argsort(position, kind="stable")
                rows, position = rows.take(order), position[order]
        elif (ahead < 0).any() or not _steps_rise(rows, ahead):
            order = _order(position, rows.column("step").to_numpy())
            rows, position = rows.take(order), position[order]
        return rows if columns is None else with_columns(rows, table, columns), position

    def _of_segment(
        self,
        segment: Segment,
        table: str,
        selection: Selection,
        columns: list[str] | None,
        conditions: Sequence[Condition],
    ) -> tuple[pa.Table, Array]:
        """The wanted rows of a segment, and their positions in the selection."""
        mine = selection.within(segment.name)
        everything = len(mine) == segment.trials
        places = rows_of(selection, mine, table, numbered=not everything)
        if places is None and columns is not None:
            columns = list(dict.fromkeys([*columns, "cell_id", "replicate"]))
        spans = None if places is None or everything else spans_of(places[0])
        if places is not None and columns == []:
            return empty(table, []), places[1]
        found = parquet.read_segment(self._files, table, segment.name, segment.seal(table), columns, spans)
        self._stop_at_damage(segment, table, found)
        rows = with_columns(found.table, table, columns) if columns is not None else found.table
        if places is None:
            position = selection.locate(rows, segment.name)
            kept = np.flatnonzero(position >= 0)
            rows, position = (rows, position) if len(kept) == len(rows) else (rows.take(kept), position[kept])
        else:
            numbers, position = places
            if not everything:
                at = numbers if found.rows is None else np.searchsorted(found.rows, numbers)
                rows = rows if len(at) == len(rows) else rows.take(at)
        return _filtered(rows, position, table, conditions)

    def _of_parts(
        self,
        parts: Sequence[str],
        table: str,
        selection: Selection,
        columns: list[str] | None,
        conditions: Sequence[Condition],
    ) -> list[tuple[pa.Table, Array]]:
        wanted = None if columns is None else list(dict.fromkeys([*columns, "cell_id", "replicate"]))

        def read(part: str) -> pa.Table | Damaged:
            try:
                return parquet.read_part(self._files, table, part_path(table, part), wanted)
            except Damaged as damage:
                return damage
            except FileNotFoundError:
                if table == "trials" or not self._is_there(part):
                    raise
                return Damaged(part_path(table, part), "is missing")

        pieces, damaged = [], []
        for part, rows in zip(parts, self._files.map(read, parts), strict=True):
            if isinstance(rows, Damaged):
                damaged.append(self._catalog.note_part(part, rows))
                continue
            position = selection.locate(rows, part)
            kept = np.flatnonzero(position >= 0)
            pieces.append((rows, position) if len(kept) == len(rows) else (rows.take(kept), position[kept]))
        if damaged:
            self.tell(damaged)
            raise Reread
        if len(pieces) > 1:  # filtered at once: conditions cost more than rows here
            position = np.concatenate([one for _, one in pieces])
            pieces = [(_concatenate([rows for rows, _ in pieces], table, wanted), position)]
        return [_filtered(rows, position, table, conditions) for rows, position in pieces]

    def _is_there(self, part: str) -> bool:
        try:
            self._files.read(part_path("trials", part))
        except FileNotFoundError:
            return False
        return True

    def _stop_at_damage(self, segment: Segment, table: str, found: SegmentRows) -> None:
        if found.damage is not None:
            self.tell(self._catalog.note(segment.name, table, found))
            raise Reread


def rows_of(selection: Selection, mine: Array, table: str, *, numbered: bool = True) -> tuple[Array, Array] | None:
    """Which rows of a file some positions of a selection are, and the position of each; None where only it can tell.

    Where they are all of the file's rows their numbers, in order, need not be made: they are then empty.
    """
    if table == "trials":
        return selection.row[mine], mine
    if (selection.start[mine] < 0).any():
        return None
    steps = selection.steps[mine]
    if not numbered:
        return np.zeros(0, np.int64), np.repeat(mine, steps)
    first = np.repeat(selection.start[mine] - (np.cumsum(steps) - steps), steps)
    return first + np.arange(int(steps.sum())), np.repeat(mine, steps)


def rows_that_hold(table: pa.Table, conditions: Sequence[Condition]) -> Array:
    """Return which rows satisfy the conditions, as a mask."""
    import pyarrow as pa

    mask = np.zeros(len(table), bool)
    numbered = table.append_column(_POSITION, pa.array(np.arange(len(table))))
    expression = conjunction(conditions)
    kept = numbered if expression is None else numbered.filter(expression)
    mask[kept.column(_POSITION).to_numpy()[holding(kept, conditions)]] = True
    return mask


def checked_columns(columns: Sequence[str] | None, known: Sequence[str], table: str) -> list[str] | None:
    """Return the wanted columns, each once.

    Raises:
        StoreError: one does not exist.
    """
    if columns is None:
        return None
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in known:
            raise StoreError(f"{table} has no column {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")
    return list(dict.fromkeys(names))


def spans_of(numbers: Array) -> list[tuple[int, int]]:
    """Return row numbers as (first, stop) of their runs."""
    if len(numbers) == 0:
        return []
    cuts = np.flatnonzero(np.diff(numbers) != 1)
    firsts, lasts = numbers[np.r_[0, cuts + 1]], numbers[np.r_[cuts, len(numbers) - 1]]
    return list(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True))


def _needed(columns: Iterable[str], conditions: Sequence[Condition], table: str) -> list[str]:
    names = [*columns, *(name for condition in conditions for name in sorted(condition.names))]
    return list(dict.fromkeys([*names, "step"] if table == "history" else names))


def _filtered(rows: pa.Table, position: Array, table: str, conditions: Sequence[Condition]) -> tuple[pa.Table, Array]:
    if not conditions or len(rows) == 0:
        return rows, position
    named = [name for condition in conditions for name in sorted(condition.names)]
    rows = with_columns(rows, table, list(dict.fromkeys([*rows.column_names, *named])))
    kept = rows_that_hold(rows, conditions)
    return rows.filter(kept), position[kept]


def _stacked(
    pieces: Sequence[tuple[pa.Table, Array]], table: str, columns: Sequence[str] | None
) -> tuple[pa.Table, Array]:
    position = np.concatenate([np.zeros(0, np.int64), *(one for _, one in pieces)])
    filled = [rows for rows, _ in pieces if len(rows)]
    if filled:
        return _concatenate(filled, table, None), position
    if columns == []:
        return empty(table, []), position
    return with_columns(empty(table), table, columns) if columns is not None else empty(table), position


def _concatenate(tables: Sequence[pa.Table], table: str, columns: Sequence[str] | None) -> pa.Table:
    """Concatenate by the union of the columns; wanted columns that no file has are null."""
    import pyarrow as pa

    rows = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
    return rows if columns is None else with_columns(rows, table, columns)


def _steps_rise(rows: pa.Table, ahead: Array) -> bool:
    return bool(((ahead > 0) | (np.diff(rows.column("step").to_numpy()) > 0)).all())


def _with_older(columns: list[str] | None) -> list[str] | None:
    """The wanted columns and those that say what a null in them means."""
    if columns is None:
        return None
    beside = (OLDER_NULLS.get(name) for name in columns)
    return list(dict.fromkeys([*columns, *(name for name in beside if name is not None)]))


def _order(position: Array, steps: Array) -> Array:
    """Return the order by position and step; rows of a key that are together, their steps rising, move together."""
    ahead = np.diff(position)
    starts = np.r_[0, np.flatnonzero(ahead) + 1]
    first = position[starts]
    if not ((ahead != 0) | (np.diff(steps) > 0)).all() or len(np.unique(first)) < len(first):
        return np.lexsort((steps, position))
    runs = np.argsort(first)
    lengths = np.diff(np.r_[starts, len(position)])[runs]
    return np.repeat(starts[runs] - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(position))


def _without_older_nulls(rows: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    for name in OLDER_NULLS.keys() & set(rows.column_names):
        index = rows.column_names.index(name)
        if (column := rows.column(index)).null_count:
            filled = column.fill_null(FIELDS[name].default)
            if (beside := OLDER_NULLS[name]) is not None:
                filled = pc.if_else(rows.column(beside).is_valid(), filled, column)
            rows = rows.set_column(index, rows.schema.field(index), filled)
    return rows


def _sorted_by_table(conditions: Sequence[Condition]) -> tuple[list[Condition], list[Condition], list[Condition]]:
    """Conditions on history only, on trials only, and on both; a field that both have means the cell's."""
    own, of_trials, mixed = [], [], []
    for condition in conditions:
        if condition.names <= _ALONG_TRAINING:
            own.append(condition)
        elif condition.names & _ALONG_TRAINING <= {"cell_id", "replicate"}:
            of_trials.append(condition)
        else:
            mixed.append(condition)
    return own, of_trials, mixed
