"""Running a shard: cells in, rows in the store out. The same in this process and in a Ray worker.

Rows go straight from the worker to the store, history first, so that nothing is lost with the driver. Exceptions of the
numerics become rows of ``failures``; only a store that stays unreachable, or the death of the process, ends a shard.
"""

from __future__ import annotations

import importlib
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from flatdist.errors import LaunchError, StoreError
from flatdist.launch.interrupt import StopNow
from flatdist.launch.progress.events import Event, ItemFailed, Notice, RowStored, ShardEnded, ShardStarted, StepsTaken
from flatdist.launch.rows import PatientCheckpoints, RowBuffer
from flatdist.launch.settings import LaunchSettings

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.planning import Shard
    from flatdist.store import Store

Report = Callable[[Event], None]
ShouldStop = Callable[[], bool]
STEPS_SECONDS = 1.0  # between two reports of the steps taken
MESSAGE_LENGTH = 500  # characters of an error's message that travel to the driver; the store has all of it


@dataclass
class ShardCounts:
    """What became of a shard's replicates."""

    stored: int = 0
    failed: int = 0
    stopped: bool = False


def run_shard(
    shard: Shard,
    store_uri: str,
    settings: LaunchSettings,
    report: Report | None = None,
    *,
    number: int = 0,
    should_stop: ShouldStop | None = None,
    again: bool = False,
    device: str = "cpu",
) -> ShardCounts:
    """Run a shard's items one after the other and write their rows to the store as they finish.

    Args:
        shard: cells and the replicates wanted of each.
        store_uri: where the rows go.
        settings: how to run them.
        report: told of every row once it is safe, and of every failure.
        number: the shard's number within the plan, passed on in the reports.
        should_stop: asked between rows; once it is true the finished rows are stored and the shard is left.
        again: the shard has been started before, by a process that died: what that one stored is left out.
        device: ``cpu`` or ``cuda``.

    Raises:
        StoreError: the store could not be written to for ``settings.store_patience`` seconds.
    """
    from flatdist.machine.threads import set_threads
    from flatdist.store import Store

    report = report or (lambda event: None)
    should_stop = should_stop or (lambda: False)
    set_threads(settings.threads)
    store = Store(store_uri)
    store.hurry_when(should_stop)
    store.generations()  # results that are invalidated from here on are not revived by this shard's
    counts = ShardCounts()
    done = store.done({item.cell.cell_id for item in shard.items}) if again else {}
    report(ShardStarted(number, time.monotonic()))

    def stored(outcomes: Sequence[Any]) -> None:
        counts.stored += len(outcomes)
        for outcome in outcomes:
            row = outcome.trial
            checkpoints.discard(row["cell_id"], row["replicate"])
            error = row.get("relative_error")
            report(
                RowStored(
                    number,
                    row["cell_id"],
                    row["replicate"],
                    row["status"],
                    float("nan") if error is None else float(error),
                    time.monotonic(),
                )
            )

    def notice(text: str) -> None:
        report(Notice(text))

    with RowBuffer(store, settings.flush_seconds, settings.store_patience, stored, notice, should_stop) as rows:
        checkpoints = PatientCheckpoints(store, rows, notice)
        work = _Work(store, checkpoints, settings, rows, report, number, should_stop, device)
        for item in shard.items:
            missing = tuple(r for r in item.replicates if r not in done.get(item.cell.cell_id, ()))
            if should_stop():
                break
            if missing:
                counts.failed += work.run(item.cell, missing, item.until)
        work.report_steps()
    counts.stopped = should_stop()
    report(ShardEnded(number, time.monotonic()))
    return counts


