"""Running a shard: cells in, rows in the store out. The same in this process and in a Ray worker.

Rows go straight from the worker to the store, history first, so that nothing is lost with the driver. Exceptions in a
trial become rows of ``failures``; only a store that stays unreachable, or the death of the process, ends a shard.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pkgutil import resolve_name as load_runner
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flatdist.errors import LaunchError, StoreError
from flatdist.launch.interrupt import StopNow
from flatdist.launch.progress.state import (
    Event,
    ItemFailed,
    Notice,
    RowStored,
    ShardEnded,
    ShardStarted,
    Skipped,
    StepsTaken,
)
from flatdist.machine import logs
from flatdist.planning.settings import Settings
from flatdist.planning.work import Key, keys_in

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.planning import Shard, WorkItem
    from flatdist.store import Store
    from flatdist.store.drivers import Driver
    from flatdist.trials.settings import Hooks

    Pack = list[tuple[Cell, tuple[int, ...]]]  # cells, and the replicates of each, that are run together

log = logging.getLogger(__name__)

Report = Callable[[Event], None]
ShouldStop = Callable[[], bool]
Answer = TypeVar("Answer")
STEPS_SECONDS = 1.0  # between two reports of the steps taken
MESSAGE_LENGTH = 500  # characters of an error's message that travel to the driver; the store has all of it
FIRST_WAIT = 0.5  # seconds before the first retry of a write; doubles every time
LONGEST_WAIT = 15.0
PATIENCE_WHEN_STOPPING = 3.0  # an interrupted sweep has 10 seconds in all
_stores: dict[str, Store] = {}  # what this process has read of a store's files is kept for the next shard


@dataclass
class ShardCounts:
    """What became of a shard's replicates."""

    stored: int = 0
    failed: int = 0
    stopped: bool = False


class Watch(Protocol):
    """Follows the training of a cell's replicates."""

    def on_history(self, replicate: int, rows: list[dict[str, Any]]) -> None:
        """New rows of a replicate's history."""

    def on_diverged(self, replicate: int) -> None:
        """A replicate whose training has diverged."""


def run_shard(
    shard: Shard,
    store_uri: str,
    settings: Settings,
    report: Report = lambda event: None,
    *,
    number: int = 0,
    should_stop: ShouldStop = lambda: False,
    device: str = "cpu",
    watch: Watch | None = None,
    driver: Driver | None = None,
) -> ShardCounts:
    """Run a shard's items, one after another or all as one pack, and write their rows to the store as they finish.

    If the settings name a launch, skip what other drivers are running or have stored.

    Args:
        shard: cells and the replicates wanted of each.
        store_uri: where the rows go.
        settings: how to run them.
        report: called with every row once it is safe, and with every failure.
        number: the shard's number within the plan, passed on in the reports.
        should_stop: called between rows; once it is true, finished rows are stored and the shard is abandoned.
        device: ``cpu`` or ``cuda``.
        watch: receives the history while it is made.
        driver: announces the work; None creates one for this shard if the settings name a launch.

    Raises:
        StoreError: the store could not be written to for ``settings.store_patience`` seconds.
    """
    from flatdist.machine.threads import set_threads
    from flatdist.store import Store
    from flatdist.store.drivers import Driver

    logs.configure(settings.log_level, settings.log_file, worker=True)
    set_threads(settings.threads)
    store = _stores.setdefault(store_uri, Store(store_uri)).reopened()
    store.shorten_waits_when(should_stop)
    store.generations()  # this shard must not revive results that are invalidated from now on
    counts = ShardCounts()
    report(ShardStarted(number, time.monotonic()))

    def stored(outcomes: Sequence[Any]) -> None:
        counts.stored += len(outcomes)
        for row in (outcome.trial for outcome in outcomes):
            key = row["cell_id"], row["replicate"]
            checkpoints.discard(*key)
            error = row.get("relative_error")
            error = math.nan if error is None else float(error)
            report(RowStored(number, *key, row["status"], error, time.monotonic()))

    def notice(text: str) -> None:
        log.warning("shard %d: %s", number, text)
        report(Notice(text))

    with contextlib.ExitStack() as stack:
        if driver is None and settings.launch:
            driver = stack.enter_context(Driver(store, settings.launch))
        rows = stack.enter_context(
            RowBuffer(store, settings.flush_seconds, settings.store_patience, stored, notice, should_stop)
        )
        checkpoints = PatientCheckpoints(rows)
        stack.enter_context(logs.waits.told_to(notice))
        work = _Work(checkpoints, settings, rows, report, number, should_stop, device, watch)
        items = rows.insist(lambda: _free(shard, store, driver))
        cells = ", ".join(f"{item.cell.cell_id} x {len(item.replicates)}" for item in items[:5])
        cells += f" and {len(items) - 5} more" if len(items) > 5 else ""
        left = sum(len(item.replicates) for item in items)
        how = "starts" if left == shard.replicates else "resumes"
        text = "shard %d %s: %d replicates of cells %s, about %.0f s"
        log.info(text, number, how, left, cells, shard.predicted_seconds)
        if left < shard.replicates:
            report(Skipped(number, shard.replicates - left))
        for group in [items] if shard.together else [(item,) for item in items]:
            if should_stop():
                break
            counts.failed += work.run([(item.cell, item.replicates) for item in group], group[0].until)
        work.report_steps()
    counts.stopped = should_stop()
    how = "stopped on request" if counts.stopped else "ended"
    log.info("shard %d %s: %d replicates stored, %d failed", number, how, counts.stored, counts.failed)
    report(ShardEnded(number, time.monotonic()))
    return counts


