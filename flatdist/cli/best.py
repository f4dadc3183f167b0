"""``flatdist best``: a sweep's cells ranked by a metric, with intervals over replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click

from flatdist.cli.inspect import varying_fields
from flatdist.cli.options import json_option, load_sweep, open_store, store_option, sweep_argument
from flatdist.cli.output import print_json, print_table
from flatdist.errors import StoreError
from flatdist.suggestions import did_you_mean

LEVEL = 0.95


@click.command("best")
@sweep_argument
@store_option
@click.option("--metric", default="relative_error", show_default=True, help="A numeric column of the trials table.")
@click.option("--highest", is_flag=True, help="Rank the highest first; otherwise the lowest.")
@click.option("--where", help="Only rows of trials for which this holds.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Cells to show.")
@json_option
def best_command(
    sweep: str, store: str, metric: str, highest: bool, where: str | None, limit: int, as_json: bool
) -> None:
    """Rank SWEEP's cells by the median of a metric over their replicates, with its 95 % interval.

    A replicate without a finite value, as one that diverged, counts as the worst.
    """
    cells = {cell.cell_id: cell for cell in load_sweep(sweep, store).cells}
    names = numeric_columns()
    if metric not in names:
        allowed = ", ".join(names)
        raise StoreError(f"--metric {metric!r} is no numeric column{did_you_mean(metric, names)}; allowed: {allowed}")
    frame = open_store(store).trials(list(cells), where=where, columns=["cell_id", metric])
    if frame.empty:
        raise StoreError(f"sweep {sweep!r} has no rows{' that satisfy --where' if where else ' yet'}; nothing to rank")
    worst = -math.inf if highest else math.inf
    ranked = []
    for cell_id, group in frame.groupby("cell_id", sort=False)[metric]:
        values = [float(value) if value is not None and math.isfinite(value) else worst for value in group]
        ranked.append((str(cell_id), *median_interval(values), len(values)))
    ranked.sort(key=lambda row: (-row[1] if highest else row[1], row[0]))
    fields = varying_fields(list(cells.values()))
    head = ("cell_id", "median", "low", "high", "replicates")
    if as_json:
        print_json([dict(zip(head, row, strict=True)) | {"fields": cells[row[0]].row()} for row in ranked[:limit]])
        return
    rows = ([*row[:1], *(cells[row[0]].row()[name] for name in fields), *row[1:]] for row in ranked[:limit])
    print_table(["cell_id", *fields, *head[1:]], rows)
    click.echo(f"median {metric}, {LEVEL:.0%} interval over replicates; {len(ranked)} of {len(cells)} cells have rows")


def numeric_columns() -> list[str]:
    """Columns of the trials table that cells can be ranked by."""
    from flatdist.columns import COSTS, RESULTS

    return [column.name for column in (*RESULTS, *COSTS) if column.type in ("float64", "int64")]


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its distribution-free 95 % interval, (median, low, high).

    The k-th smallest and k-th largest values enclose the median with probability 1 - 2 P(Binomial(n, 1/2) < k); below
    six values even the extremes do so less often than 95 %, and they are returned.
    """
    ordered = sorted(values)
    count = len(ordered)
    k, tail = 1, 2 * 0.5**count
    while k < count / 2 and tail + 2 * math.comb(count, k) * 0.5**count <= 1 - LEVEL:
        tail += 2 * math.comb(count, k) * 0.5**count
        k += 1
    middle = ordered[count // 2] if count % 2 else (ordered[count // 2 - 1] + ordered[count // 2]) / 2
    return middle, ordered[k - 1], ordered[count - k]