@dataclass
class _Work:
    """What running an item needs beside the item."""

    store: Store
    checkpoints: PatientCheckpoints
    settings: LaunchSettings
    rows: RowBuffer
    report: Report
    number: int
    should_stop: ShouldStop
    device: str
    steps: int = 0
    steps_reported: float = 0.0

    def run(self, cell: Cell, replicates: tuple[int, ...], until: int | None = None) -> int:
        """Run one cell's replicates together, or in halves where memory is short; returns how many failed.

        With ``until`` each replicate pauses, checkpointed, once its history has an evaluation at that step or later.
        """
        from flatdist.factorization.evaluation import BLOCK
        from flatdist.trials.settings import Hooks, Interrupted, RunSettings

        run_replicates = load_runner(self.settings.runner)
        run_settings = RunSettings(
            engine=self.settings.engine,
            device=self.device,
            threads=self.settings.threads,
        )
        paused: set[int] = set()  # replicates trained together get there together, and those left behind run again

        def note_history(replicate: int, rows: list[dict[str, Any]]) -> None:
            diverged = len(rows) < BLOCK  # nothing is reported after that step
            if until is not None and (diverged or rows[-1]["step"] >= until):
                paused.add(replicate)

        hooks = Hooks(
            checkpoints=self.checkpoints,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            should_stop=lambda: self.should_stop() or bool(paused),
            on_steps=self._count_steps,
            on_history=None if until is None else note_history,
        )
        failed = 0
        batches = [replicates]
        while batches and not self.should_stop():
            batch = batches.pop(0)
            left = list(batch)
            try:
                for outcome in run_replicates(
                    cell,
                    batch,
                    run_settings,
                    hooks=hooks,
                    provenance=self.settings.provenance or None,
                ):
                    self.rows.add(outcome)
                    left.remove(outcome.trial["replicate"])
            except Interrupted:
                if self.should_stop() or not paused:
                    break
                behind = tuple(r for r in left if r not in paused)
                paused.clear()
                batches[:0] = [behind] if behind else []
            except (StoreError, LaunchError):
                raise  # no failure of the cell: the shard is tried again, or nothing can run
            except Exception as error:
                if broken_off(error):
                    raise StopNow from error
                if len(left) > 1 and out_of_memory(error):
                    half = (len(left) + 1) // 2
                    batches[:0] = [tuple(left[:half]), tuple(left[half:])]
                    continue
                self.rows.write_failures(list(failure_rows(self.store, cell, left, error)))
                failed += len(left)
                message = f"{type(error).__name__}: {error}"[:MESSAGE_LENGTH]
                self.report(ItemFailed(self.number, cell.cell_id, tuple(left), message, time.monotonic()))
        return failed

    def _count_steps(self, steps: int) -> None:
        self.steps += steps
        now = time.monotonic()
        if now - self.steps_reported >= STEPS_SECONDS:
            self.report_steps()
            self.steps_reported = now

    def report_steps(self) -> None:
        """Tell the steps taken since the last time."""
        if self.steps:
            self.report(StepsTaken(self.number, self.steps))
            self.steps = 0


def load_runner(name: str) -> Callable[..., Iterator[Any]]:
    """The function that ``module:function`` names."""
    module, function = name.split(":")
    return cast("Callable[..., Iterator[Any]]", getattr(importlib.import_module(module), function))


def broken_off(error: BaseException | None) -> bool:
    """Whether an exception is what compiled code made of :class:`StopNow`: a SystemError caused by it."""
    while error is not None and not isinstance(error, StopNow):
        error = error.__cause__
    return error is not None


def out_of_memory(error: BaseException) -> bool:
    """Whether fewer replicates at a time might get through."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def failure_rows(store: Store, cell: Cell, replicates: Sequence[int], error: BaseException) -> Iterator[dict[str, Any]]:
    """One row of ``failures`` for each replicate that an exception ended."""
    before = store.failed([cell.cell_id]).get(cell.cell_id, {})
    for replicate in replicates:
        yield {
            "cell_id": cell.cell_id,
            "replicate": replicate,
            "attempt": before.get(replicate, 0) + 1,
            "error_type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
            "host": f"{socket.gethostname()}:{os.getpid()}",
            "at": datetime.now(UTC),
        }
