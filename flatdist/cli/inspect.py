"""``flatdist status``, ``show``, ``cells``, ``failures`` and ``best``: what a store has."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import (
    json_option,
    load_sweep,
    open_store,
    plugin_option,
    read_changes,
    selection_options,
    store_option,
    sweep_options,
)
from flatdist.cli.output import cell_text, print_json, print_table, warn
from flatdist.errors import FlatdistError, StoreError, SweepError, printable

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

WATCH_SECONDS = 5.0
SHORTEST_ID = 4
_METRICS = ("relative_error", "train_loss", "nuclear_norm", "hessian_trace")
_SHOWN = ("replicate", "status", *_METRICS, "wall_seconds", "engine")


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
        warn(f"store {opened.uri} has no sweeps yet")
        return
    if watch:
        loaded = [load_sweep(name, store)[0] for name in names]
        if len(loaded) != 1:
            raise SweepError("--watch shows one sweep; name it")
        _watch(loaded[0], opened)
        return
    counts, headings = [], dict[str, None]()
    for name in names:
        try:
            sweep, _ = load_sweep(name, store)
            counts.append(_count(sweep, opened))
            headings |= dict.fromkeys(sweep.outlook(opened).headings)
        except FlatdistError as error:  # a sweep recorded by another flatdist must not hide the others
            if sweeps:
                raise
            warn(f"skipping sweep {name}: {error}")
    if as_json:
        print_json({"store": opened.uri, "sweeps": counts})
        return
    head = ["sweep", "cells", "replicates", "done", "missing", "failed", "diverged", *headings]
    print_table(head, ([count.get(name) for name in head] for count in counts))


def _tallies(sweep: Sweep, store: Store, cells: Collection[Cell], *kinds: str) -> dict[str, dict[str, int]]:
    """For each cell how many replicates the sweep requests, and how many of them are ``done``, ``failed``, ..."""
    ids = [cell.cell_id for cell in cells]
    found = {kind: getattr(store, kind)(ids) for kind in kinds}
    tallies = {}
    for i in ids:
        wanted = sweep.replicates_of(i)
        tally = {kind: sum(r in wanted for r in rows.get(i, ())) for kind, rows in found.items()}
        tallies[i] = {"replicates": len(wanted), **tally}
    return tallies


def _count(sweep: Sweep, store: Store) -> dict[str, Any]:
    """Counts of one sweep's replicates; a diverged one is done."""
    counts = dict.fromkeys(("replicates", "done", "missing", "failed", "diverged", "stopped"), 0)
    for cell_id, tally in _tallies(sweep, store, sweep.cells, "done", "failed", "diverged").items():
        left = tally["replicates"] - tally["done"] - tally["failed"]
        tally["stopped" if cell_id in sweep.stopped else "missing"] = left
        for name, count in tally.items():
            counts[name] += count
    return {"sweep": sweep.name, "cells": len(sweep.cells), **counts, **sweep.outlook(store).counts}


def _watch(sweep: Sweep, store: Store) -> None:
    """Show progress and a coarse phase diagram, read from the store every few seconds."""
    from flatdist.launch.launching import add_stored
    from flatdist.launch.progress.display import make_display
    from flatdist.launch.progress.state import Progress

    display, started = make_display(), time.monotonic()
    before: tuple[int, int] | None = None  # replicates and steps that were there at the beginning
    try:
        while True:
            sweep = sweep.recorded(store)  # it may have requested more
            counts = _count(sweep, store)
            progress = Progress({cell.cell_id: cell for cell in sweep.cells}, counts["replicates"] - counts["stopped"])
            progress.failed, progress.diverged = counts["failed"], counts["diverged"]
            steps = add_stored(progress, store) if counts["done"] else 0
            show = display.start if before is None else display.update
            before = before or (counts["done"], steps)
            progress.done_before, progress.stored = before[0], counts["done"] - before[0]
            progress.steps, progress.started_at = steps - before[1], started
            show(progress)
            if not counts["missing"] and not sweep.outlook(store).may_ask:
                break
            time.sleep(WATCH_SECONDS)
    finally:
        if before is not None:
            display.stop(progress)


