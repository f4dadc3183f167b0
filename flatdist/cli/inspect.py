"""``flatdist show``, ``cells`` and ``failures``: what a store has, cell by cell."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import (
    json_option,
    load_sweep,
    open_store,
    read_changes,
    selection_options,
    store_option,
    sweep_argument,
)
from flatdist.cli.output import cell_text, print_json, print_table
from flatdist.errors import StoreError, printable

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.store import Store

_METRICS = ("relative_error", "train_loss", "nuclear_norm", "hessian_trace")
_SHOWN = ("replicate", "status", *_METRICS, "wall_seconds", "engine")
SHORTEST_ID = 4


@click.command("show")
@click.argument("cell_id", metavar="CELL_ID")
@store_option
@json_option
def show_command(cell_id: str, store: str, as_json: bool) -> None:
    """Show one cell in full: its fields, its replicates and its failures. The first digits of CELL_ID are enough."""
    opened = open_store(store)
    full = _full_id(opened, cell_id)
    rows = opened.trials([full], all_numerics=True)
    failed = opened.failures([full])
    fields = _fields(opened, full, rows)
    if as_json:
        content = {"cell_id": full, "fields": fields, "trials": rows.to_dict("records")}
        print_json(content | {"failures": failed.to_dict("records")})
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
    from flatdist.cells.cell import FIELD_TYPES, FIELDS
    from flatdist.methods import METHODS

    if len(rows):
        row = {name: None if _is_missing(value) else value for name, value in rows.iloc[0].items()}
        own = METHODS[row["method"]].fields if row["method"] in METHODS else ()
        words = {name: kind.word for name, kind in FIELD_TYPES.items() if name in own}
        shown = {name: words.get(name) if row[name] is None else row[name] for name in FIELDS}
        return {name: value for name, value in shown.items() if value is not None}
    for name in store.sweeps.names():
        if cell_id in store.sweeps.load(name).cell_ids:
            for cell in load_sweep(name, store.uri).cells:
                if cell.cell_id == cell_id:
                    return {field: cell.words()[field] for field in cell.relevant_fields}
    return {}


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


@click.command("cells")
@sweep_argument
@store_option
@selection_options
@json_option
def cells_command(
    sweep: str, store: str, words: tuple[str, ...], conditions: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    """List the cells of SWEEP: the fields that vary, and how many replicates are done and failed."""
    loaded = load_sweep(sweep, store, read_changes(words, conditions))
    cells = loaded.cells[:limit]
    ids = [cell.cell_id for cell in cells]
    opened = open_store(store, must_exist=False)
    done, failed = opened.done(ids), opened.failed(ids)
    wanted = [loaded.replicates_of(i) for i in ids]
    counts = [
        (sum(r in mine for r in done.get(i, ())), sum(r in mine for r in failed.get(i, ())))
        for i, mine in zip(ids, wanted, strict=True)
    ]
    if as_json:
        print_json(
            [
                {
                    "cell_id": cell.cell_id,
                    **cell.row(),
                    "replicates": len(mine),
                    "done": n_done,
                    "failed": n_failed,
                }
                for cell, mine, (n_done, n_failed) in zip(cells, wanted, counts, strict=True)
            ]
        )
        return
    names = varying_fields(cells)
    lines = ([c.cell_id, *(c.words()[name] for name in names), *count] for c, count in zip(cells, counts, strict=True))
    print_table(["cell_id", *names, "done", "failed"], lines)
    total = sum(map(len, wanted))
    each = f"{loaded.replicates} replicates each" if total == len(ids) * loaded.replicates else f"{total} replicates"
    click.echo(f"{len(cells)} cells, {each}")


def varying_fields(cells: Collection[Cell]) -> list[str]:
    """The fields in which some cells differ."""
    from flatdist.cells.cell import FIELDS

    rows = [cell.row() for cell in cells]
    return [name for name in FIELDS if len({str(row[name]) for row in rows}) > 1]


@click.command("failures")
@sweep_argument
@store_option
@json_option
def failures_command(sweep: str, store: str, as_json: bool) -> None:
    """Show the tracebacks of SWEEP's failed replicates, each distinct one once."""
    ids = [cell.cell_id for cell in load_sweep(sweep, store).cells]
    opened = open_store(store, must_exist=False)
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
    keys = zip(last["cell_id"], last["replicate"], strict=True)
    is_open = [replicate in failed.get(cell, {}) for cell, replicate in keys]
    lines = []
    for (kind, message), group in last[is_open].groupby(["error_type", "message"], sort=False):
        first = group.iloc[0]
        cells = group["cell_id"].nunique()
        lines.append(f"{len(group)} replicates of {cells} cells failed: {kind}: {message}")
        where = f"on {first['host']} at {first['at']}"
        lines.append(f"  first: cell {first['cell_id']}, replicate {first['replicate']}, {where}")
        if tracebacks:
            lines += [f"    {line}" for line in str(first["traceback"]).rstrip().splitlines()]
    return [printable(line) for line in lines]
