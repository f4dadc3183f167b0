"""The store: what the rest of flatdist writes to and reads from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flatdist.errors import StoreError
from flatdist.expressions import Where
from flatdist.store import failures as failure_rows
from flatdist.store import maintenance
from flatdist.store.acknowledged import Acknowledgements
from flatdist.store.cache import IndexCache
from flatdist.store.checkpoints import CheckpointFolder
from flatdist.store.compaction import GRACE, SMALL, Compaction, compact
from flatdist.store.filesystem import Filesystem
from flatdist.store.frame import to_frame
from flatdist.store.layout import TOMBSTONES, part_folder
from flatdist.store.location import normalise
from flatdist.store.maintenance import Collected, Merged
from flatdist.store.parts import warn_unreadable
from flatdist.store.query import Reader, Scope
from flatdist.store.remote import open_filesystem
from flatdist.store.sweeps import SweepRecord, SweepRecords
from flatdist.store.tombstones import Generations, Key, Tombstones
from flatdist.store.writing import Row, check_access, write_rows

if TYPE_CHECKING:
    import pandas as pd

Answer = TypeVar("Answer")

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
        self._acknowledged = Acknowledgements(self.files, self.tombstones, IndexCache(self.files))
        self._reader = Reader(self.files, self.tombstones, IndexCache(self.files))
        self._records = SweepRecords(self.files)
        self._generations: Generations | None = None
        self.checkpoints = CheckpointFolder(self.files, self.generations)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def generations(self) -> Generations:
        """Return the generations that rows written through this object carry."""
        if self._generations is None:
            self._generations = self.tombstones.generations()
        return self._generations

    def hurry_when(self, asked: Callable[[], bool]) -> None:
        """Give up failing requests within seconds from the moment that ``asked`` says that the user wants to leave."""
        self.files.hurry_when(asked)

    def check_access(self) -> None:
        """Write a file, read it back and delete it.

        Raises:
            StoreError: says what the store does not allow, and what to do.
        """
        check_access(self.files)

    # Writing

    def write(self, trials: Sequence[Row], history: Sequence[Row]) -> str:
        """Write finished replicates; when this returns, they survive a crash and a power loss.

        Args:
            trials: one row a replicate, with columns of :data:`flatdist.cells.columns.TRIALS`; missing ones become
            null. history: their history, with columns of :data:`flatdist.cells.columns.HISTORY`.

        Returns:
            The name of the part; writing the same replicates again replaces it. Empty without rows.

        Raises:
            StoreError: a row is malformed, or the store cannot be written; then nothing of it is visible.
        """
        return write_rows(self.files, self.generations(), trials, history)

    def write_failures(self, rows: Sequence[Row]) -> None:
        """Record exceptions, with columns of :data:`flatdist.cells.columns.FAILURES`; credentials are removed from
        texts."""
        if rows:
            failure_rows.write_failures(self.files, rows, self.generations())

    # What there is

    def done(self, cell_ids: Collection[str] | None = None) -> dict[str, set[int]]:
        """Return the acknowledged replicates of every cell that has some.

        Parts that cannot be read are named in a warning and set aside, so their replicates count as missing.
        """
        self.generations()
        _, selection = self._again(self._acknowledged.read)
        return (selection if cell_ids is None else selection.of_cells(cell_ids)).by_cell()

    def failed(self, cell_ids: Collection[str] | None = None) -> dict[str, dict[int, int]]:
        """Return cell -> replicate -> number of recorded failures, for replicates that are not done."""
        table, unreadable = failure_rows.read_failures(self.files)
        warn_unreadable(self.uri, unreadable, "left out")
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
            where: only rows that satisfy it (:mod:`flatdist.expressions`); pushed down to Parquet.
            columns: only these columns, in this order; pushed down to Parquet.
            all_numerics: also rows of older numerics, where a configuration has newer ones.
            follow_configurations: take the cells' configurations at any numerics instead of the very cells.

        Raises:
            StoreError: a column does not exist, or the store cannot be read.
        """
        scope = Scope(cell_ids, follow_configurations, all_numerics)
        return to_frame(self._again(lambda: self._reader.trials(scope, where, columns)))

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
        scope = Scope(cell_ids, follow_configurations, all_numerics)
        return to_frame(self._again(lambda: self._reader.history(scope, where, columns)))

    def failures(self, cell_ids: Collection[str] | None = None) -> pd.DataFrame:
        """Return every recorded failure, those of replicates that succeeded later too."""
        table, unreadable = failure_rows.read_failures(self.files)
        warn_unreadable(self.uri, unreadable, "left out")
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

        What is running meanwhile does not count when it arrives; what this object writes from now on does.

        Returns:
            How many of the keys had something to void.
        """
        _, selection = self._again(self._acknowledged.read)
        count = maintenance.invalidate(self.files, self.tombstones, selection, keys)
        self._generations = None
        return count

    def can_compact(self) -> bool:
        """Whether the store refuses to create an existing file, without which compaction is not safe."""
        return self.files.exclusive()

    def compact(self, grace: float = GRACE, small: int = SMALL) -> Compaction:
        """Take small parts over into a few files (:mod:`flatdist.store.compaction`); safe while others run.

        Args:
            grace: seconds that replaced files are kept for readers on their way to them.
            small: segments with fewer rows of history are joined with what is new.
        """
        return self._again(lambda: compact(self.files, self._acknowledged, grace=grace, small=small))

    def gc(self, grace: float = GRACE) -> Collected:
        """Drop rows of old numerics where newer ones exist, and delete files that nobody needs any more."""
        before = len(self._again(self._acknowledged.read)[1])
        compaction = self._again(lambda: compact(self.files, self._acknowledged, grace=grace, drop_old_numerics=True))
        _, selection = self._again(self._acknowledged.read)
        older_than = maintenance.storage_clock(self.files) - grace
        generations = self.tombstones.generations()
        leftovers = maintenance.collect_leftovers(self.files, selection.by_cell(), generations, older_than)
        return Collected(before - len(selection), compaction.deleted + leftovers)

    def merge(self, other: Store | str | os.PathLike[str]) -> Merged:
        """Take in another store's tombstones, results, failures and sweeps; repeated, it changes nothing.

        A replicate that both have keeps this store's row; a sweep that both have keeps this store's meaning.
        """
        theirs = other if isinstance(other, Store) else Store(other)
        maintenance.copy_immutable(self.files, theirs.files, TOMBSTONES)
        _, mine = self._again(self._acknowledged.read)

        def copy() -> int:
            held = theirs._acknowledged.read()
            return maintenance.merge_rows(self.files, self.tombstones.generations(), mine, theirs.files, held)

        replicates = self._again(copy)
        failed = maintenance.copy_immutable(self.files, theirs.files, part_folder("failures"))
        taken, kept = self._records.take_in(theirs._records)
        return Merged(replicates, failed, taken, kept)

    def drop_segment(self, name: str) -> None:
        """Give up a damaged compacted file: its replicates count as missing and run again."""
        maintenance.drop_segment(self.files, name)

    def _again(self, read: Callable[[], Answer]) -> Answer:
        """Read again from a new snapshot where a file has vanished: a compaction has taken its rows over."""
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError):
                return read()
        try:
            return read()
        except FileNotFoundError as error:
            raise StoreError(
                f"store {self.uri}: {error.filename or error} is listed and cannot be found; if it was deleted by "
                "hand, restore it"
            ) from error
