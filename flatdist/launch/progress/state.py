"""The progress of a sweep: counts, throughput, and the time left."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.planning import Shard


SUCCESS_TOLERANCE = 1e-2  # relative error below which the view counts a replicate as a success
PRIOR = 0.05  # share of the work that counts as having taken the predicted time
OVERDUE = 0.2
_NUMBERS = re.compile(r"\d+(\.\d+)?")


@dataclass
class _ShardState:
    rows: int
    predicted: float  # seconds
    all_steps: int = 0  # that engines are to take; 0 where solvers run too, whose work has no steps
    finished: int = 0
    steps: int = 0
    started: float | None = None  # worker's clock: events may reach the driver late, and many at a time
    last_row: float = 0.0  # worker's clock, of the last news of its rows or steps, or of its start
    heard: float = 0.0  # driver's clock, when it learnt of that
    ended: bool = False

    @property
    def share(self) -> float:
        """Share of its work that is done: finished rows, or steps taken on the way to the next ones."""
        taken = min(self.steps / self.all_steps, 1.0) if self.all_steps else 0.0
        return max(self.finished / max(self.rows, 1), taken)

    def end(self, at: float) -> float:
        """Mark as ended; returns the seconds that it took."""
        self.ended = True
        return 0.0 if self.started is None else max(0.0, at - self.started)


@dataclass
class CellTally:
    """Counts of one cell's replicates."""

    stored: int = 0
    successes: int = 0
    failed: int = 0


@dataclass
class Progress:
    """Counts kept by the driver, fed with the workers' events.

    Args:
        cells: all cells of the sweep by id.
        wanted: replicates wanted in all.
        done_before: replicates that were in the store before this run.
        clock: seconds; anything that only goes forward.
    """

    cells: Mapping[str, Cell]
    wanted: int
    done_before: int = 0
    slots: int = 1
    clock: Callable[[], float] = time.monotonic
    tallies: dict[str, CellTally] = field(default_factory=lambda: defaultdict(CellTally))
    stored: int = 0
    failed: int = 0
    diverged: int = 0
    stopped: int = 0
    steps: int = 0
    notices: list[str] = field(default_factory=list)
    started_at: float = 0.0

    def __post_init__(self) -> None:
        self._shards: dict[int, _ShardState] = {}
        self._same_error: dict[str, set[str]] = defaultdict(set)
        self._seen: set[tuple[str, int]] = set()
        self._busy = 0.0  # slot-seconds that ended shards took
        self.started_at = self.clock()

    def expect(self, shards: Iterable[tuple[int, Shard]]) -> None:
        """Add shards that are about to run, and forget unfinished ones of an earlier round."""
        for state in self._shards.values():
            if not state.ended:
                self._busy += state.end(state.last_row)
                state.rows = state.finished
        self.add(shards)

    def add(self, shards: Iterable[tuple[int, Shard]]) -> None:
        """Add more shards to those that run."""
        for number, shard in shards:
            rows = sum(len(item.replicates) for item in shard.items)
            steps = 0
            if all(item.cell.spec.takes_steps for item in shard.items):
                steps = sum(len(i.replicates) * min(i.cell.steps, i.until or i.cell.steps) for i in shard.items)
            self._shards[number] = _ShardState(rows, max(shard.predicted_seconds, 1e-3), steps)

    def known(self, cell_id: str, successes: int, stored: int) -> None:
        """Add what the store held of a cell before this run."""
        tally = self.tallies[cell_id]
        tally.stored += stored
        tally.successes += successes

    def apply(self, event: Event) -> None:
        """Apply one event."""
        now = self.clock()
        if isinstance(event, RowStored):
            self._row(event, now)
        elif isinstance(event, StepsTaken):
            self.steps += event.steps
            state = self._shards.get(event.shard)
            if state is not None and event.at:
                state.steps += event.steps
                state.last_row, state.heard = max(state.last_row, event.at), now
        elif isinstance(event, ItemFailed):
            self.failed += len(event.replicates)
            self.tallies[event.cell_id].failed += len(event.replicates)
            self._same_error[_NUMBERS.sub("#", event.error)].add(event.cell_id)
            self._count(event.shard, len(event.replicates), event.at, now)
        elif isinstance(event, ShardStarted):
            state = self._shards.get(event.shard)
            if state is not None:
                state.started = state.last_row = event.at
                state.heard = now
        elif isinstance(event, ShardEnded):
            state = self._shards.get(event.shard)
            if state is not None and not state.ended:
                self._busy += state.end(event.at)
        elif isinstance(event, (Skipped, TrialStopped)):
            self._give_up(event)
        elif isinstance(event, Notice):
            self.notices.append(event.text)

    def _give_up(self, event: Skipped | TrialStopped) -> None:
        """Expect no more of a shard, or less: others run it, or its trial was stopped."""
        state = self._shards.get(event.shard)
        if isinstance(event, Skipped):
            self.done_before += event.replicates
            if state is not None and state.rows:
                state.predicted *= (state.rows - event.replicates) / state.rows
                state.rows -= event.replicates
        elif state is not None and not state.ended:
            self._busy += state.end(state.last_row)
            self.stopped += state.rows - state.finished
            state.rows = state.finished

    def _row(self, event: RowStored, now: float) -> None:
        key = (event.cell_id, event.replicate)
        if key in self._seen:  # stored twice: by a worker that died before it said so, and by its successor
            return
        self._seen.add(key)
        self.stored += 1
        self.diverged += event.status == "diverged"
        tally = self.tallies[event.cell_id]
        tally.stored += 1
        tally.successes += event.relative_error < SUCCESS_TOLERANCE
        self._count(event.shard, 1, event.at, now)

    def _count(self, shard: int, rows: int, at: float, now: float) -> None:
        state = self._shards.get(shard)
        if state is not None:
            state.finished += rows
            state.last_row, state.heard = at, now

    @property
    def finished(self) -> int:
        """Replicates in the store, failed or stopped early, of those wanted."""
        return self.done_before + self.stored + self.failed + self.stopped

    @property
    def share(self) -> float:
        """Share of the wanted replicates that is done, counting those in progress by the steps they have taken."""
        if not self.wanted:
            return 1.0
        in_progress = sum(max(0.0, s.rows * s.share - s.finished) for s in self._shards.values() if not s.ended)
        return min(1.0, (self.finished + in_progress) / self.wanted)

    @property
    def elapsed(self) -> float:
        """Seconds since the sweep started."""
        return self.clock() - self.started_at

    @property
    def running(self) -> int:
        """Shards in progress."""
        return sum(state.started is not None and not state.ended for state in self._shards.values())

    @property
    def steps_per_second(self) -> float:
        """Replicate-steps a second, over the whole run."""
        return self.steps / self.elapsed if self.elapsed > 0 else 0.0

    def eta(self) -> float | None:
        """Seconds until the rest is done, or None before anything has been measured.

        A finished row, or a step taken, is worth its share of its shard's predicted time. The ratio of slot-seconds
        spent to predicted seconds corrects the prediction, as if ``PRIOR`` of the whole had gone as predicted, because
        the first rows may be of a kind that is predicted badly. Work in progress counts by the time since its shard
        last reported; overdue work is expected to take a fifth longer still.
        """
        if not self._shards:  # seen from outside: only the rate of rows is known
            return (self.wanted - self.finished) * self.elapsed / self.stored if self.stored else None
        now = self.clock()
        states = self._shards.values()
        active = [state for state in states if state.started is not None and not state.ended]
        waiting = [state for state in states if state.started is None and not state.ended]
        total = sum(state.predicted for state in states)
        finished = sum(state.predicted * state.share for state in states)
        spent = self._busy + sum(state.last_row - (state.started or 0.0) for state in active)
        if finished <= 0 or spent <= 0:
            return None
        scale = (spent + PRIOR * total) / (finished + PRIOR * total)
        left = []
        for state in active:
            silent = now - state.heard
            left.append(max(scale * state.predicted * (1 - state.share) - silent, OVERDUE * silent))
        slots = max(1, min(max(self.slots, len(active)), len(active) + len(waiting)))  # a cluster may have grown
        return max([*left, (sum(left) + scale * sum(state.predicted for state in waiting)) / slots])

    def common_error(self, limit: int) -> str | None:
        """The error with which the first ``limit`` distinct cells all failed, or None."""
        if self.stored:
            return None
        for error, cells in self._same_error.items():
            if len(self._same_error) == 1 and len(cells) >= limit:
                return error
        return None


