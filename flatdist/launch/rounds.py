"""Running an adaptive sweep: round after round, each recorded before it runs, until the strategy has finished."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from flatdist.launch.launching import LaunchResult
from flatdist.planning.work import WorkItem
from flatdist.sweeps.early_stopping import Halving, is_paused
from flatdist.sweeps.rounds import Request, Round, RoundLog, Rung, Strategy

if TYPE_CHECKING:
    from flatdist.store import Store

INTERRUPTED = 130


@dataclass
class Driver:
    """Drives a strategy."""

    strategy: Strategy  # chooses the cells
    log: RoundLog  # the rounds so far
    store: Store
    run: Callable[[Sequence[WorkItem]], LaunchResult]  # launches work items and returns when they have ended
    _: KW_ONLY
    halving: Halving | None = None  # early stopping
    retry_failed: bool = False  # rerun replicates that failed in earlier runs, once
    tell: Callable[[str], None] = lambda text: None  # given a line about each round
    describe: Callable[[Sequence[Request]], str] = lambda requests: f"{len(requests)} cells"  # a new round in words
    limit: int | None = None  # run only this many cells and stop there

    def __post_init__(self) -> None:
        self._status = 0
        self._allowed: set[str] = set()  # cells within the limit
        ids = [request.cell.cell_id for request in self.log.requests()]
        self._retry = {k: set(v) for k, v in self.store.failed(ids).items()} if self.retry_failed and ids else {}

    def finish(self) -> int:
        """Run the missing work of the recorded rounds, then new rounds until the strategy requests nothing.

        Returns:
            The exit status: 0 all done, 1 some replicates failed or could not be run, 130 interrupted.
        """
        for number in range(len(self.log.rounds)):
            if not self._finish_round(number):
                return self._status
        while requests := self.strategy.next_round(self.log.rounds, self.store):
            self.log.add(Round(tuple(requests)))
            self.tell(f"round {len(self.log.rounds)}: {self.describe(requests)}")
            if not self._finish_round(len(self.log.rounds) - 1):
                return self._status
        return self._end()

    def _end(self) -> int:
        return 1 if self.store.failed([request.cell.cell_id for request in self.log.requests()]) else 0

    def _finish_round(self, number: int) -> bool:
        """Run a round to its end; False if it did not finish."""
        requests = self.log.rounds[number].requests
        stopped: set[str] = set()
        if self.halving is not None:
            if not self._climb(number, self.halving):
                return False
            stopped = {requests[index].cell.cell_id for index in self.log.rounds[number].stopped()}
        for request in requests:
            if self.limit is None or len(self._allowed) < self.limit:
                self._allowed.add(request.cell.cell_id)
        within = [request for request in requests if request.cell.cell_id in self._allowed]
        if not self._launch(self._missing(one for one in within if one.cell.cell_id not in stopped)):
            return False
        if len(within) < len(requests):
            self.tell(f"stopped at the limit of {self.limit} cells; rerun the command without --limit to continue")
            self._status = self._end()
            return False
        return True

    def _climb(self, number: int, halving: Halving) -> bool:
        """Bring a round's cells from rung to rung, stopping those that do not continue."""
        requests = self.log.rounds[number].requests
        rule = halving.rule
        reached = max((rung.step for rung in self.log.rounds[number].rungs), default=0)
        for step in rule.rungs(max((request.cell.steps for request in requests), default=0)):
            now = self.log.rounds[number]
            stopped = now.stopped()
            climbing = {i: r for i, r in enumerate(requests) if i not in stopped and step in rule.rungs(r.cell.steps)}
            if step <= reached or not climbing:
                continue
            items = []
            for item in self._missing(climbing.values()):
                below = tuple(r for r in item.replicates if not is_paused(self.store, item.cell, r, step))
                if below:
                    items.append(WorkItem(item.cell, below, until=step))
            if not self._launch(items):
                return False
            values = {i: halving.value(r.cell, r.replicates, step) for i, r in climbing.items()}
            before = [v for one in self.log.rounds[:number] for rung in one.rungs if rung.step == step
                      for v in rung.values.values()]  # fmt: skip
            unfinished = {item.cell.cell_id for item in self._missing(climbing.values())}
            losers = rule.stopped(values, before, halving.mode)
            losers = tuple(i for i in losers if climbing[i].cell.cell_id in unfinished)
            rung = Rung(step, values, losers)
            self.log.replace_round(number, dataclasses.replace(now, rungs=(*now.rungs, rung)))
            best = min(values.values()) if halving.mode == "min" else max(values.values())
            shown = f"{best:.3g}" if math.isfinite(best) else "none finite"
            self.tell(f"  at step {step:,}: {len(losers)} of {len(climbing)} cells stopped; best value {shown}")
        return True

    def _missing(self, requests: Iterable[Request]) -> list[WorkItem]:
        """The requests' replicates that are neither done nor failed."""
        requests = list(requests)
        ids = [request.cell.cell_id for request in requests]
        done, failed = self.store.done(ids), self.store.failed(ids)
        found = []
        for request in requests:
            cell_id = request.cell.cell_id
            broken = failed.get(cell_id, {}).keys() - self._retry.get(cell_id, set())
            left = tuple(r for r in request.replicates if r not in done.get(cell_id, ()) and r not in broken)
            if left:
                found.append(WorkItem(request.cell, left))
        return found

    def _launch(self, items: Sequence[WorkItem]) -> bool:
        """Run items; whether all of them ended, well or not."""
        if not items:
            return True
        result = self.run(items)
        for item in items:  # what was tried again is not tried a third time
            if item.until is None:
                self._retry.pop(item.cell.cell_id, None)
        if result.interrupted or result.stopped is not None or result.missing:
            self._status = INTERRUPTED if result.interrupted else 1
            return False
        return True
