"""The progress of a sweep: what workers report, counts, throughput, and the time left."""

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

# Events. ``at`` are seconds on the worker's monotonic clock, for durations on one worker only.


class ShardStarted(NamedTuple):
    """A worker took up a shard."""

    shard: int
    at: float


class RowStored(NamedTuple):
    """A replicate's row is safe in the store."""

    shard: int
    cell_id: str
    replicate: int
    status: str
    relative_error: float
    at: float


class StepsTaken(NamedTuple):
    """Steps since the last such report, summed over the replicates that took them."""

    shard: int
    steps: int
    at: float


class ItemFailed(NamedTuple):
    """Replicates that ended in an exception, which is recorded in the store's ``failures``."""

    shard: int
    cell_id: str
    replicates: tuple[int, ...]
    error: str  # type and message, the key by which equal errors are recognised
    at: float


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


@dataclass
class _ShardState:
    rows: int = 0
    predicted: float = 0.0  # seconds
    all_steps: int = 0  # that engines are to take; 0 where solvers run too, whose work has no steps
    finished: int = 0
    steps: int = 0
    started: float | None = None  # worker's clock: events may reach the driver late, and many at a time
    last_news: float = 0.0  # worker's clock, of the last news of its rows or steps, or of its start
    heard: float = 0.0  # driver's clock, when it learnt of that
    ended: bool = False

    @property
    def share(self) -> float:
        """Share of its work that is done: finished rows, or steps taken on the way to the next ones."""
        taken = min(self.steps / self.all_steps, 1.0) if self.all_steps else 0.0
        return max(self.finished / max(self.rows, 1), taken)

    @property
    def is_running(self) -> bool:
        """Whether a worker has it."""
        return self.started is not None and not self.ended

    def end(self, at: float | None = None) -> float:
        """Mark as ended, by default when it was last heard of; returns the seconds that it took."""
        began, self.ended = None if self.ended else self.started, True
        return 0.0 if began is None else max(0.0, (self.last_news if at is None else at) - began)


@dataclass
class CellTally:
    """Counts of one cell's replicates."""

    stored: int = 0
    successes: int = 0


@dataclass
class Progress:
    """Counts of replicates kept by the driver, fed with the workers' events."""

    cells: Mapping[str, Cell]  # all cells of the sweep by id
    wanted: int
    done_before: int = 0  # that were in the store before this run
    slots: int = 1
    clock: Callable[[], float] = time.monotonic
    tallies: dict[str, CellTally] = field(default_factory=lambda: defaultdict(CellTally))
    stored: int = 0
    failed: int = 0
    diverged: int = 0
    stopped: int = 0
    steps: int = 0
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
                self._busy += state.end()
                state.rows = state.finished
        self.add(shards)

    def add(self, shards: Iterable[tuple[int, Shard]]) -> None:
        """Add shards to those that run."""
        for number, shard in shards:
            steps = 0
            if all(item.cell.spec.takes_steps for item in shard.items):
                steps = sum(len(i.replicates) * min(i.cell.steps, i.until or i.cell.steps) for i in shard.items)
            self._shards[number] = _ShardState(shard.replicates, max(shard.predicted_seconds, 1e-3), steps)

    def known(self, cell_id: str, successes: int, stored: int) -> None:
        """Add what the store held of a cell before this run."""
        tally = self.tallies[cell_id]
        tally.stored += stored
        tally.successes += successes

    def apply(self, event: Event) -> None:
        """Apply one event."""
        if isinstance(event, Notice):
            return
        state = self._shards.get(event.shard, _ShardState())
        if isinstance(event, ShardStarted):
            state.started = state.last_news = event.at
        elif isinstance(event, StepsTaken):
            self.steps += event.steps
            state.steps += event.steps
        elif isinstance(event, RowStored):
            if (event.cell_id, event.replicate) in self._seen:  # by a worker that died before it said so, too
                return
            self._seen.add((event.cell_id, event.replicate))
            self.stored += 1
            self.diverged += event.status == "diverged"
            self.known(event.cell_id, event.relative_error < SUCCESS_TOLERANCE, 1)
            state.finished += 1
        elif isinstance(event, ItemFailed):
            self.failed += len(event.replicates)
            self._same_error[_NUMBERS.sub("#", event.error)].add(event.cell_id)
            state.finished += len(event.replicates)
        elif isinstance(event, ShardEnded):
            self._busy += state.end(event.at)
        elif isinstance(event, Skipped):  # others run it
            self.done_before += event.replicates
            if state.rows:
                state.predicted *= (state.rows - event.replicates) / state.rows
                state.rows -= event.replicates
        elif not state.ended:  # its trial was stopped
            self._busy += state.end()
            self.stopped += state.rows - state.finished
            state.rows = state.finished
        if isinstance(event, (ShardStarted, StepsTaken, RowStored, ItemFailed)):
            state.last_news, state.heard = max(state.last_news, event.at), self.clock()

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
        return sum(state.is_running for state in self._shards.values())

    def eta(self) -> float | None:
        """Seconds until the rest is done, or None before anything has been measured.

        A finished row, or a step taken, is worth its share of its shard's predicted time. The ratio of slot-seconds
        spent to predicted seconds corrects the prediction, as if ``PRIOR`` of the whole had gone as predicted, because
        the first rows may be of a kind that is predicted badly. Work in progress counts by the time since its shard
        last reported; overdue work is expected to take a fifth longer still.
        """
        if not self._shards:  # seen from outside: only the rate of rows is known
            return (self.wanted - self.finished) * self.elapsed / self.stored if self.stored else None
        now, states = self.clock(), self._shards.values()
        active = [state for state in states if state.is_running]
        waiting = [state for state in states if state.started is None and not state.ended]
        total = sum(state.predicted for state in states)
        finished = sum(state.predicted * state.share for state in states)
        spent = self._busy + sum(state.last_news - (state.started or 0.0) for state in active)
        if finished <= 0 or spent <= 0:
            return None
        scale = (spent + PRIOR * total) / (finished + PRIOR * total)
        left = [
            max(scale * state.predicted * (1 - state.share) - (now - state.heard), OVERDUE * (now - state.heard))
            for state in active
        ]
        slots = max(1, min(max(self.slots, len(active)), len(active) + len(waiting)))  # a cluster may have grown
        return max([*left, (sum(left) + scale * sum(state.predicted for state in waiting)) / slots])

    def common_error(self, limit: int) -> str | None:
        """The error with which the first ``limit`` distinct cells all failed, or None."""
        if self.stored or len(self._same_error) != 1:
            return None
        ((error, cells),) = self._same_error.items()
        return error if len(cells) >= limit else None
