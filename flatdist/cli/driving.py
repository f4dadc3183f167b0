"""Driving a sweep that chooses its runs: what searches and boundaries share on the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flatdist.cli.planning import Resources
    from flatdist.launch import LaunchSettings
    from flatdist.launch.launching import LaunchResult
    from flatdist.launch.rounds import Driver
    from flatdist.planning import Plan
    from flatdist.planning.forecast import Forecast
    from flatdist.planning.work import WorkItem
    from flatdist.sweeps import Sweep


@dataclass(frozen=True)
class Launching:
    """How the rounds of a sweep are run.

    Attributes:
        store: where its results and rounds are.
        resources: what it runs on.
        settings: how its cells are launched.
        display: kind of progress display.
        limit: at most so many cells in all.
        retry_failed: replicates that failed are tried again.
        record: whether the rounds are kept under the sweep's name.
        run_items: runs a round's items in place of a launch of their own, as the parts of a job array do together.
    """

    store: str
    resources: Resources
    settings: LaunchSettings
    display: str
    limit: int | None
    retry_failed: bool
    record: bool
    run_items: Callable[[Sequence[WorkItem]], LaunchResult] | None = None

    def runner(self, sweep: Sweep) -> Callable[[Sequence[WorkItem]], LaunchResult]:
        """What launches the items of a round and returns when they have ended."""
        if self.run_items is not None:
            return self.run_items
        from flatdist.cli.planning import plan_sweeps
        from flatdist.launch import launch

        forecast: Forecast | None = None
        rounds = 0

        def run(items: Sequence[WorkItem]) -> LaunchResult:
            nonlocal forecast, rounds
            rounds += 1
            if rounds & (rounds - 1) == 0:  # reading all times is worth it while they are few: rounds 1, 2, 4, 8, ...
                forecast = None
            cells = {item.cell.cell_id: item.cell for item in items}
            asked = {item.cell.cell_id: item.replicates for item in items}
            none: dict[str, Any] = {"search": None, "adaptive": None, "stopped": {}}
            one = dataclasses.replace(sweep, cells=tuple(cells.values()), asked=asked, **none)
            plan = plan_sweeps(
                [one],
                self.store,
                self.resources,
                retry_failed=self.retry_failed,
                with_probe=False,
                forecast=forecast,
            )
            forecast = plan.forecast
            executor: Any = self.resources.executor
            kept: Any = _only(plan, items)
            return launch(kept, self.store, executor=executor, settings=self.settings, display=self.display)  # type: ignore[arg-type]

        return run

    def finish(self, driver: Driver) -> int:
        """Drive to the end, with one Ray for all rounds; returns the exit status."""
        from flatdist.launch.ray.cluster import ClusterSession

        session = ClusterSession(self.settings) if self.resources.executor == "ray" else contextlib.nullcontext()
        with session, _sigterm_interrupts():  # Ray sets a handler of its own on connecting
            return driver.finish()

    def tell_failures(self, cell_ids: Sequence[str]) -> None:
        """List the replicates whose last attempt failed."""
        from flatdist.cli.inspect import failure_lines
        from flatdist.cli.options import open_store

        click.echo("\n".join(failure_lines(open_store(self.store), list(cell_ids), tracebacks=False)), err=True)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Between two launches, which handle signals themselves, SIGTERM ends a search as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _only(plan: Plan, items: Sequence[WorkItem]) -> Plan:
    """A plan of exactly these items: the same shards, without replicates that are not asked for now."""
    asked = {item.cell.cell_id: item for item in items}
    shards = []
    for shard in plan.shards:
        kept = []
        for item in shard.items:
            wanted = asked[item.cell.cell_id]
            replicates = tuple(r for r in item.replicates if r in wanted.replicates)
            if replicates:
                kept.append(dataclasses.replace(item, replicates=replicates, until=wanted.until))
        if kept:
            shards.append(dataclasses.replace(shard, items=tuple(kept)))
    return dataclasses.replace(plan, shards=tuple(shards))
