"""Queries: which files and columns to read for a question about trials or history, and in what order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flatdist.cells.cell import FIELDS
from flatdist.cells.columns import HISTORY, TRIALS, column_names
from flatdist.errors import StoreError, did_you_mean
from flatdist.expressions import HISTORY_NAMES as NAMES_OF_HISTORY
from flatdist.expressions import TRIAL_NAMES as NAMES_OF_TRIALS
from flatdist.expressions import Condition, Where, parse_where
from flatdist.store.cache import IndexCache
from flatdist.store.filesystem import Filesystem
from flatdist.store.index import INDEX_COLUMNS, Selection, select
from flatdist.store.layout import stem
from flatdist.store.manifest import Snapshot, take_snapshot
from flatdist.store.parts import warn_unreadable
from flatdist.store.read import (
    HISTORY_NAMES,
    TRIAL_NAMES,
    load_part_rows,
    read_history,
    read_trials,
    rows_that_hold,
    segment_columns,
    with_columns,
)
from flatdist.store.tombstones import Tombstones

if TYPE_CHECKING:
    import pyarrow as pa

_ALONG_TRAINING = set(HISTORY_NAMES) - set(FIELDS)
_BOTH = tuple(dict.fromkeys((*HISTORY_NAMES, *TRIAL_NAMES)))


@dataclass(frozen=True)
class Scope:
    """Which rows are asked for before any condition is looked at.

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


class Reader:
    """Answers queries from one store, each from a snapshot of its own.

    Every query may raise FileNotFoundError when a file vanishes while it is read: ask again.
    """

    def __init__(self, files: Filesystem, tombstones: Tombstones, index: IndexCache) -> None:
        self._files = files
        self._tombstones = tombstones
        self._index = index

    def trials(self, scope: Scope, where: Where, columns: Sequence[str] | None) -> pa.Table:
        """Return trials with the wanted columns, by default all but the store's own."""
        conditions = parse_where(where, NAMES_OF_TRIALS)
        names = checked_columns(columns, TRIAL_NAMES, "trials")
        snapshot, selection, rows = self._trial_rows(names, conditions)
        if names is None:
            found = [*segment_columns(self._files, "trials", snapshot.manifest.segments), *rows.column_names]
            newer = [name for name in dict.fromkeys(found) if name not in (*TRIAL_NAMES, "source")]
            names = [*column_names(TRIALS), *newer]
        table, _ = read_trials(self._files, snapshot, scope.narrow(selection), rows, names, conditions)
        return table

    def history(self, scope: Scope, where: Where, columns: Sequence[str] | None) -> pa.Table:
        """Return history with the wanted columns, joined with those that only trials have."""
        import pyarrow as pa

        own, of_trials, mixed = _sorted_by_table(parse_where(where, NAMES_OF_HISTORY))
        names = checked_columns(columns, _BOTH, "history") or list(column_names(HISTORY))
        deciding = sorted({name for condition in mixed for name in condition.names})
        joined = [name for name in names if name not in HISTORY_NAMES]
        of_cells = list(dict.fromkeys([*joined, *(name for name in deciding if name not in _ALONG_TRAINING)]))
        mine = [name for name in names if name in HISTORY_NAMES]
        mine = list(dict.fromkeys([*mine, *(name for name in deciding if name in _ALONG_TRAINING)]))

        snapshot, selection, rows = self._trial_rows(of_cells, of_trials)
        selection = scope.narrow(selection)
        trials = None
        if of_cells or of_trials:
            trials, selection = read_trials(self._files, snapshot, selection, rows, of_cells, of_trials)
        table, position, unreadable = read_history(self._files, snapshot, selection, mine, own)
        warn_unreadable(self._files.uri, unreadable, "left out of the history; the next run may run them again")
        if mixed:
            assert trials is not None
            sides = {name: table if name in _ALONG_TRAINING else trials.take(position) for name in deciding}
            kept = rows_that_hold(pa.table({name: side.column(name) for name, side in sides.items()}), mixed)
            table, position = table.filter(kept), position[kept]
        for name in joined:
            assert trials is not None
            table = table.append_column(name, trials.column(name).take(position))
        return table.select(names)

    def _trial_rows(
        self, columns: Sequence[str] | None, conditions: Sequence[Condition]
    ) -> tuple[Snapshot, Selection, pa.Table]:
        """A snapshot, the rows that hold in it, and the wanted columns of its parts."""
        import pyarrow as pa

        snapshot = take_snapshot(self._files, self._tombstones)
        wanted = None
        if columns is not None:
            named = (name for condition in conditions for name in sorted(condition.names))
            wanted = list(dict.fromkeys([*INDEX_COLUMNS, *columns, *named]))
        loaded = load_part_rows(self._files, "trials", [stem(info.path) for info in snapshot.parts], wanted)
        outcome = "left out; the next run sets them aside, and their replicates run again"
        warn_unreadable(self._files.uri, loaded.unreadable, outcome)
        compacted = self._index.load_segments(snapshot)
        parts = with_columns(loaded.table, "trials", [*INDEX_COLUMNS, "source"])
        index = pa.concat_tables([compacted, parts], promote_options="default")
        segments = {segment.name for segment in snapshot.manifest.segments}
        return snapshot, select(index, segments, snapshot.generations), loaded.table


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


def _sorted_by_table(conditions: Sequence[Condition]) -> tuple[list[Condition], list[Condition], list[Condition]]:
    """Conditions on history alone, on trials alone, and on both; a cell field that both have is the cell's."""
    own, of_trials, mixed = [], [], []
    for condition in conditions:
        if condition.names <= _ALONG_TRAINING:
            own.append(condition)
        elif condition.names & _ALONG_TRAINING <= {"cell_id", "replicate"}:
            of_trials.append(condition)
        else:
            mixed.append(condition)
    return own, of_trials, mixed
