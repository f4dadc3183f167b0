"""Running sweeps round by round, and saying what a plan expects of the rounds to come."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from flatdist.errors import SweepError

if TYPE_CHECKING:
    from flatdist.cli.planning import Resources
    from flatdist.launch import LaunchSettings
    from flatdist.launch.launching import LaunchResult
    from flatdist.launch.parts import Part
    from flatdist.launch.rounds import Driver
    from flatdist.planning import Plan
    from flatdist.planning.forecast import Forecast
    from flatdist.planning.work import WorkItem
    from flatdist.store import Store
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
        part: which job of an array this is; each drives the same rounds and runs some of their work.
    """

    store: str
    resources: Resources
    settings: LaunchSettings
    display: str
    limit: int | None
    retry_failed: bool
    part: Part | None = None

    def runner(self) -> Callable[[Sequence[WorkItem]], LaunchResult]:
        """What launches the items of a round and returns when they have ended."""
        from flatdist.cli.options import open_store
        from flatdist.cli.planning import plan_settings
        from flatdist.launch import launch
        from flatdist.planning import plan_items

        settings, store = plan_settings(self.resources), open_store(self.store)
        forecast: Forecast | None = None
        rounds = 0

        def run(items: Sequence[WorkItem]) -> LaunchResult:
            nonlocal forecast, rounds
            rounds += 1
            if rounds & (rounds - 1) == 0:  # reading all times is worth it while they are few: rounds 1, 2, 4, 8, ...
                forecast = None
            plan = plan_items(items, store, settings, forecast=forecast)
            forecast = plan.forecast
            executor: Any = self.resources.executor
            return launch(
                plan, self.store, executor=executor, settings=self.settings,
                display=self.display, part=self.part, wait=True,  # type: ignore[arg-type]
            )  # fmt: skip

        return run

    def finish(self, driver: Driver) -> int:
        """Drive to the end, with one Ray for all rounds; returns the exit status."""
        from flatdist.launch.ray.cluster import ClusterSession

        session = ClusterSession(self.settings) if self.resources.executor == "ray" else contextlib.nullcontext()
        with session, _sigterm_interrupts():  # Ray sets a handler of its own on connecting
            return driver.finish()


def run_rounds(sweep: Sweep, launching: Launching) -> int:
    """Run a sweep round by round until it asks for nothing more; returns the exit status, 0 where it has no rounds."""
    from flatdist.cli.inspect import failure_lines
    from flatdist.cli.options import open_store
    from flatdist.launch.rounds import Driver

    store = open_store(launching.store, must_exist=False)
    rounds = sweep.rounds(store, launching.limit)
    if rounds is None:
        return 0
    if rounds.note:
        click.echo(rounds.note, err=True)
    rounds.log.save()
    driver = Driver(
        rounds.strategy, rounds.log, store, launching.runner(), halving=rounds.halving,
        retry_failed=launching.retry_failed, tell=click.echo, describe=rounds.describe, limit=rounds.limit,
    )  # fmt: skip
    status = launching.finish(driver)
    if status == 1:
        ids = dict.fromkeys(request.cell.cell_id for request in rounds.log.requests())
        click.echo("\n".join(failure_lines(store, list(ids), tracebacks=False)), err=True)
    if outcome := rounds.outcome():
        click.echo(outcome)
    return status


def outlook_lines(sweeps: Sequence[Sweep], store: Store, plan: Plan) -> list[str]:
    """What is expected of the sweeps that choose their runs, with the time that further runs would take."""
    from flatdist.planning import duration

    lines = []
    for outlook in (sweep.outlook(store) for sweep in sweeps):
        text = outlook.text
        if outlook.beyond:
            more = sum(count * plan.forecast.replicate(cell).seconds for cell, count in outlook.beyond)
            text += f", which would take {duration(plan.time.mid + more / plan.slots)}"
        lines += [text] if text else []
    return lines


def check_options(sweeps: Sequence[Sweep], options: dict[str, Any]) -> None:
    """Refuse options that make no sense for a sweep that chooses its runs.

    Raises:
        SweepError: with what to do instead.
    """
    if options["fit"] and any(sweep.chooses for sweep in sweeps):
        raise SweepError("--fit cannot cut a search short, since its cells are not known yet; use --limit N")


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