def _free(shard: Shard, store: Store, driver: Driver | None) -> Sequence[WorkItem]:
    """The rest of a shard, which nobody else is running, has stored or has brought to its rung.

    The work is taken before the store is read, because others release it after they have stored it.
    """
    if driver is None:
        return shard.items
    if free := driver.take(shard.keys):
        free = free - keys_in(store.done({item.cell.cell_id for item in shard.items})) - paused_keys(store, shard.items)
    return shard.keeping(free.__contains__).items


def paused_keys(store: Store, items: Sequence[WorkItem]) -> set[Key]:
    """Replicates that were to pause at a rung and stand there."""
    paused = [(item.cell, replicate, item.until) for item in items if item.until for replicate in item.replicates]
    if not paused:
        return set()
    from flatdist.sweeps.early_stopping import is_paused

    return {(cell.cell_id, replicate) for cell, replicate, rung in paused if is_paused(store, cell, replicate, rung)}


@dataclass
class _Work:
    """What running an item needs beside the item."""

    checkpoints: PatientCheckpoints
    settings: Settings
    rows: RowBuffer
    report: Report
    number: int
    should_stop: ShouldStop
    device: str
    watch: Watch | None
    steps: int = 0
    steps_reported: float = 0.0

    def run(self, pack: Pack, until: int | None) -> int:
        """Run replicates together, or in parts where memory is short or one cell fails; returns how many failed.

        With ``until`` each replicate of the one cell pauses, checkpointed, once its history has an evaluation at that
        step or later.
        """
        from flatdist.trials.settings import Hooks, Interrupted

        paused: set[int] = set()  # replicates trained together get there together; the rest run again

        def note_history(replicate: int, rows: list[dict[str, Any]]) -> None:
            if until is not None and rows and rows[-1]["step"] >= until:
                paused.add(replicate)
            if self.watch is not None:
                self.watch.on_history(replicate, rows)

        def note_divergence(replicate: int) -> None:
            if until is not None:
                paused.add(replicate)
            if self.watch is not None:
                self.watch.on_diverged(replicate)

        hooks = Hooks(
            checkpoints=self.checkpoints,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            should_stop=lambda: self.should_stop() or bool(paused),
            on_steps=self._count_steps,
            on_history=None if until is None and self.watch is None else note_history,
            on_diverged=note_divergence,
            live=self.watch is not None,
        )
        failed = 0
        batches = [pack] if pack else []
        while batches and not self.should_stop():
            batch = batches.pop(0)
            left = [(cell, replicate) for cell, replicates in batch for replicate in replicates]
            try:
                for outcome in self._outcomes(batch, hooks):
                    self.rows.add(outcome)
                    key = outcome.trial["cell_id"], outcome.trial["replicate"]
                    left = [one for one in left if (one[0].cell_id, one[1]) != key]
            except Interrupted:
                if self.should_stop() or not paused:
                    break
                behind = regrouped(one for one in left if one[1] not in paused)
                paused.clear()
                batches[:0] = [behind] if behind else []
            except (StoreError, LaunchError):
                raise  # not a failure of the cell: the shard is retried, or nothing can run
            except Exception as error:
                if broken_off(error):
                    raise StopNow from error
                short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
                if len(left) > 1 and short:
                    half = (len(left) + 1) // 2
                    batches[:0] = [regrouped(left[:half]), regrouped(left[half:])]
                    log.warning("out of memory, retrying %d replicates in halves", len(left))
                elif len(batch) > 1:  # one cell of a pack must not fail the others
                    batches[:0] = [[item] for item in regrouped(left)]
                else:
                    failed += self._fail(batch[0][0], tuple(replicate for _, replicate in left), error)
        return failed

    def _outcomes(self, batch: Pack, hooks: Hooks) -> Iterator[Any]:
        from flatdist.trials.run import run_pack
        from flatdist.trials.settings import RunSettings

        mine = self.settings
        settings = RunSettings(mine.engine, self.device, mine.threads, mine.planned_steps)
        how: dict[str, Any] = {"hooks": hooks, "provenance": mine.provenance or None}
        if len(batch) > 1:
            return run_pack(batch, settings, **how)
        runner: Callable[..., Iterator[Any]] = load_runner(mine.runner)
        return runner(*batch[0], settings, **how)

    def _fail(self, cell: Cell, replicates: tuple[int, ...], error: Exception) -> int:
        path = logs.log_path()
        message = str(error) if path is None else f"{error} (its worker's log: {socket.gethostname()}:{path})"
        trace = "".join(traceback.format_exception(error))
        keys = [(cell.cell_id, replicate) for replicate in replicates]
        rows = failure_rows(self.rows.store, keys, type(error).__name__, message, trace)
        self.rows.insist(lambda: self.rows.store.write_failures(rows))
        log.error("cell %s: replicates %s failed", cell.cell_id, list(replicates), exc_info=error)
        text = f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH]
        self.report(ItemFailed(self.number, cell.cell_id, replicates, text, time.monotonic()))
        return len(replicates)

    def _count_steps(self, steps: int) -> None:
        self.steps += steps
        if time.monotonic() - self.steps_reported >= STEPS_SECONDS:
            self.report_steps()

    def report_steps(self) -> None:
        if self.steps:
            self.steps_reported = time.monotonic()
            self.report(StepsTaken(self.number, self.steps, self.steps_reported))
            self.steps = 0


