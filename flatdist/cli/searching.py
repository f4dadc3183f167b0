"""Sweeps with a ``search`` on the command line: their forecast, and their rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from flatdist.cli.output import cell_text

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.cli.driving import Launching
    from flatdist.store import Store
    from flatdist.sweeps import Sweep
    from flatdist.sweeps.search import Search


def search_line(sweep: Sweep) -> str:
    """What a plan says of a search, as the store recorded it."""
    search = sweep.search
    assert search is not None
    left = max(0, search.budget - len(sweep.cells))
    text = f"search: {sweep.name}: {len(sweep.cells)} of {search.budget} cells suggested so far"
    if sweep.stopped:
        text += f", {len(sweep.stopped)} of them stopped early"
    if left:
        text += f"; the other {left} stand for what {search.searcher} will suggest, {search.round_size} a round"
    if search.early_stopping is not None:
        text += "; early stopping makes it shorter"
    return text


def run_search(sweep: Sweep, launching: Launching) -> int:
    """Run a search, round after round, until its budget is spent; returns the exit status."""
    from flatdist.cli.options import open_store
    from flatdist.launch.rounds import Driver, Halving
    from flatdist.sweeps.search import RoundLog, SearchStrategy
    from flatdist.sweeps.search.early_stopping import RungValues

    search = sweep.search
    assert search is not None
    if launching.limit is not None:
        search = dataclasses.replace(search, budget=min(search.budget, launching.limit))
    opened = open_store(launching.store, must_exist=False)
    log = RoundLog(opened, sweep.name, sweep.source, sweep.replicates, search.identity, keep=launching.record)
    log.save()
    halving = None
    if search.early_stopping is not None:
        halving = Halving(search.early_stopping, RungValues(opened, search.metric, search.worst), search.mode)
    driver = Driver(
        SearchStrategy(search, sweep.replicates), log, opened, launching.runner(sweep),
        halving=halving, retry_failed=launching.retry_failed, tell=click.echo,
    )  # fmt: skip
    status = launching.finish(driver)
    cells = {request.cell.cell_id: request.cell for request in log.requests()}
    if status == 1:
        launching.tell_failures(list(cells))
    _tell_best(search, cells, opened)
    return status


def _tell_best(search: Search, cells: Mapping[str, Cell], store: Store) -> None:
    from flatdist.cli.best import rank

    ranked = rank(store, list(cells), search.metric, highest=search.mode == "max") if cells else []
    if ranked:
        cell_id, middle, low, high, _ = ranked[0]
        values = ", ".join(f"{d.field}={cell_text(getattr(cells[cell_id], d.field))}" for d in search.domains)
        found = f"{cell_text(middle)} (95 % interval {cell_text(low)} to {cell_text(high)})"
        click.echo(f"best so far: median {search.metric.text} {found} at {values}; 'flatdist best' ranks all")