@click.command("show")
@click.argument("cell_id", metavar="CELL_ID")
@store_option
@json_option
def show_command(cell_id: str, store: str, as_json: bool) -> None:
    """Show one cell in full: its fields, its replicates and its failures. The first digits of CELL_ID are enough."""
    opened = open_store(store)
    full = _full_id(opened, cell_id)
    rows, failed = opened.trials([full], all_numerics=True), opened.failures([full])
    fields = _fields(opened, full, rows)
    if as_json:
        tables = {"trials": rows.to_dict("records"), "failures": failed.to_dict("records")}
        print_json({"cell_id": full, "fields": fields, **tables})
        return
    click.echo(f"cell {full}")
    for name, value in fields.items():
        click.echo(f"  {name:<24}{cell_text(value)}")
    if len(rows):
        click.echo()
        print_table(_SHOWN, rows[list(_SHOWN)].itertuples(index=False))
    if len(failed):
        click.echo(f"\n{len(failed)} recorded failures; 'flatdist failures' shows their tracebacks")


def _full_id(store: Store, start: str) -> str:
    """The one cell id in the store, with results or failures or in a sweep, that begins with some digits."""
    known = {*store.done(), *store.failed()}
    for name in store.sweeps.names():
        known.update(store.sweeps.load(name).cell_ids)
    found = sorted(cell_id for cell_id in known if cell_id.startswith(start.lower()))
    if len(start) < SHORTEST_ID or not found:
        what = "has fewer than 4 digits" if len(start) < SHORTEST_ID else f"is in none of the {len(known)} cells"
        raise StoreError(f"store {store.uri}: {start!r} {what}; 'flatdist cells SWEEP' lists cell ids")
    if len(found) > 1:
        raise StoreError(f"{start!r} begins {len(found)} cell ids ({', '.join(found[:3])}, ...); give more digits")
    return found[0]


def _fields(store: Store, cell_id: str, rows: Any) -> dict[str, Any]:
    """The fields of a cell that matter to its method, from its rows, else from its sweep."""
    from flatdist.cells.cell import FIELDS, null_word
    from flatdist.fits.grouping import as_value

    if len(rows):
        row = {name: as_value(value) for name, value in rows.iloc[0].items()}
        shown = {name: null_word(name, row["method"], row["flatdist_version"]) if row[name] is None else row[name]
                 for name in FIELDS}  # fmt: skip
        return {name: value for name, value in shown.items() if value is not None}
    for name in store.sweeps.names():
        if cell_id in store.sweeps.load(name).cell_ids:
            for cell in load_sweep(name, store.uri)[0].cells:
                if cell.cell_id == cell_id:
                    return {field: cell.words()[field] for field in cell.relevant_fields}
    return {}