class ShardStarted(NamedTuple):
    """A worker took up a shard."""

    shard: int
    at: float  # seconds on the worker's monotonic clock, for durations on one worker only


class RowStored(NamedTuple):
    """A replicate's row is safe in the store."""

    shard: int
    cell_id: str
    replicate: int
    status: str
    relative_error: float
    at: float  # seconds on the worker's monotonic clock


class StepsTaken(NamedTuple):
    """Steps since the last such report, summed over the replicates that took them."""

    shard: int
    steps: int
    at: float = 0.0  # seconds on the worker's monotonic clock; 0 where it does not say


class ItemFailed(NamedTuple):
    """Replicates that ended in an exception, which is recorded in the store's ``failures``."""

    shard: int
    cell_id: str
    replicates: tuple[int, ...]
    error: str  # type and message, the key by which equal errors are recognised
    at: float  # seconds on the worker's monotonic clock


class Skipped(NamedTuple):
    """Replicates of a shard that another driver has stored or is running."""

    shard: int
    replicates: int


class ShardEnded(NamedTuple):
    """A worker has finished with a shard."""

    shard: int
    at: float


class TrialStopped(NamedTuple):
    """A scheduler has stopped the trial that ran a shard: its other replicates will not end."""

    shard: int


class Notice(NamedTuple):
    """Something the user should read, such as a store that does not answer."""

    text: str


Event = ShardStarted | StepsTaken | RowStored | ItemFailed | Skipped | ShardEnded | TrialStopped | Notice
