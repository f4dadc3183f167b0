"""The store: what the rest of flatdist writes to and reads from."""

from __future__ import annotations

import contextlib
import html
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.errors import StoreError
from flatdist.expressions import Where
from flatdist.store import arrow as pa
from flatdist.store import layout, parquet
from flatdist.store.catalog import Catalog, View
from flatdist.store.checkpoints import CheckpointFolder
from flatdist.store.compaction import GRACE, SMALL, Compaction, compact, set_aside
from flatdist.store.documents import Generations, Key, SweepRecords, read_tombstone
from flatdist.store.filesystem import Filesystem, warn_damaged
from flatdist.store.index import Selection, Source
from flatdist.store.location import normalise, redact
from flatdist.store.manifest import take_snapshot
from flatdist.store.reading import Scope, read_history, read_rows, read_trials
from flatdist.store.remote import open_filesystem
from flatdist.store.schema import empty, plain, rows_to_table, to_frame

if TYPE_CHECKING:
    import pandas as pd
Row = Mapping[str, Any]

MANY_PARTS = 128  # a driver compacts a store with more
_COMPACTIONS = 20  # others that may come first
_SHOWN = 20  # sweeps in a notebook; each is a file to read
_TEXTS = ("message", "traceback", "host", "error_type")


@dataclass(frozen=True)
class Collected:
    """The outcome of a garbage collection."""

    rows: int  # of trials, dropped because newer numerics computed the same configuration
    files: int  # deleted: taken-over parts, checkpoints of finished replicates, leftovers of dead writers


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge."""

    replicates: int  # that this store did not have
    failures: int  # files
    sweeps: tuple[str, ...]  # names
    sweeps_kept: tuple[str, ...]  # names that both stores have; this store's version stays


class Store:
    """A folder or URI of results, shared by any number of sweeps, drivers and readers at once.

    Opening a store touches nothing; writing creates it. A row carries the generation of its key
    (:mod:`flatdist.store.documents`) that was current when this object was first used, so each run opens its own.

    Args:
        location: a folder, or a URI such as ``s3://bucket/folder``; credentials come from the environment.
        filesystem: replaces the storage that the location names; for tests.

    Raises:
        StoreError: the location holds credentials, or its scheme is unknown.
    """

    def __init__(self, location: str | os.PathLike[str], *, filesystem: Filesystem | None = None) -> None:
        self.uri = normalise(location)
        self.files = filesystem or open_filesystem(self.uri)
        self.sweeps = SweepRecords(self.files)
        self.checkpoints = CheckpointFolder(self.files, self.generations)
        self._catalog = Catalog(self.files)
        self._generations: Generations | None = None

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def _repr_html_(self) -> str:
        done, lines = self.done(), ""
        names = self.sweeps.names()
        for name in names[:_SHOWN]:
            ids = self.sweeps.load(name).cell_ids
            rows = sum(len(done.get(cell_id, ())) for cell_id in ids)
            lines += f"<tr><th>{html.escape(name)}</th><td>{len(ids):,}</td><td>{rows:,}</td></tr>"
        lines += f"<tr><th>and {len(names) - _SHOWN} more</th></tr>" if len(names) > _SHOWN else ""
        caption = f"{html.escape(repr(self))}: {sum(map(len, done.values())):,} replicates of {len(done):,} cells"
        head = "<tr><th>sweep</th><th>cells</th><th>replicates stored</th></tr>"
        return f"<table><caption>{caption}</caption>{head if lines else ''}{lines}</table>"

    def reopened(self) -> Store:
        """Open the store again for another run, sharing what this object has read of immutable files."""
        other = Store(self.uri, filesystem=self.files)
        other._catalog = self._catalog
        return other

    def generations(self) -> Generations:
        """Return the generations that rows written through this object carry."""
        if self._generations is None:
            self._generations = self._catalog.tombstones.generations()
        return self._generations

    def shorten_waits_when(self, asked: Callable[[], bool]) -> None:
        """Wait out requests that fail, but only for seconds once ``asked`` says that the user wants to leave."""
        self.files.shorten_waits_when(asked)

    def check_access(self) -> None:
        """Write a file where rows will be written, read it back and delete it; a StoreError says what is amiss."""
        self.files.check_access()

    # Writing

    def write(self, trials: Sequence[Row], history: Sequence[Row]) -> str:
        """Write finished replicates; when this returns, they survive a crash and a power loss.

        Args:
            trials: one row per replicate, with columns of :data:`flatdist.cells.columns.TRIALS`; missing ones are null.
            history: their history, with columns of :data:`flatdist.cells.columns.HISTORY`.

        Returns:
            The name of the part's files; writing the same rows again changes nothing. Empty without rows.

        Raises:
            StoreError: a row is malformed, or the store cannot be written; then nothing of it is visible.
        """
        if not trials and not history:
            return ""
        generations = self.generations()
        keys = [_key(row, "trials") for row in trials]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise StoreError(f"replicate {twice[1]} of cell {twice[0]} is given twice; give each replicate one row")
        lost = {_key(row, "history") for row in history} - set(keys)
        if lost:
            cell_id, replicate = min(lost)
            raise StoreError(f"history of replicate {replicate} of cell {cell_id} has no row in trials")
        part = layout.part_name((*key, generations[key]) for key in keys)

        def table(name: str, rows: Sequence[Row]) -> pa.Table:
            rows = sorted(rows, key=lambda row: (*_key(row, name), row.get("step") or 0))
            numbers = [generations[_key(row, name)] for row in rows]
            return rows_to_table(name, rows, {"generation": numbers, "part": [part] * len(rows)})

        steps = table("history", history)
        return parquet.write_part(self.files, part, table("trials", trials), steps)

    def write_failures(self, failures: Sequence[Row]) -> None:
        """Record exceptions, with columns of :data:`flatdist.cells.columns.FAILURES`, free of credentials."""
        if not failures:
            return
        clean = [
            {name: redact(str(value)) if name in _TEXTS and value is not None else value for name, value in row.items()}
            for row in failures
        ]
        numbers = [self.generations()[row["cell_id"], int(row["replicate"])] for row in clean]
        part = layout.digest(repr([sorted((key, str(value)) for key, value in row.items()) for row in clean]).encode())
        table = rows_to_table("failures", clean, {"generation": numbers, "part": [part] * len(clean)})
        data = parquet.encode(table)
        self.files.write(layout.part_path("failures", f"{part}-{layout.digest(data)}"), data)

    # What there is

    def done(self, cell_ids: Collection[str] | None = None, *, thorough: bool = False) -> dict[str, set[int]]:
        """Return the acknowledged replicates of every cell that has some.

        Damaged parts are named in a warning and set aside, so their replicates count as missing.

        Args:
            cell_ids: only these cells.
            thorough: also check every byte of the cells' compacted files, and set damage aside; for callers about to
                run what is missing.
        """
        self.generations()
        selection = self._catalog.retried(lambda: self._acknowledged(cell_ids if thorough else ())).selection
        return (selection if cell_ids is None else selection.of_cells(cell_ids)).by_cell()

    def diverged(self, cell_ids: Collection[str] | None = None) -> dict[str, set[int]]:
        """Return the acknowledged replicates of every cell that diverged."""
        selection = self._catalog.answer(lambda view: Scope(cell_ids).narrow(view.selection))
        return selection.where(selection.diverged).by_cell()

    def failed(self, cell_ids: Collection[str] | None = None) -> dict[str, dict[int, int]]:
        """Return cell -> replicate -> number of recorded failures, for replicates that are not done."""
        counts = self._count_failures()
        if not counts:
            return {}
        done = self.done(cell_ids)
        wanted = None if cell_ids is None else set(cell_ids)
        failed: dict[str, dict[int, int]] = {}
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
        """Return the trials, one row per replicate, sorted by cell and replicate.

        Args:
            cell_ids: only these cells.
            where: only rows that satisfy it (:mod:`flatdist.expressions`).
            columns: only these columns, in this order; no others are read.
            all_numerics: also rows of older numerics, where a configuration has newer ones.
            follow_configurations: accept the cells' configurations at any numerics, not only these cells.

        Raises:
            StoreError: a column does not exist, or the store cannot be read.
        """
        return to_frame(self.table("trials", Scope(cell_ids, follow_configurations, all_numerics), where, columns))

    def history(
        self,
        cell_ids: Collection[str] | None = None,
        where: Where = None,
        columns: Sequence[str] | None = None,
        all_numerics: bool = False,
        *,
        follow_configurations: bool = False,
    ) -> pd.DataFrame:
        """Return the history of training, sorted by cell, replicate and step.

        Arguments are those of :meth:`trials`. ``where`` and ``columns`` may also name columns of trials, such as
        ``rank`` or ``status``; a name that both tables have means the history's.
        """
        return to_frame(self.table("history", Scope(cell_ids, follow_configurations, all_numerics), where, columns))

    def table(
        self, name: str, scope: Scope | None = None, where: Where = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return rows of trials, history or failures as an Arrow table; see :meth:`trials`."""
        if name == "failures":
            return self._failures().drop_columns(["generation", "part"])
        read = read_trials if name == "trials" else read_history
        return read(self._catalog, scope or Scope(), where, columns)

    def failures(self, cell_ids: Collection[str] | None = None) -> pd.DataFrame:
        """Return every recorded failure, including those of replicates that succeeded later."""
        frame = to_frame(self.table("failures"))
        if cell_ids is not None:
            frame = frame[frame["cell_id"].isin(set(cell_ids))].reset_index(drop=True)
        return frame

    # Housekeeping

    def invalidate(self, keys: Iterable[Key]) -> int:
        """Void the results and failures of (cell_id, replicate) keys, so that they run again.

        Runs already in progress do not count when they arrive; what this object writes from now on does.

        Returns:
            How many of the keys had something to void.
        """
        done = self._done()
        tombstones = self._catalog.tombstones
        generations = tombstones.generations()
        present = {(cell_id, number) for cell_id, numbers in done.items() for number in numbers}
        voided = {*keys} & (present | self._count_failures().keys())
        if voided:
            tombstones.add((*key, generations[key]) for key in voided)
        self._generations = None
        return len(voided)

    def can_compact(self) -> bool:
        """Whether the store refuses to create a file that exists, which safe compaction requires."""
        return self.files.exclusive()

    def compact(self, grace: float = GRACE, small: int = SMALL, *, drop_old_numerics: bool = False) -> Compaction:
        """Combine small parts into a few files (:mod:`flatdist.store.compaction`); safe while others run.

        Args:
            grace: seconds for which replaced files are kept, for readers that are about to open them.
            small: segments with fewer rows of history are joined with what is new.
            drop_old_numerics: leave rows of old numerics out, where newer ones computed the same configuration.

        Raises:
            StoreError: the store cannot tell two compactions apart, or other processes keep compacting.
        """
        if not self.can_compact():
            raise StoreError(
                f"store {self.uri} does not support conditional writes, without which two compactions could undo each "
                "other; results stay readable as they are"
            )
        for _ in range(_COMPACTIONS):
            done = self._catalog.answer(lambda view: compact(self._catalog, view, grace, small, drop_old_numerics))
            if done is not None:
                return done
        text = f"store {self.uri}: {_COMPACTIONS} other compactions came first; leave compaction to one of them"
        raise StoreError(text)

    def tidy(self, many: int = MANY_PARTS) -> None:
        """Compact if there are many parts and the store allows it; drivers call this from time to time."""
        if len(self.files.list(layout.part_folder("trials"))) <= many or not self.can_compact():
            return
        if len(take_snapshot(self.files, self._catalog.tombstones).parts) > many:
            Store(self.uri, filesystem=self.files).compact()  # an object of its own: this one may be in use meanwhile

    def gc(self, grace: float = GRACE) -> Collected:
        """Delete rows of old numerics that newer ones replace, and files that are no longer needed."""
        files = self.files
        before = sum(map(len, self._done().values()))
        deleted = self.compact(grace, drop_old_numerics=True).deleted
        done = self._done()
        older_than = files.clock() - grace
        generations = self._catalog.tombstones.generations()
        doomed = []
        for info in files.list(layout.CHECKPOINTS):
            _, cell_id, replicate, _ = info.path.split("/")
            number, _, generation = replicate.partition(".")
            voided = int(generation or 0) < generations[cell_id, int(number)]
            if voided or int(number) in done.get(cell_id, ()):
                doomed.append(info)
        # before trials: what is acknowledged meanwhile is then seen
        history = files.list(layout.part_folder("history"))
        acknowledged = {layout.history_name(info.stem) for info in files.list(layout.part_folder("trials"))}
        doomed += [info for info in history if info.stem not in acknowledged]
        doomed = [info for info in (*doomed, *files.list(layout.DRIVERS)) if info.modified < older_than]
        for info in doomed:
            files.delete(info.path)
        deleted += len(doomed) + files.delete_temporaries(older_than)
        return Collected(before - sum(map(len, done.values())), deleted)

    def merge(self, other: Store | str | os.PathLike[str]) -> Merged:
        """Merge another store's tombstones, results, failures and sweeps; repeating it changes nothing.

        A replicate or a sweep that both have keeps this store's version. Only intact files, of kinds that a store may
        contain, are merged.
        """
        theirs = other if isinstance(other, Store) else Store(other)
        self._copy(theirs.files, layout.TOMBSTONES)
        done, generations = self._done(), self._catalog.tombstones.generations()

        def copy(view: View) -> int:
            selection = view.selection
            missing = [
                number not in done.get(cell, ()) and age >= generations[cell, number]
                for cell, number, age in selection.triples()
            ]
            mask = np.array(missing, bool)
            for number in np.unique(selection.source[mask]):
                self._copy_rows(theirs, selection.sources[number], selection.where(mask & (selection.source == number)))
            return sum(missing)

        replicates = theirs._catalog.answer(copy, whole=True, outcome="not taken in")
        failed = self._copy(theirs.files, layout.part_folder("failures"))
        return Merged(replicates, failed, *self.sweeps.merge(theirs.sweeps))

    def _copy(self, theirs: Filesystem, folder: str) -> int:
        """Copy the healthy files of a folder that are named by their content; return how many were missing."""
        have = {info.path for info in self.files.list(folder)}
        missing = [info.path for info in theirs.list(folder) if info.path not in have]

        def copy(path: str) -> None:
            if folder == layout.TOMBSTONES:
                read_tombstone(theirs, path)
            else:
                parquet.read_part(theirs, "failures", path, ["cell_id"])
            self.files.write(path, theirs.read(path))

        copied, damaged = theirs.sift(copy, missing)
        warn_damaged(theirs.uri, [*damaged.values()], "not taken in")
        return len(copied)

    def _copy_rows(self, theirs: Store, source: Source, wanted: Selection) -> None:
        """Copy rows of one of their files, unchanged if all are wanted; others might win over this store's rows."""
        if source.segment is None and "-" in source.name and len(wanted) == len(source.table):
            paths = [layout.part_path(table, source.name) for table in ("history", "trials")]
            for path, data in [(path, theirs.files.read(path)) for path in paths]:  # both, before either is written
                self.files.write(path, data)
            return
        part = layout.part_name(wanted.triples())
        tables = []
        for name in ("trials", "history"):
            rows = plain(read_rows(theirs._catalog, wanted, name)[0])
            mine = pa.array([part] * len(rows), pa.string())
            tables.append(rows.set_column(rows.column_names.index("part"), "part", mine))
        parquet.write_part(self.files, part, *tables)

    def _failures(self) -> pa.Table:
        """All failures ever recorded, in order of cell, replicate, attempt and time; damaged files are reported."""

        def read(path: str) -> pa.Table:
            return plain(parquet.read_part(self.files, "failures", path, None))

        paths = [info.path for info in self.files.list(layout.part_folder("failures"))]
        found, damaged = self.files.sift(read, paths)
        warn_damaged(self.uri, [*damaged.values()], "left out: the attempts that they record are not counted")
        if not found:
            return empty("failures")
        order = [(name, "ascending") for name in ("cell_id", "replicate", "generation", "attempt", "at", "part")]
        return pa.concat_tables([*found.values()], promote_options="default").sort_by(order)

    def _count_failures(self) -> Counter[Key]:
        """The failures of every key since it was last invalidated."""
        table, generations = self._failures(), self._catalog.tombstones.generations()
        columns = (table.column(name).to_pylist() for name in ("cell_id", "replicate", "generation"))
        return Counter(
            (cell_id, replicate)
            for cell_id, replicate, generation in zip(*columns, strict=True)
            if generation >= generations[cell_id, replicate]
        )

    def _done(self) -> dict[str, set[int]]:
        return self._catalog.retried(self._acknowledged).selection.by_cell()

    def _acknowledged(self, thorough: Collection[str] | None = ()) -> View:
        """The store without its damage, which is set aside; checks every byte of the parts.

        Args:
            thorough: cells whose compacted files are also checked in full; None for all.
        """
        catalog = self._catalog
        view = catalog.view(whole=True)
        if view.damaged:
            # another driver may have set the part aside and run it again meanwhile
            still = catalog.view(whole=True, again=True).damaged
            paths = [layout.part_path(table, name) for name in still for table in ("trials", "history")]
            moved = sum(set_aside(self.files, path) for path in paths)
            outcome = "moved to set-aside/" if moved == len(paths) else "ignored, since they cannot be moved"
            text = f"{outcome}; their replicates count as missing and run again"
            warn_damaged(self.uri, [*still.values()], text)
            view = catalog.view(whole=True)
        if thorough is None or len(thorough) > 0:
            wanted = view.selection if thorough is None else view.selection.of_cells(thorough)
            used = {source.name for source in wanted.used()}
            every = view.snapshot.manifest.segments  # of one that cannot be read, no row is known to be used
            segments = [one for one in every if one.name in used or catalog.damage[one.name]]
            found = catalog.check_segments(segments)
            if found or any(catalog.damage[segment.name] for segment in segments):
                before = len(view.selection)
                with contextlib.suppress(StoreError):  # a store that cannot be written is read without them
                    self.compact()
                view = catalog.view(whole=True)
                lost = before - len(view.selection)
                warn_damaged(self.uri, found, f"set aside: {lost} replicates count as missing and run again")
        return view


def _key(row: Row, table: str) -> Key:
    try:
        return str(row["cell_id"]), int(row["replicate"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"a row of {table} needs a cell_id and a replicate; it has {sorted(row)}") from error
