"""``flatdist status``: the progress of sweeps, read from the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import json_option, load_sweep, open_store, plugin_option, store_option
from flatdist.cli.output import print_json, print_table
from flatdist.errors import FlatdistError, SweepError

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

WATCH_SECONDS = 5.0


@click.command("status")
@click.argument("sweeps", metavar="[SWEEP...]", nargs=-1)
@plugin_option
@store_option
@click.option("--watch", is_flag=True, help="Show the sweeps as they fill in, until they are done.")
@json_option
def status_command(sweeps: tuple[str, ...], store: str, watch: bool, as_json: bool) -> None:
    """Count done, missing, failed and diverged replicates of each SWEEP, or of every sweep in the store."""
    opened = open_store(store)
    names = list(sweeps) or opened.sweeps.names()
    if not names:
        click.echo(f"store {opened.uri} has no sweeps yet", err=True)
        return
    if watch:
        _watch([load_sweep(name, store) for name in names], opened)
        return
    counts, headings = [], dict[str, None]()
    for name in names:
        try:
            sweep = load_sweep(name, store)
            counts.append(count_sweep(sweep, opened))
            headings |= dict.fromkeys(sweep.outlook(opened).headings)
        except FlatdistError as error:  # a sweep recorded by another flatdist must not hide the others
            if sweeps:
                raise
            click.echo(f"skipping sweep {name}: {error}", err=True)
    if as_json:
        print_json({"store": opened.uri, "sweeps": counts})
        return
    head = ["sweep", "cells", "replicates", "done", "missing", "failed", "diverged", *headings]
    print_table(head, ([count.get(name) for name in head] for count in counts))


def count_sweep(sweep: Sweep, store: Store) -> dict[str, Any]:
    """Counts of one sweep's replicates; a diverged one is done."""
    ids = [cell.cell_id for cell in sweep.cells]
    wanted = {i: sweep.replicates_of(i) for i in ids}
    done = {i: {r for r in rs if r in wanted[i]} for i, rs in store.done(ids).items()}
    failed = {i: {r for r in rs if r in wanted[i]} for i, rs in store.failed(ids).items()}
    n_done, n_failed = sum(map(len, done.values())), sum(map(len, failed.values()))
    n_diverged = sum(len(rs & {*wanted[i]}) for i, rs in store.diverged(ids).items())
    total = sum(map(len, wanted.values()))
    stopped = sum(len(wanted[i]) - len(done.get(i, ())) - len(failed.get(i, ())) for i in sweep.stopped)
    counts: dict[str, Any] = {
        "sweep": sweep.name,
        "cells": len(ids),
        "replicates": total,
        "done": n_done,
        "missing": total - n_done - n_failed - stopped,
        "failed": n_failed,
        "diverged": n_diverged,
        "stopped": stopped,
    }
    return counts | dict(sweep.outlook(store).counts)


def _watch(sweeps: list[Sweep], store: Store) -> None:
    """Show progress and a coarse phase diagram, read from the store every few seconds."""
    from flatdist.launch.launching import add_stored
    from flatdist.launch.progress.display import make_display
    from flatdist.launch.progress.state import Progress

    if len(sweeps) != 1:
        raise SweepError("--watch shows one sweep; name it")
    sweep = sweeps[0]
    cells = {cell.cell_id: cell for cell in sweep.cells}
    display = make_display()
    started = time.monotonic()
    shown = False
    first_done = first_steps = None
    try:
        while True:
            sweep = sweep.recorded(store)  # it may have requested more
            cells = {cell.cell_id: cell for cell in sweep.cells}
            counts = count_sweep(sweep, store)
            first_done = counts["done"] if first_done is None else first_done
            progress = Progress(cells, counts["replicates"] - counts["stopped"], first_done)
            progress.started_at = started
            progress.stored, progress.failed = counts["done"] - first_done, counts["failed"]
            progress.diverged = counts["diverged"]
            steps = add_stored(progress, store) if counts["done"] else 0
            first_steps = steps if first_steps is None else first_steps
            progress.steps = steps - first_steps
            (display.update if shown else display.start)(progress)
            shown = True
            if not counts["missing"] and not sweep.outlook(store).may_ask:
                break
            time.sleep(WATCH_SECONDS)
    finally:
        if shown:
            display.stop(progress)
