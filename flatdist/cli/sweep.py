"""``flatdist plan`` and ``sweep``: what is missing, shown and run; ``train``: one cell in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.inspect import failure_lines
from flatdist.cli.options import (
    FiniteRange,
    json_option,
    load_sweeps,
    open_store,
    plugin_option,
    read_changes,
    selection_options,
    sweeps_options,
    together,
)
from flatdist.cli.output import cell_text, print_json, print_table, warn
from flatdist.errors import StoreError, SweepError
from flatdist.machine.logs import waits

if TYPE_CHECKING:
    from flatdist.planning import Plan
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

log = logging.getLogger(__name__)

LONG_SECONDS = 3600.0  # a plan predicted to take longer is confirmed, where somebody is there to ask

_LIVE = ("step", "train_loss", "population_loss", "nuclear_norm", "hessian_trace", "learning_rate")
_METRICS = ("relative_error", "train_loss", "nuclear_norm", "hessian_trace", "certificate")
_RESULTS = ("replicate", "status", *_METRICS, "wall_seconds")

_engine_option = click.option(
    "--engine", default="auto", show_default=True, help="auto, fused, cuda, triton, batched or reference."
)
_resource_options = together(
    click.option("--address", metavar="A", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT."),
    click.option("--executor", type=click.Choice(["ray", "inline"]), default="ray", show_default=True,
                 help="Ray Tune, or this process alone."),
    click.option("--max-concurrent", type=click.IntRange(min=1), metavar="K", help="At most K trials at a time."),
    click.option("--cpus-per-trial", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True,
                 help="Processors per trial, one thread each."),
    click.option("--gpus-per-trial", type=FiniteRange(min=0),
                 help="GPUs per trial; a fraction shares a GPU's time but fills it no better than packs do."),
    click.option("--pack", type=click.IntRange(min=1), metavar="N",
                 help="Train up to N replicates of cells of one shape together; by default as many as fill a GPU."),
    _engine_option,
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
    click.option("--budget", metavar="TIME", help="Refuse a plan predicted to take longer, such as 30m or 2h."),
    click.option("--fit", is_flag=True, help="With --budget: run the part that fits, whole cells first."),
    click.option("--retry-failed", is_flag=True, help="Also run replicates whose last attempt failed."),
    click.option("--probe/--no-probe", default=True, show_default=True,
                 help="Predict times by a few short runs where the store has none."),
)  # fmt: skip


@click.command("plan")
@sweeps_options
@selection_options
@_resource_options
@json_option
def plan_command(sweeps: tuple[str, ...], store: str, as_json: bool, **options: Any) -> None:
    """Show what SWEEP would run, how long it would take and how much memory it needs; start nothing.

    Several sweeps are planned as one. Times come from rows in the store, or else from probes of a few hundred
    steps in this process.
    """
    from flatdist.launch import plan_sweeps
    from flatdist.planning.settings import read_settings

    loaded, opened = load_sweeps(sweeps, store, read_changes(options.pop("words"), options.pop("conditions")))
    plan = plan_sweeps(loaded, opened, read_settings(options), tell=warn)
    if as_json:
        counts = ((sweep.name, sweep.outlook(opened).counts) for sweep in loaded)
        print_json(_content(plan) | {"groups": [{"sweep": name, **count} for name, count in counts if count]})
    else:
        click.echo("\n".join([*plan.lines(), *_outlook_lines(loaded, opened, plan), *_store_notes(opened)]))


def _content(plan: Plan) -> dict[str, Any]:
    counts = ("total", "done", "missing", "failed", "to_run")
    return {
        "sweeps": [{**vars(sweep), "missing": sweep.missing} for sweep in plan.sweeps],
        "cells": len(plan.cells),
        "left_out": plan.left_out,
        "replicates": {name: getattr(plan, name) for name in counts},
        "shards": len(plan.shards),
        "slots": plan.slots,
        "seconds": vars(plan.time),
        "slot_seconds": vars(plan.work),
        "basis": plan.forecast.basis,
        "engine": plan.engine,
        "device": plan.settings.expected_device,
        "memory_bytes_per_trial": plan.memory_bytes,
        "packs": [shard.replicates for shard in plan.shards if shard.together],
    }


def _outlook_lines(sweeps: Sequence[Sweep], store: Store, plan: Plan) -> list[str]:
    """The outlook of sweeps that choose their runs, with the time that further runs would take."""
    from flatdist.planning import duration

    lines = []
    for outlook in (sweep.outlook(store) for sweep in sweeps):
        text = outlook.text
        if outlook.beyond:
            more = sum(count * plan.forecast.replicate(cell).seconds for cell, count in outlook.beyond)
            text += f", which would take {duration(plan.time.mid + more / plan.slots)}"
        lines += [text] if text else []
    return lines


def _store_notes(store: Store) -> list[str]:
    """What a user should know about the store before a sweep fills it."""
    from flatdist.store.location import is_local

    try:
        if is_local(store.uri) or store.can_compact():
            return []
    except StoreError as error:
        return [f"note:   {error}"]
    return [f"note:   {store.uri} cannot create a file exclusively, so it is never compacted: keep the shards long"]


@click.command("sweep")
@sweeps_options
@selection_options
@_resource_options
@click.option("--checkpoint-seconds", type=FiniteRange(min=1), default=60.0, show_default=True,
              help="Time between two checkpoints of a long replicate.")  # fmt: skip
@click.option("--trials", type=click.Choice(["packs", "cells"]), default="packs", show_default=True, help="Whether a "
              "Tune trial packs short cells, or is one cell that reports its curves under its own fields.")  # fmt: skip
@click.option("--logger", "loggers", multiple=True, metavar="NAME", help="With --trials cells: use a logger of "
              "Ray Tune: tensorboard, csv, json, mlflow or wandb.")  # fmt: skip
@click.option("--log-folder", default="tune-logs", show_default=True, metavar="DIR", help="Folder for loggers' files.")
@click.option("--part", metavar="K/N", help="Run part K of N in this process, without Ray, as "
              "one job of an array; auto reads the variables of Slurm, Kubernetes or SkyPilot.")  # fmt: skip
@click.option("--display", type=click.Choice(["auto", "live", "plain", "none"]), default="auto", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask before a long run.")
def sweep_command(
    sweeps: tuple[str, ...], store: str, part: str | None, yes: bool, display: str, **options: Any
) -> int:
    """Run the missing replicates of SWEEP; rerun the command to resume.

    Several sweeps run as one. Exit status: 0 all done, 1 some replicates failed, 2 bad input, 130 interrupted.
    """
    from flatdist.launch import Running
    from flatdist.launch.parts import read_part
    from flatdist.launch.sweeping import prepare
    from flatdist.planning.settings import read_settings

    changes = read_changes(options.pop("words"), options.pop("conditions"))
    mine = None if part is None else read_part(part)
    if mine is not None:
        if options["budget"] is not None or options["limit"] is not None:
            raise SweepError("--part excludes --budget and --limit, which cut the sweep; narrow it with --where")
        if options["address"] is not None or options["loggers"]:
            raise SweepError("--part runs without Ray: leave out --address and --logger")
        options |= {"executor": "inline", "probe": False}
    given = click.get_current_context().params  # workers log as the driver does
    settings = read_settings(options | {name: given[name] for name in ("log_level", "log_file")})
    loaded, opened = load_sweeps(sweeps, store, changes)
    how = "--executor inline" if mine is None else "--part"
    plan = prepare(loaded, opened, settings, changes, without_ray=how, tell=warn)
    click.echo("\n".join([*plan.lines(), *_outlook_lines(loaded, opened, plan)]))
    if not yes and plan.time.mid > LONG_SECONDS and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm(f"This takes about {plan.time}. Start?", abort=True, err=True)
    outcome = Running(opened, plan, display, tell=click.echo, warn=warn, part=mine).run(loaded)
    if outcome.status == 1 or plan.failed:
        ids = dict.fromkeys(cell.cell_id for sweep in loaded for cell in sweep.recorded(opened).cells)
        if failures := failure_lines(opened, list(ids), tracebacks=False):
            warn("\n".join(failures))
            return max(outcome.status, 1)  # earlier failures still count
    return outcome.status


@click.command("train")
@click.argument("words", metavar="[FIELD=VALUE]...", nargs=-1)
@plugin_option
@click.option("--replicates", type=click.IntRange(min=1), default=1, show_default=True, help="How many, from 0 on.")
@_engine_option
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--store", help="Store the results there; otherwise nothing is stored.")
@json_option
def train_command(
    words: tuple[str, ...], replicates: int, engine: str, device: str, threads: int, store: str | None, as_json: bool
) -> None:
    """Run one cell in this process, for example: flatdist train d_out=12 d_in=12 rank=1 n=2*statdim steps=10000

    Fields that are not given have their defaults; values may be expressions over the other fields.
    """
    from flatdist.sweepfile.words import cell_from_words

    cell = cell_from_words(words)  # before torch is imported
    from flatdist.engines import check_device, resolve_engine
    from flatdist.trials.run import run_replicates
    from flatdist.trials.settings import Hooks, RunSettings

    check_device(device)  # before anything is printed
    resolve_engine(engine, device)
    opened = None if store is None else open_store(store, must_exist=False)
    if opened is not None:
        opened.check_access()
    if not as_json:
        shown = cell.words()
        fields = ", ".join(f"{name}={cell_text(shown[name])}" for name in cell.relevant_fields)
        click.echo(f"cell {cell.cell_id}: {fields}")
    settings = RunSettings(engine=engine, device=device, threads=threads)
    hooks = Hooks(on_history=None if as_json else _show)
    outcomes = []
    log.info("cell %s: %d replicates, engine %s on %s", cell.cell_id, replicates, engine, device)
    with waits.told_to(warn):
        for outcome in run_replicates(cell, range(replicates), settings, hooks=hooks):
            outcomes.append(outcome)
            log.info("replicate %d %s", outcome.trial["replicate"], outcome.trial["status"])
            if opened is not None:
                opened.write([outcome.trial], outcome.history)
    trials = [outcome.trial for outcome in outcomes]
    if as_json:
        history = [row for outcome in outcomes for row in outcome.history]
        print_json({"cell_id": cell.cell_id, "trials": trials, "history": history})
        return
    names = [name for name in _RESULTS if any(trial.get(name) is not None for trial in trials)]
    print_table(names, ([trial.get(name) for name in names] for trial in trials))
    if any(trial["status"] == "diverged" for trial in trials):
        click.echo("diverged: the steps were too long; try a smaller learning_rate, or learning_rate=auto")


def _show(replicate: int, rows: list[dict[str, Any]]) -> None:
    """Print the first replicate's measurements as they are made."""
    for row in rows if replicate == 0 else ():
        if row["step"] == 0:
            warn(" ".join(f"{name:>16}" for name in _LIVE))
        warn(" ".join(f"{cell_text(row.get(name)):>16}" for name in _LIVE))
