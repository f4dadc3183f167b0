"""The store: what the rest of flatdist writes to and reads from."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flatdist.columns import HISTORY, TRIALS, column_names
from flatdist.errors import StoreError
from flatdist.store import failures as failure_rows
from flatdist.store.cache import IndexCache
from flatdist.store.checkpoints import CheckpointFolder
from flatdist.store.filesystem import Filesystem, open_filesystem
from flatdist.store.filters import Where, parse_where
from flatdist.store.frame import to_frame
from flatdist.store.index import INDEX_COLUMNS, Selection, select
from flatdist.store.layout import part_folder, part_name, part_path, stem
from flatdist.store.location import normalise
from flatdist.store.manifest import Snapshot, take_snapshot
from flatdist.store.parts import Unreadable, set_aside, truncated_history, warn_unreadable, write_part
from flatdist.store.read import (
    HISTORY_NAMES,
    TRIAL_NAMES,
    filter_rows,
    load_part_rows,
    read_history,
    read_trials,
    segment_columns,
    with_columns,
)
from flatdist.store.schema import rows_to_table
from flatdist.store.sweeps import SweepRecord, SweepRecords
from flatdist.store.tombstones import Generations, Key, Tombstones
from flatdist.suggestions import did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Answer = TypeVar("Answer")
Row = Mapping[str, Any]

_ATTEMPTS = 5  # reads that find a file gone, compacted away meanwhile, start anew


class Store:
    """A folder or URI of results, shared by any number of sweeps, drivers and readers at once.

    Opening a store touches nothing; it comes into being when something is written. A row carries the generation of its
    key (:mod:`flatdist.store.tombstones`) that was current when this object was first used, so a run opens its own.

    Args:
        location: a folder, or a URI such as ``s3://bucket/folder``; credentials come from the environment.
        filesystem: storage other than the one the location names; for tests.

    Raises:
        StoreError: the location holds credentials, or its scheme is unknown.
    """

    def __init__(self, location: str | os.PathLike[str], *, filesystem: Filesystem | None = None) -> None:
        self.uri = normalise(location)
        self.files = filesystem or open_filesystem(self.uri)
        self.tombstones = Tombstones(self.files)
        self._index = IndexCache(self.files)
        self._records = SweepRecords(self.files)
        self._generations: Generations | None = None
        self._checked_history: set[str] = set()
        self.checkpoints = CheckpointFolder(self.files, self.generations)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def generations(self) -> Generations:
        """Return the generations that rows written through this object carry."""
        if self._generations is None:
            self._generations = self.tombstones.generations()
        return self._generations

    def check_access(self) -> None:
        """Write a file, read it back and delete it.

        Raises:
            StoreError: says what the store does not allow, and what to do.
        """
        path = f"probe-{uuid.uuid4().hex}"
        content = path.encode()
        try:
            self.files.write(path, content)
            found = self.files.read(path)
        except FileNotFoundError as error:
            raise StoreError(f"store {self.uri}: a file just written cannot be found; use another store") from error
        finally:
            self.files.delete(path)
        if found != content:
            raise StoreError(f"store {self.uri}: a file just written reads back differently; use another store")

    # Writing

    def write(self, trials: Sequence[Row], history: Sequence[Row]) -> str:
        """Write finished replicates; when this returns, they survive a crash and a power loss.

        Args:
            trials: one row a replicate, with columns of :data:`flatdist.columns.TRIALS`; missing ones become null.
            history: their history, with columns of :data:`flatdist.columns.HISTORY`.

        Returns:
            The name of the part; writing the same replicates again replaces it. Empty without rows.

        Raises:
            StoreError: a row is malformed, or the store cannot be written; then nothing of it is visible.
        """
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
        generations = self.generations()
        name = part_name((cell_id, replicate, generations[cell_id, replicate]) for cell_id, replicate in keys)

        def table(table_name: str, rows: Iterable[Row]) -> pa.Table:
            rows = list(rows)
            numbers = [generations[_key(row, table_name)] for row in rows]
            return rows_to_table(table_name, rows, {"generation": numbers, "part": [name] * len(rows)})

        ordered = table("history", sorted(history, key=lambda row: (*_key(row, "history"), row.get("step") or 0)))
        write_part(self.files, name, table("trials", sorted(trials, key=lambda row: _key(row, "trials"))), ordered)
        return name

    def write_failures(self, rows: Sequence[Row]) -> None:
        """Record exceptions, with columns of :data:`flatdist.columns.FAILURES`; credentials are removed from texts."""
        if rows:
            failure_rows.write_failures(self.files, rows, self.generations())

    # What there is

    def done(self, cell_ids: Collection[str] | None = None) -> dict[str, set[int]]:
        """Return the acknowledged replicates of every cell that has some.

        Parts that cannot be read are named in a warning and set aside, so their replicates count as missing.
        """
        self.generations()
        selection = self._consistently(lambda: self._acknowledged())
        return (selection if cell_ids is None else selection.of_cells(cell_ids)).by_cell()

    def failed(self, cell_ids: Collection[str] | None = None) -> dict[str, dict[int, int]]:
        """Return cell -> replicate -> number of recorded failures, for replicates that are not done."""
        table, unreadable = failure_rows.read_failures(self.files)
        warn_unreadable(self.uri, unreadable, "are left out")
        if len(table) == 0:
            return {}
        done = self.done(cell_ids)
        wanted = None if cell_ids is None else set(cell_ids)
        failed: dict[str, dict[int, int]] = {}
        counts = failure_rows.count_failures(table, self.tombstones.generations())
        for (cell_id, replicate), count in sorted(counts.items()):
            if (wanted is None or cell_id in wanted) and replicate not in done.get(cell_id, ()):
                failed.setdefault(cell_id, {})[replicate] = count
        return failed

    # Reading

    def trials(
        self,
        cell_ids: Collection[str] | None = None,
        where: Where = None,
        columns: Sequence[str] | None = None,
        all_numerics: bool = False,
        *,
        follow_configurations: bool = False,
    ) -> pd.DataFrame:
        """Return one row a replicate, sorted by cell and replicate.

        Args:
            cell_ids: only these cells.
            where: only rows that satisfy it (:mod:`flatdist.store.filters`); pushed down to Parquet.
            columns: only these columns, in this order; pushed down to Parquet.
            all_numerics: also rows of older numerics, where a configuration has newer ones.
            follow_configurations: take the cells' configurations at any numerics instead of the very cells.

        Raises:
            StoreError: a column does not exist, or the store cannot be read.
        """
        conditions = parse_where(where, TRIAL_NAMES)

        def read() -> pd.DataFrame:
            names = _checked_columns(columns, TRIAL_NAMES, "trials")
            snapshot, selection, rows = self._trial_rows(names, conditions)
            selection = _narrow(selection, cell_ids, follow_configurations, all_numerics)
            if names is None:
                known = column_names(TRIALS)
                found = [*segment_columns(self.files, "trials", snapshot.manifest.segments), *rows.column_names]
                extra = [name for name in dict.fromkeys(found) if name not in (*TRIAL_NAMES, "source")]
                names = [*known, *extra]
            table, _ = read_trials(self.files, snapshot, selection, rows, names, conditions)
            return to_frame(table)

        return self._consistently(read)

    def history(
        self,
        cell_ids: Collection[str] | None = None,
        where: Where = None,
        columns: Sequence[str] | None = None,
        all_numerics: bool = False,
        *,
        follow_configurations: bool = False,
    ) -> pd.DataFrame:
        """Return the measurements along the training, sorted by cell, replicate and step.

        Arguments are those of :meth:`trials`. ``where`` and ``columns`` may also name columns of trials, such as
        ``rank`` or ``status``; a name that both tables have means the history's.
        """
        conditions = parse_where(where, {*HISTORY_NAMES, *TRIAL_NAMES})
        own = [condition for condition in conditions if condition.names <= set(HISTORY_NAMES)]
        of_trials = [c for c in conditions if c not in own and not (c.names - {"cell_id"}) & set(HISTORY_NAMES)]
        mixed = [condition for condition in conditions if condition not in own and condition not in of_trials]
        names = _checked_columns(columns, tuple(dict.fromkeys((*HISTORY_NAMES, *TRIAL_NAMES))), "history")
        names = list(column_names(HISTORY)) if names is None else names
        every = [*names, *(name for condition in mixed for name in sorted(condition.names))]
        joined = list(dict.fromkeys(name for name in every if name not in HISTORY_NAMES))

        def read() -> pd.DataFrame:
            snapshot, selection, rows = self._trial_rows([*joined, *INDEX_COLUMNS], of_trials)
            selection = _narrow(selection, cell_ids, follow_configurations, all_numerics)
            trial_table = None
            if joined or of_trials:
                trial_table, selection = read_trials(self.files, snapshot, selection, rows, joined, of_trials)
            mine = [name for name in dict.fromkeys(every) if name in HISTORY_NAMES]
            table, position, unreadable = read_history(self.files, snapshot, selection, mine, own)
            warn_unreadable(self.uri, unreadable, "are left out of the history")
            for name in joined:
                assert trial_table is not None
                table = table.append_column(name, trial_table.column(name).take(position))
            return to_frame(filter_rows(table, mixed).select(names))

        return self._consistently(read)

    def failures(self, cell_ids: Collection[str] | None = None) -> pd.DataFrame:
        """Return every recorded failure, those of replicates that succeeded later too."""
        table, unreadable = failure_rows.read_failures(self.files)
        warn_unreadable(self.uri, unreadable, "are left out")
        frame = to_frame(table).drop(columns=["generation", "part"])
        if cell_ids is not None:
            frame = frame[frame["cell_id"].isin(set(cell_ids))].reset_index(drop=True)
        return frame

    # Sweeps

    def save_sweep(self, name: str, source: str, cell_ids: Sequence[str], replicates: int, rounds: Any = None) -> None:
        """Record what a sweep's name means from now on (:mod:`flatdist.store.sweeps`)."""
        self._records.save(name, source, cell_ids, replicates, rounds)

    def load_sweep(self, name: str) -> SweepRecord:
        """Return the latest record of a sweep; StoreError names the sweeps there are where it is not one of them."""
        return self._records.load(name)

    def sweep_names(self) -> list[str]:
        """Return the names of the recorded sweeps."""
        return self._records.names()

    # Housekeeping

    def invalidate(self, keys: Iterable[Key]) -> int:
        """Void the results and failures of (cell_id, replicate) keys, so that they run again.

        Returns:
            How many of the keys had something to void.
        """
        table, _ = failure_rows.read_failures(self.files)
        generations = self.tombstones.generations()
        present = {(cell_id, number) for cell_id, numbers in self.done().items() for number in numbers}
        present |= set(count_keys(table, generations))
        entries = [(cell_id, number, generations[cell_id, number]) for cell_id, number in set(keys) & present]
        if entries:
            self.tombstones.add(entries)
            self._generations = None
        return len(entries)

    # How it is read

    def _consistently(self, read: Callable[[], Answer]) -> Answer:
        """Read again from a new snapshot where a file has vanished: a compaction has taken its rows over."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return read()
            except FileNotFoundError:
                continue
        try:
            return read()
        except FileNotFoundError as error:
            raise StoreError(
                f"store {self.uri}: {error.filename or error} is listed and cannot be found; if it was deleted by "
                "hand, restore it"
            ) from error

    def _acknowledged(self) -> Selection:
        snapshot = take_snapshot(self.files, self.tombstones)
        index, unreadable = self._index.load(snapshot)
        bad = self._damaged_history(snapshot, {stem(problem.path) for problem in unreadable})
        self._set_aside([*unreadable, *bad])
        if bad:
            left = {stem(problem.path) for problem in bad}
            parts = tuple(info for info in snapshot.parts if stem(info.path) not in left)
            snapshot = Snapshot(snapshot.manifest, parts, (), snapshot.generations)
            index, _ = self._index.load(snapshot)
        return select(index, {segment.name for segment in snapshot.manifest.segments}, snapshot.generations)

    def _damaged_history(self, snapshot: Snapshot, known_bad: set[str]) -> list[Unreadable]:
        """Parts whose trials can be read and whose history is missing or cut short."""
        parts = {stem(info.path) for info in snapshot.parts} - self._checked_history - known_bad
        if not parts:
            return []
        listed = {stem(info.path): info for info in self.files.list(part_folder("history"))}
        bad = [Unreadable(part_path("history", part), "is missing") for part in sorted(parts - listed.keys())]
        bad += truncated_history(self.files, [listed[part] for part in sorted(parts & listed.keys())])
        self._checked_history |= parts - {stem(problem.path) for problem in bad}
        return bad

    def _set_aside(self, problems: Sequence[Unreadable]) -> None:
        """Move both files of damaged parts away, and name them."""
        moved = True
        for problem in problems:
            for table in ("trials", "history"):
                path = part_path(table, stem(problem.path))
                moved &= set_aside(self.files, path) or path != problem.path or problem.reason == "is missing"
        outcome = "moved to set-aside/" if moved else "ignored, since they cannot be moved"
        warn_unreadable(self.uri, problems, f"{outcome}; their replicates count as missing and run again")

    def _trial_rows(
        self, columns: Sequence[str] | None, conditions: Sequence[Any]
    ) -> tuple[Snapshot, Selection, pa.Table]:
        """A snapshot, the rows that hold in it, and the wanted columns of its parts."""
        import pyarrow as pa

        snapshot = take_snapshot(self.files, self.tombstones)
        wanted = None
        if columns is not None:
            named = (name for condition in conditions for name in sorted(condition.names))
            wanted = list(dict.fromkeys([*INDEX_COLUMNS, *columns, *named]))
        loaded = load_part_rows(self.files, "trials", [stem(info.path) for info in snapshot.parts], wanted)
        warn_unreadable(self.uri, loaded.unreadable, "are left out; the next run sets them aside and runs them again")
        compacted = self._index.load_segments(snapshot)
        parts = with_columns(loaded.table, "trials", [*INDEX_COLUMNS, "source"])
        index = pa.concat_tables([compacted, parts], promote_options="default")
        segments = {segment.name for segment in snapshot.manifest.segments}
        return snapshot, select(index, segments, snapshot.generations), loaded.table


def count_keys(failures: pa.Table, generations: Generations) -> list[Key]:
    """Return the keys with failures that still count."""
    return list(failure_rows.count_failures(failures, generations))


def _key(row: Row, table: str) -> Key:
    try:
        return str(row["cell_id"]), int(row["replicate"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a row of {table} needs a cell_id and a replicate; it has {sorted(row)}") from error


def _narrow(selection: Selection, cell_ids: Collection[str] | None, follow: bool, all_numerics: bool) -> Selection:
    if cell_ids is not None:
        selection = selection.of_cells(cell_ids, follow=follow)
    return selection if all_numerics else selection.latest_numerics()


def _checked_columns(columns: Sequence[str] | None, known: Sequence[str], table: str) -> list[str] | None:
    if columns is None:
        return None
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in known:
            raise StoreError(f"{table} has no column {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")
    return list(dict.fromkeys(names))
