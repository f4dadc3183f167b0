"""The store: what the rest of flatdist writes to and reads from."""

from __future__ import annotations

import contextlib
import html
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from flatdist.errors import StoreError
from flatdist.expressions import Where
from flatdist.store import maintenance, rows
from flatdist.store.checkpoints import CheckpointFolder
from flatdist.store.compaction import GRACE, SMALL, Compaction, compact, set_aside
from flatdist.store.documents import Generations, Key, SweepRecords, Tombstones
from flatdist.store.filesystem import Damaged, Filesystem, warn_damaged
from flatdist.store.layout import TOMBSTONES, part_folder, part_path
from flatdist.store.location import normalise
from flatdist.store.maintenance import Collected, Merged
from flatdist.store.reading import Reader, Reread, Scope, View
from flatdist.store.remote import open_filesystem
from flatdist.store.rows import Row
from flatdist.store.schema import to_frame
from flatdist.store.snapshot import Catalog, take_snapshot

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Answer = TypeVar("Answer")

_ATTEMPTS = 5  # reads that find a file gone, compacted away meanwhile, start anew
_COMPACTIONS = 20  # others that may come first
MANY_PARTS = 128  # a driver compacts a store with more


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
        self.tombstones = Tombstones(self.files)
        self._catalog = Catalog(self.files)
        self._reader = Reader(self.files, self.tombstones, self._catalog)
        self.sweeps = SweepRecords(self.files)
        self._generations: Generations | None = None
        self.checkpoints = CheckpointFolder(self.files, self.generations)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def _repr_html_(self) -> str:
        done, lines = self.done(), ""
        for name in self.sweeps.names():
            ids = self.sweeps.load(name).cell_ids
            rows = sum(len(done.get(cell_id, ())) for cell_id in ids)
            lines += f"<tr><th>{html.escape(name)}</th><td>{len(ids):,}</td><td>{rows:,}</td></tr>"
        caption = f"{html.escape(repr(self))}: {sum(map(len, done.values())):,} replicates of {len(done):,} cells"
        head = "<tr><th>sweep</th><th>cells</th><th>replicates stored</th></tr>"
        return f"<table><caption>{caption}</caption>{head if lines else ''}{lines}</table>"

    def reopened(self) -> Store:
        """Open the store again for another run, sharing what this object has read of immutable files."""
        other = Store(self.uri, filesystem=self.files)
        other.tombstones, other._catalog, other._reader = self.tombstones, self._catalog, self._reader
        return other

    def generations(self) -> Generations:
        """Return the generations that rows written through this object carry."""
        if self._generations is None:
            self._generations = self.tombstones.generations()
        return self._generations

    def shorten_waits_when(self, asked: Callable[[], bool]) -> None:
        """Wait out requests that fail, but only for seconds once ``asked`` says that the user wants to leave."""
        self.files.shorten_waits_when(asked)

    def check_access(self) -> None:
        """Write a file where rows will be written, read it back and delete it.

        Raises:
            StoreError: says what the store does not allow, and what to do.
        """
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
        return rows.write_rows(self.files, self.generations(), trials, history)

    def write_failures(self, failures: Sequence[Row]) -> None:
        """Record exceptions, with columns of :data:`flatdist.cells.columns.FAILURES`, free of credentials."""
        if failures:
            rows.write_failures(self.files, failures, self.generations())

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
        selection = self._retried(lambda: self._acknowledged(cell_ids if thorough else ())).selection
        return (selection if cell_ids is None else selection.of_cells(cell_ids)).by_cell()

    def diverged(self, cell_ids: Collection[str] | None = None) -> dict[str, set[int]]:
        """Return the acknowledged replicates of every cell that diverged."""
        view, damaged = self._retried(self._reader.view)
        self._reader.tell([*damaged.values()])
        selection = Scope(cell_ids).narrow(view.selection)
        return selection.where(selection.diverged).by_cell()

    def failed(self, cell_ids: Collection[str] | None = None) -> dict[str, dict[int, int]]:
        """Return cell -> replicate -> number of recorded failures, for replicates that are not done."""
        table = self._failures()
        if len(table) == 0:
            return {}
        done = self.done(cell_ids)
        wanted = None if cell_ids is None else set(cell_ids)
        failed: dict[str, dict[int, int]] = {}
        counts = rows.count_failures(table, self.tombstones.generations())
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
        read = self._reader.trials if name == "trials" else self._reader.history
        return self._retried(lambda: read(scope or Scope(), where, columns))

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
        selection = self._retried(self._acknowledged).selection
        count = maintenance.invalidate(self.files, self.tombstones, selection, keys)
        self._generations = None
        return count

    def can_compact(self) -> bool:
        """Whether the store refuses to create a file that exists, which safe compaction requires."""
        return self.files.exclusive()

    def compact(self, grace: float = GRACE, small: int = SMALL) -> Compaction:
        """Combine small parts into a few files (:mod:`flatdist.store.compaction`); safe while others run.

        Args:
            grace: seconds for which replaced files are kept, for readers that are about to open them.
            small: segments with fewer rows of history are joined with what is new.

        Raises:
            StoreError: the store cannot tell two compactions apart, or other processes keep compacting.
        """
        return self._compact(grace, small)

    def tidy(self, many: int = MANY_PARTS) -> None:
        """Compact if there are many parts and the store allows it; drivers call this from time to time."""
        if len(self.files.list(part_folder("trials"))) <= many or not self.can_compact():
            return
        if len(take_snapshot(self.files, self.tombstones).parts) > many:
            Store(self.uri, filesystem=self.files).compact()  # an object of its own: this one may be in use meanwhile

    def gc(self, grace: float = GRACE) -> Collected:
        """Delete rows of old numerics that newer ones replace, and files that are no longer needed."""
        before = len(self._retried(self._acknowledged).selection)
        compaction = self._compact(grace, SMALL, drop_old_numerics=True)
        selection = self._retried(self._acknowledged).selection
        older_than = self.files.clock() - grace
        generations = self.tombstones.generations()
        leftovers = maintenance.collect_leftovers(self.files, selection.by_cell(), generations, older_than)
        return Collected(before - len(selection), compaction.deleted + leftovers)

    def merge(self, other: Store | str | os.PathLike[str]) -> Merged:
        """Merge another store's tombstones, results, failures and sweeps; repeating it changes nothing.

        A replicate or a sweep that both have keeps this store's version. Only intact files, of kinds that a store may
        contain, are merged.
        """
        theirs = other if isinstance(other, Store) else Store(other)
        maintenance.copy_immutable(self.files, theirs.files, TOMBSTONES)
        mine = self._retried(self._acknowledged).selection

        def copy() -> int:
            view, damaged = theirs._reader.view(whole=True)
            warn_damaged(theirs.uri, [*damaged.values()], "not taken in")
            return maintenance.merge_rows(self.files, self.tombstones.generations(), mine, theirs.files, view)

        replicates = self._retried(copy)
        failed = maintenance.copy_immutable(self.files, theirs.files, part_folder("failures"))
        taken, kept = self.sweeps.merge(theirs.sweeps)
        return Merged(replicates, failed, taken, kept)

    def _failures(self) -> pa.Table:
        table, damaged = rows.read_failures(self.files)
        warn_damaged(self.uri, damaged, "left out: the attempts that they record are not counted")
        return table

    def _acknowledged(self, thorough: Collection[str] | None = ()) -> View:
        """The store without its damage, which is set aside; checks every byte of the parts.

        Args:
            thorough: cells whose compacted files are also checked in full; None for all.
        """
        view, damaged = self._reader.view(whole=True)
        if damaged:
            self._set_aside(damaged)
            view, _ = self._reader.view(whole=True)
        if thorough is None or len(thorough) > 0:
            used = (view.selection if thorough is None else view.selection.of_cells(thorough)).used_sources()
            every = view.snapshot.manifest.segments  # of one that cannot be read, no row is known to be used
            segments = [one for one in every if one.name in used or self._catalog.damage(one.name)]
            found = self._catalog.check_segments(segments)
            if found or any(self._catalog.damage(segment.name) for segment in segments):
                before = len(view.selection)
                with contextlib.suppress(StoreError):  # a store that cannot be written is read without them
                    self._compact(GRACE, SMALL)
                view, _ = self._reader.view(whole=True)
                lost = before - len(view.selection)
                warn_damaged(self.uri, found, f"set aside: {lost} replicates count as missing and run again")
        return view

    def _set_aside(self, damaged: dict[str, Damaged]) -> None:
        """Set both files of damaged parts aside, and report them."""
        for name in damaged:  # look again: another driver may have set the part aside and run it again meanwhile
            self._catalog.forget(name)
        _, still = self._reader.view(whole=True)
        paths = [part_path(table, name) for name in still for table in ("trials", "history")]
        moved = sum(set_aside(self.files, path) for path in paths)
        outcome = "moved to set-aside/" if moved == len(paths) else "ignored, since they cannot be moved"
        text = f"{outcome}; their replicates count as missing and run again"
        warn_damaged(self.uri, [*still.values()], text)

    def _compact(self, grace: float, small: int, *, drop_old_numerics: bool = False) -> Compaction:
        if not self.files.exclusive():
            raise StoreError(
                f"store {self.uri} does not support conditional writes, without which two compactions could undo each "
                "other; results stay readable as they are"
            )

        def attempt() -> Compaction | None:
            with contextlib.suppress(Reread):
                return compact(self.files, self._catalog, self._reader, grace, small, drop_old_numerics)
            return None

        for _ in range(_COMPACTIONS):
            done = self._retried(attempt)
            if done is not None:
                return done
        text = f"store {self.uri}: {_COMPACTIONS} other compactions came first; leave compaction to one of them"
        raise StoreError(text)

    def _retried(self, read: Callable[[], Answer]) -> Answer:
        """Read again from a new snapshot if a file is gone because a compaction has replaced it."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError):
                return read()
        try:
            return read()
        except FileNotFoundError as error:
            raise StoreError(
                f"store {self.uri}: {error.filename or error} is listed but cannot be found; if it was deleted by "
                "hand, restore it"
            ) from error
