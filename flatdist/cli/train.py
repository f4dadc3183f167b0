"""``flatdist train``: one cell in this process, with live metrics."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import click

from flatdist.cli.options import plugin_option
from flatdist.cli.output import cell_text, print_json, print_table
from flatdist.machine.logs import waits

log = logging.getLogger(__name__)

_LIVE = ("step", "train_loss", "population_loss", "nuclear_norm", "hessian_trace", "learning_rate")
_METRICS = ("relative_error", "train_loss", "nuclear_norm", "hessian_trace", "certificate")
_RESULTS = ("replicate", "status", *_METRICS, "wall_seconds")


@click.command("train")
@click.argument("words", metavar="[FIELD=VALUE]...", nargs=-1)
@plugin_option
@click.option("--replicates", type=click.IntRange(min=1), default=1, show_default=True, help="How many, from 0 on.")
@click.option("--engine", default="auto", show_default=True, help="auto, fused, cuda, triton, batched or reference.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--store", help="Store the results there; otherwise nothing is stored.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train_command(
    words: tuple[str, ...], replicates: int, engine: str, device: str, threads: int, store: str | None, as_json: bool
) -> int:
    """Run one cell in this process, for example: flatdist train d_out=12 d_in=12 rank=1 n=2*statdim steps=10000

    Fields that are not given have their defaults; values may be expressions over the other fields.
    """
    from flatdist.sweepfile.words import cell_from_words

    cell = cell_from_words(words)
    from flatdist.engines import check_device, resolve_engine
    from flatdist.trials.run import run_replicates
    from flatdist.trials.settings import RunSettings

    check_device(device)  # before anything is printed
    resolve_engine(engine, device)
    opened = None
    if store is not None:
        from flatdist.cli.options import open_store

        opened = open_store(store, must_exist=False)
        opened.check_access()
    if not as_json:
        shown = cell.words()
        fields = ", ".join(f"{name}={cell_text(shown[name])}" for name in cell.relevant_fields)
        click.echo(f"cell {cell.cell_id}: {fields}")
    settings = RunSettings(engine=engine, device=device, threads=threads)
    outcomes = []
    log.info("cell %s: %d replicates, engine %s on %s", cell.cell_id, replicates, engine, device)
    with waits.told_to(functools.partial(click.echo, err=True)):
        for outcome in run_replicates(cell, range(replicates), settings, hooks=_live_hooks(quiet=as_json)):
            outcomes.append(outcome)
            log.info("replicate %d %s", outcome.trial["replicate"], outcome.trial["status"])
            if opened is not None:
                opened.write([outcome.trial], outcome.history)
    if as_json:
        history = [row for outcome in outcomes for row in outcome.history]
        print_json({"cell_id": cell.cell_id, "trials": [outcome.trial for outcome in outcomes], "history": history})
    else:
        trials = [outcome.trial for outcome in outcomes]
        names = [name for name in _RESULTS if any(trial.get(name) is not None for trial in trials)]
        print_table(names, ([trial.get(name) for name in names] for trial in trials))
        if any(trial["status"] == "diverged" for trial in trials):
            click.echo("diverged: the steps were too long; try a smaller learning_rate, or learning_rate=auto")
    return 0


def _live_hooks(*, quiet: bool) -> Any:
    """Hooks that print the first replicate's measurements as they are made."""
    from flatdist.trials.settings import Hooks

    hooks = Hooks()
    return hooks if quiet else dataclasses.replace(hooks, on_history=_printer())


def _printer() -> Callable[[int, list[dict[str, Any]]], None]:
    heads = " ".join(f"{name:>16}" for name in _LIVE)
    printed = False

    def show(replicate: int, rows: list[dict[str, Any]]) -> None:
        nonlocal printed
        if replicate != 0:
            return
        if not printed:
            click.echo(heads, err=True)
            printed = True
        for row in rows:
            click.echo(" ".join(f"{cell_text(row.get(name)):>16}" for name in _LIVE), err=True)

    return show
