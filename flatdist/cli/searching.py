"""Sweeps with a ``search`` on the command line: their forecast, and their rounds."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.output import cell_text
from flatdist.errors import SweepError

if TYPE_CHECKING:
    from flatdist.cell import Cell
    from flatdist.cli.planning import Resources
    from flatdist.launch import LaunchSettings
    from flatdist.launch.result import LaunchResult
    from flatdist.planning import Plan
    from flatdist.planning.work import WorkItem
    from flatdist.search import Search
    from flatdist.search.metric import Metric
    from flatdist.store import Store
    from flatdist.sweepfile import Sweep


def for_forecast(sweeps: Sequence[Sweep]) -> list[Sweep]:
    """The sweeps as a plan takes them: a search with stand-ins for the cells it is yet to ask for."""
    from flatdist.search import with_stand_ins

    return [sweep if sweep.search is None else with_stand_ins(sweep) for sweep in sweeps]


def search_lines(sweeps: Sequence[Sweep]) -> list[str]:
    """What a plan says of the searches among some sweeps, as the store recorded them."""
    lines = []
    for sweep in sweeps:
        search = sweep.search
        if search is None:
            continue
        left = max(0, search.budget - len(sweep.cells))
        text = f"search: {sweep.name}: {len(sweep.cells)} of {search.budget} cells suggested so far"
        if sweep.stopped:
            text += f", {len(sweep.stopped)} of them stopped early"
        if left:
            text += f"; the other {left} stand for what {search.searcher} will suggest, {search.round_size} a round"
        if search.early_stopping is not None:
            text += "; early stopping makes it shorter"
        lines.append(text)
    return lines


def run_search(
    sweep: Sweep,
    store: str,
    resources: Resources,
    settings: LaunchSettings,
    *,
    display: str,
    limit: int | None,
    retry_failed: bool,
    record: bool,
) -> int:
    """Run a search, round after round, until its budget is spent; returns the exit status.

    Args:
        sweep: one with a search.
        store: where its results and rounds are.
        resources: what it runs on.
        settings: how its cells are launched.
        display: kind of progress display.
        limit: at most so many cells in all.
        retry_failed: replicates that failed are tried again.
        record: whether the rounds are kept under the sweep's name.
    """
    from flatdist.cli.inspect import failure_lines
    from flatdist.cli.options import open_store
    from flatdist.cli.planning import plan_sweeps
    from flatdist.launch import launch
    from flatdist.launch.cluster import ClusterSession
    from flatdist.search import Driver, Halving, RoundLog, SearchStrategy
    from flatdist.search.early_stopping import RungValues

    search = sweep.search
    assert search is not None
    if limit is not None:
        search = dataclasses.replace(search, budget=min(search.budget, limit))
    opened = open_store(store, must_exist=False)
    log = RoundLog(opened, sweep.name, sweep.source, sweep.replicates, search.identity, keep=record)
    log.save()
    halving = None
    if search.early_stopping is not None:
        halving = Halving(search.early_stopping, RungValues(opened, search.metric, search.worst), search.mode)

    def run(items: Sequence[WorkItem]) -> LaunchResult:
        cells = tuple(item.cell for item in items)
        one = dataclasses.replace(sweep, cells=cells, search=None, stopped={})
        plan = plan_sweeps([one], store, resources, retry_failed=retry_failed, with_probe=False)
        executor: Any = resources.executor
        return launch(_only(plan, items), store, executor=executor, settings=settings, display=display)  # type: ignore[arg-type]

    driver = Driver(
        SearchStrategy(search, sweep.replicates), log, opened, run,
        halving=halving, retry_failed=retry_failed, tell=click.echo,
    )  # fmt: skip
    session = ClusterSession(settings) if resources.executor == "ray" else contextlib.nullcontext()
    with session, _sigterm_interrupts():  # one Ray for all rounds, which sets a handler of its own on connecting
        status = driver.finish()
    cells = {request.cell.cell_id: request.cell for request in log.requests()}
    if status == 1:
        click.echo("\n".join(failure_lines(opened, list(cells), tracebacks=False)), err=True)
    _tell_best(search, cells, opened)
    return status


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


def _tell_best(search: Search, cells: Mapping[str, Cell], store: Store) -> None:
    from flatdist.cli.best import rank

    ranked = rank(store, list(cells), search.metric, highest=search.mode == "max") if cells else []
    if ranked:
        cell_id, middle, low, high, _ = ranked[0]
        values = ", ".join(f"{d.field}={cell_text(getattr(cells[cell_id], d.field))}" for d in search.domains)
        found = f"{cell_text(middle)} (95 % interval {cell_text(low)} to {cell_text(high)})"
        click.echo(f"best so far: median {search.metric.text} {found} at {values}; 'flatdist best' ranks all")


def check_options(sweeps: Sequence[Sweep], options: dict[str, Any]) -> None:
    """Refuse options that make no sense for a search.

    Raises:
        SweepError: with what to do instead.
    """
    if options["fit"] and any(sweep.search is not None for sweep in sweeps):
        raise SweepError("--fit cannot cut a search short, since its cells are not known yet; use --limit N")


def metric_of(sweep: Sweep, given: str | None, highest: bool) -> tuple[Metric, bool]:
    """The metric to rank a sweep's cells by, and whether the highest is best.

    Raises:
        SweepError: the metric does not exist; names the nearest.
    """
    from flatdist.search import parse_metric
    from flatdist.search.metric import numeric_columns

    if given is None and sweep.search is not None:
        return sweep.search.metric, highest or sweep.search.mode == "max"
    try:
        return parse_metric(given or "relative_error", numeric_columns()), highest
    except SweepError as error:
        raise SweepError(f"--metric {error}") from error
