"""Finished rows on their way to the store: few files, and never more than some seconds in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from flatdist.store import Store

Answer = TypeVar("Answer")

FIRST_WAIT = 0.5  # seconds before the first retry of a write; doubles every time
LONGEST_WAIT = 15.0
PATIENCE_WHEN_STOPPING = 3.0  # an interrupted sweep has 10 seconds in all


class RowBuffer:
    """Collects outcomes and writes them together: at the end, and as soon as one has waited ``flush_seconds``.

    A thread of its own does the latter, since the next row may be an hour away. The store names a part by its keys, so
    a write that is tried again after an unclear answer replaces itself.

    Args:
        store: where the rows go.
        flush_seconds: the longest time a row waits in memory, in seconds.
        patience: how long a failing write is tried again, in seconds.
        stored: called with the outcomes of every write, once they are safe.
        notice: called with a text when the store does not answer.
        should_stop: when true a failing write is given up early.
    """

    def __init__(
        self,
        store: Store,
        flush_seconds: float,
        patience: float,
        stored: Callable[[Sequence[Any]], None],
        notice: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._store = store
        self._flush_seconds = flush_seconds
        self._patience = patience
        self._stored = stored
        self._notice = notice
        self._should_stop = should_stop
        self._waiting: list[Any] = []
        self._oldest = 0.0  # when the first waiting row arrived
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # guards the waiting rows
        self._writing = threading.Lock()  # one write at a time
        self._wake = threading.Condition(self._lock)
        self._closed = False
        self._thread = threading.Thread(target=self._flush_old_rows, name="flatdist-rows", daemon=True)

    def __enter__(self) -> RowBuffer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        if error is None:
            self.check()
        self.flush()  # finished rows are stored, whatever ended the shard

    def add(self, outcome: Any) -> None:
        """Take in one finished replicate."""
        self.check()
        with self._wake:
            if not self._waiting:
                self._oldest = time.monotonic()
                self._wake.notify()
            self._waiting.append(outcome)

    def check(self) -> None:
        """Raise what a write in the background has met with, if anything."""
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Write everything that waits, trying again for as long as patience lasts."""
        with self._writing:
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            trials = [outcome.trial for outcome in batch]
            history = [row for outcome in batch for row in outcome.history]
            self.insist(lambda: self._store.write(trials, history))
            self._stored(batch)

    def write_failures(self, rows: list[dict[str, Any]]) -> None:
        """Write rows of ``failures``, with the same patience."""
        self.insist(lambda: self._store.write_failures(rows))

    def insist(self, act: Callable[[], Answer]) -> Answer:
        """Do something with the store, trying again while it fails and patience lasts; returns what it returns."""
        start = time.monotonic()
        wait = FIRST_WAIT
        while True:
            try:
                return act()
            except OSError as error:  # StoreError is one
                waited = time.monotonic() - start
                patience = min(self._patience, PATIENCE_WHEN_STOPPING) if self._should_stop() else self._patience
                if waited + wait > patience:
                    raise
                self._notice(
                    f"the store does not answer as it should, trying again for {patience - waited:.0f} s: {error}"
                )
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _flush_old_rows(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not self._due():
                    self._wake.wait(self._oldest + self._flush_seconds - time.monotonic() if self._waiting else None)
                if self._closed:
                    return
            try:
                self.flush()
            except BaseException as error:
                self._error = error
                return

    def _due(self) -> bool:
        return bool(self._waiting) and time.monotonic() >= self._oldest + self._flush_seconds


class PatientCheckpoints:
    """The store's checkpoints for a trial that would rather go on than stop because one could not be saved."""

    def __init__(self, store: Store, rows: RowBuffer, notice: Callable[[str], None]) -> None:
        self._folder = store.checkpoints
        self._rows = rows
        self._notice = notice
        self._known: set[tuple[str, int]] = set()  # replicates with a state in the store, as far as this trial saw

    def save(self, cell_id: str, replicate: int, step: int, arrays: dict[str, Any]) -> None:
        """Save a state; where that fails, say so: only the work since the last one is at risk."""
        self._known.add((cell_id, replicate))
        try:
            self._folder.save(cell_id, replicate, step, arrays)
        except OSError as error:
            self._notice(f"a checkpoint could not be saved, the trial goes on without: {error}")

    def latest(self, cell_id: str, replicate: int) -> tuple[int, dict[str, Any]] | None:
        """The newest state, if any."""
        state = self._rows.insist(lambda: self._folder.latest(cell_id, replicate))
        if state is not None:
            self._known.add((cell_id, replicate))
        return state

    def discard(self, cell_id: str, replicate: int) -> None:
        """Remove the states of a replicate whose row is stored; left behind where that fails, for ``gc`` to find."""
        if (cell_id, replicate) not in self._known:
            return  # saves a listing for every short trial
        try:
            self._folder.discard(cell_id, replicate)
        except OSError as error:
            self._notice(f"old checkpoints could not be removed: {error}")