def regrouped(replicates: Iterable[tuple[Cell, int]]) -> Pack:
    """Replicates grouped by cell."""
    pack: dict[str, tuple[Cell, list[int]]] = {}
    for cell, replicate in replicates:
        pack.setdefault(cell.cell_id, (cell, []))[1].append(replicate)
    return [(cell, tuple(numbers)) for cell, numbers in pack.values()]


def broken_off(error: BaseException | None) -> bool:
    """Whether an exception is a SystemError that compiled code raised because of :class:`StopNow`."""
    while error is not None and not isinstance(error, StopNow):
        error = error.__cause__
    return error is not None


def failure_rows(store: Store, keys: Collection[Key], kind: str, message: str, trace: str = "") -> list[dict[str, Any]]:
    """One row of ``failures`` for each replicate that an error ended."""
    before = store.failed(list({cell_id for cell_id, _ in keys}))
    return [
        {
            "cell_id": cell_id,
            "replicate": replicate,
            "attempt": before.get(cell_id, {}).get(replicate, 0) + 1,
            "error_type": kind,
            "message": message,
            "traceback": trace,
            "host": f"{socket.gethostname()}:{os.getpid()}",
            "at": datetime.now(UTC),
        }
        for cell_id, replicate in keys
    ]


@dataclass
class RowBuffer:
    """Collects outcomes and writes them together: at the end, and as soon as one has waited ``flush_seconds``.

    A timer does the latter, since the next row may be an hour away. The store names a part by its keys, so a write that
    is repeated after an unclear answer replaces itself.
    """

    store: Store
    flush_seconds: float  # the longest time that a row waits in memory
    patience: float  # seconds for which a failing write is retried
    stored: Callable[[Sequence[Any]], None]  # called with the outcomes of every write, once they are safe
    notice: Callable[[str], None]  # called with a text when the store does not answer
    should_stop: ShouldStop  # when true, a failing write is given up early

    def __post_init__(self) -> None:
        self._waiting: list[Any] = []
        self._lock = threading.Lock()  # guards the waiting rows
        self._writing = threading.RLock()  # one write at a time
        self._error: BaseException | None = None
        self._thread: threading.Timer | None = None  # of the oldest waiting row

    def __enter__(self) -> RowBuffer:
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        if self._thread is not None:
            self._thread.cancel()
            self._thread.join()
        self.flush()  # finished rows are stored, whatever ended the shard
        if error is None:
            self.check()

    def add(self, outcome: Any) -> None:
        """Add one finished replicate."""
        self.check()
        with self._lock:
            self._waiting.append(outcome)
            if len(self._waiting) == 1:
                self._thread = threading.Timer(self.flush_seconds, self._flush_late)
                self._thread.daemon = True
                self._thread.start()

    def check(self) -> None:
        """Raise the error of a background write, if any."""
        if self._error is not None:
            raise self._error

    def flush(self) -> None:
        """Write all waiting rows, retrying for as long as ``patience`` lasts."""
        with self._writing:
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            trials = [outcome.trial for outcome in batch]
            history = [row for outcome in batch for row in outcome.history]
            self.insist(lambda: self.store.write(trials, history))
            self.stored(batch)

    def insist(self, act: Callable[[], Answer]) -> Answer:
        """Call a function that uses the store, retrying while it fails and ``patience`` lasts; returns its result."""
        start = time.monotonic()
        wait = FIRST_WAIT
        while True:
            try:
                return act()
            except OSError as error:  # StoreError is one
                waited = time.monotonic() - start
                patience = min(self.patience, PATIENCE_WHEN_STOPPING) if self.should_stop() else self.patience
                if waited + wait > patience:
                    raise
                self.notice(f"store write failed; retrying for up to {patience - waited:.0f} s: {error}")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _flush_late(self) -> None:
        with self._writing:
            try:
                self.flush()
            except BaseException as error:
                self._error = error


