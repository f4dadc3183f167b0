"""``flatdist best``: a sweep's cells ranked by a metric, with intervals over replicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flatdist.cli.inspect import varying_fields
from flatdist.cli.options import json_option, load_sweep, open_store, store_option, sweep_argument
from flatdist.cli.output import print_json, print_table
from flatdist.errors import StoreError, SweepError

if TYPE_CHECKING:
    from flatdist.sweeps import Sweep
    from flatdist.sweeps.metric import Metric


@click.command("best")
@sweep_argument
@store_option
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
    from flatdist.sweeps.metric import LEVEL, rank
    from flatdist.threshold.median import few_words

    loaded = load_sweep(sweep, store)
    cells = {cell.cell_id: cell for cell in loaded.cells}
    chosen, highest = metric_of(loaded, metric, highest)
    ranked = rank(open_store(store), list(cells), chosen, highest=highest, where=where)
    if not ranked:
        raise StoreError(f"sweep {sweep!r} has no rows{' that satisfy --where' if where else ' yet'}; nothing to rank")
    fields = varying_fields(list(cells.values()))
    head = ("cell_id", "median", "low", "high", "replicates")
    if as_json:
        print_json([dict(zip(head, row, strict=True)) | {"fields": cells[row[0]].row()} for row in ranked[:limit]])
        return
    rows = ([*row[:1], *(cells[row[0]].words()[name] for name in fields), *row[1:]] for row in ranked[:limit])
    print_table(["cell_id", *fields, *head[1:]], rows)
    stopped = f", {len(loaded.stopped)} were stopped early" if loaded.stopped else ""
    have = f"{len(ranked)} of {len(cells)} cells have rows{stopped}"
    click.echo(f"median {chosen.text}, interval over replicates of at least {LEVEL:.0%} confidence; {have}")
    for line in few_words((row[-1] for row in ranked[:limit]), LEVEL):
        click.echo(line)


def metric_of(sweep: Sweep, given: str | None, highest: bool) -> tuple[Metric, bool]:
    """The metric to rank a sweep's cells by, and whether the highest is best.

    Raises:
        SweepError: the metric does not exist; the message names the nearest.
    """
    from flatdist.sweeps.metric import parse_metric

    if given is None:
        chosen, mode = sweep.ranking
        return chosen, highest or mode == "max"
    try:
        return parse_metric(given), highest
    except SweepError as error:
        raise SweepError(f"--metric {error}") from error