@click.command("cells")
@sweep_options
@selection_options
@json_option
def cells_command(
    sweep: str, store: str, words: tuple[str, ...], conditions: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    """List the cells of SWEEP: the fields that vary, and how many replicates are done and failed."""
    loaded, opened = load_sweep(sweep, store, read_changes(words, conditions), must_exist=False)
    cells = loaded.cells[:limit]
    tallies = _tallies(loaded, opened, cells, "done", "failed")
    if as_json:
        print_json([{"cell_id": cell.cell_id, **cell.row(), **tallies[cell.cell_id]} for cell in cells])
        return
    names = _varying_fields(cells)
    lines = []
    for cell in cells:
        shown, tally = cell.words(), tallies[cell.cell_id]
        lines.append([cell.cell_id, *(shown[name] for name in names), tally["done"], tally["failed"]])
    print_table(["cell_id", *names, "done", "failed"], lines)
    total = sum(tally["replicates"] for tally in tallies.values())
    each = f"{loaded.replicates} replicates each" if total == len(cells) * loaded.replicates else f"{total} replicates"
    click.echo(f"{len(cells)} cells, {each}")


def _varying_fields(cells: Collection[Cell]) -> list[str]:
    """The fields in which some cells differ."""
    from flatdist.cells.cell import FIELDS

    rows = [cell.row() for cell in cells]
    return [name for name in FIELDS if len({str(row[name]) for row in rows}) > 1]


@click.command("failures")
@sweep_options
@json_option
def failures_command(sweep: str, store: str, as_json: bool) -> None:
    """Show the tracebacks of SWEEP's failed replicates, each distinct one once."""
    loaded, opened = load_sweep(sweep, store, must_exist=False)
    ids = [cell.cell_id for cell in loaded.cells]
    if as_json:
        print_json(opened.failures(ids).to_dict("records"))
        return
    lines = failure_lines(opened, ids, tracebacks=True)
    click.echo("\n".join(lines) if lines else "no replicate has failed")


def failure_lines(store: Store, cell_ids: list[str], *, tracebacks: bool) -> list[str]:
    """Failures of replicates that are not done, grouped by error."""
    failed = store.failed(cell_ids)
    if not failed:
        return []
    frame = store.failures(cell_ids).sort_values(["cell_id", "replicate", "attempt"])
    last = frame.groupby(["cell_id", "replicate"], sort=False).tail(1)
    is_open = [r in failed.get(cell, {}) for cell, r in zip(last["cell_id"], last["replicate"], strict=True)]
    lines = []
    for (kind, message), group in last[is_open].groupby(["error_type", "message"], sort=False):
        first = group.iloc[0]
        lines.append(f"{len(group)} replicates of {group['cell_id'].nunique()} cells failed: {kind}: {message}")
        where = f"on {first['host']} at {first['at']}"
        lines.append(f"  first: cell {first['cell_id']}, replicate {first['replicate']}, {where}")
        if tracebacks:
            lines += [f"    {line}" for line in str(first["traceback"]).rstrip().splitlines()]
    return [printable(line) for line in lines]


@click.command("best")
@sweep_options
@click.option("--metric", help="A numeric column of the trials table, or steps_to=ERROR; by default what the sweep "
              "searches for, else relative_error.")  # fmt: skip
@click.option("--highest", is_flag=True, help="Rank the highest first; otherwise the lowest.")
@click.option("--where", help="Only rows of trials for which this holds.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Cells to show.")
@json_option
def best_command(
    sweep: str, store: str, metric: str | None, highest: bool, where: str | None, limit: int, as_json: bool
) -> None:
    """Rank SWEEP's cells by the median of a metric over their replicates, with its 95 % interval.

    A replicate without a finite value, such as one that diverged, counts as the worst. steps_to=0.01 is the first
    evaluated step at which a replicate's relative error is below 0.01.
    """
    from flatdist.sweeps.metric import LEVEL, parse_metric, rank
    from flatdist.threshold.median import few_words

    loaded, opened = load_sweep(sweep, store)
    cells = {cell.cell_id: cell for cell in loaded.cells}
    chosen, mode = loaded.ranking
    if metric is not None:
        try:
            chosen, mode = parse_metric(metric), "min"
        except SweepError as error:
            raise SweepError(f"--metric {error}") from error
    ranked = rank(opened, list(cells), chosen, highest=highest or mode == "max", where=where)
    if not ranked:
        raise StoreError(f"sweep {sweep!r} has no rows{' that satisfy --where' if where else ' yet'}; nothing to rank")
    head = ("cell_id", "median", "low", "high", "replicates")
    if as_json:
        print_json([dict(zip(head, row, strict=True)) | {"fields": cells[row[0]].row()} for row in ranked[:limit]])
        return
    fields = _varying_fields(cells.values())
    rows = ([*row[:1], *(cells[row[0]].words()[name] for name in fields), *row[1:]] for row in ranked[:limit])
    print_table(["cell_id", *fields, *head[1:]], rows)
    stopped = f", {len(loaded.stopped)} were stopped early" if loaded.stopped else ""
    have = f"{len(ranked)} of {len(cells)} cells have rows{stopped}"
    click.echo(f"median {chosen.text}, interval over replicates of at least {LEVEL:.0%} confidence; {have}")
    for line in few_words((row[-1] for row in ranked[:limit]), LEVEL):
        click.echo(line)