class PatientCheckpoints:
    """The store's checkpoints for a trial that continues if one cannot be saved."""

    def __init__(self, rows: RowBuffer) -> None:
        self._folder, self._rows = rows.store.checkpoints, rows
        self._known: set[Key] = set()  # replicates with a state in the store, as far as this trial saw

    def save(self, cell_id: str, replicate: int, step: int, arrays: dict[str, Any]) -> None:
        """Save a state; if that fails, report it: only the work since the last checkpoint is at risk."""
        self._known.add((cell_id, replicate))
        try:
            self._folder.save(cell_id, replicate, step, arrays)
        except OSError as error:
            self._rows.notice(f"a checkpoint could not be saved; the trial continues without it: {error}")

    def latest(
        self, cell_id: str, replicate: int, problem: Callable[[int, dict[str, Any]], str | None]
    ) -> tuple[int, dict[str, Any]] | None:
        """The newest state that has no ``problem``, if any."""
        state = self._rows.insist(lambda: self._folder.latest(cell_id, replicate, problem))
        if state is not None:
            self._known.add((cell_id, replicate))
        return state

    def discard(self, cell_id: str, replicate: int) -> None:
        """Remove the states of a replicate whose row is stored; if that fails, ``gc`` finds them later."""
        if (cell_id, replicate) not in self._known:
            return  # saves a listing for every short trial
        try:
            self._folder.discard(cell_id, replicate)
        except OSError as error:
            self._rows.notice(f"old checkpoints could not be removed: {error}")
