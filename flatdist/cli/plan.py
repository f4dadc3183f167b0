"""``flatdist plan``: what a sweep would run, without starting it; and options shared with ``flatdist sweep``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flatdist.cli.options import (
    FiniteRange,
    json_option,
    load_sweeps,
    open_store,
    read_changes,
    selection_options,
    store_option,
    sweeps_argument,
)
from flatdist.cli.output import print_json

if TYPE_CHECKING:
    from flatdist.planning import Interval, Plan
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

Command = TypeVar("Command", bound=Callable[..., Any])


def resource_options(command: Command) -> Command:
    """Options for the resources to run on and how much of the work to run."""
    for option in (
        click.option("--probe/--no-probe", default=True, show_default=True,
                     help="Predict times by a few short runs where the store has none."),
        click.option("--retry-failed", is_flag=True, help="Also run replicates whose last attempt failed."),
        click.option("--fit", is_flag=True, help="With --budget: run the part that fits, whole cells first."),
        click.option("--budget", metavar="TIME", help="Refuse a plan predicted to take longer, such as 30m or 2h."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option("--engine", default="auto", show_default=True,
                     help="auto, fused, cuda, triton, batched or reference."),
        click.option("--pack", type=click.IntRange(min=1), metavar="N",
                     help="Train up to N replicates of cells of one shape together; by default as many as fill a GPU."),
        click.option("--gpus-per-trial", type=FiniteRange(min=0),
                     help="GPUs per trial; a fraction shares a GPU's time but fills it no better than packs do."),
        click.option("--cpus-per-trial", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True,
                     help="Processors per trial, one thread each."),
        click.option("--max-concurrent", type=click.IntRange(min=1), metavar="K", help="At most K trials at a time."),
        click.option("--executor", type=click.Choice(["ray", "inline"]), default="ray", show_default=True,
                     help="Ray Tune, or this process alone."),
        click.option("--address", metavar="A", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("plan")
@sweeps_argument
@store_option
@selection_options
@resource_options
@json_option
def plan_command(sweeps: tuple[str, ...], store: str, as_json: bool, **options: Any) -> None:
    """Show what SWEEP would run, how long it would take and how much memory it needs; start nothing.

    Several sweeps are planned as one. Times come from rows in the store, or else from probes of a few hundred
    steps in this process.
    """
    from flatdist.launch import plan_sweeps
    from flatdist.planning.settings import read_settings

    loaded = load_sweeps(sweeps, store, read_changes(options.pop("words"), options.pop("conditions")))
    settings = read_settings(options)
    opened = open_store(store, must_exist=False)
    plan = plan_sweeps(loaded, opened, settings, tell=warn)
    if as_json:
        counts = ((sweep.name, sweep.outlook(opened).counts) for sweep in loaded)
        print_json(plan_json(plan) | {"groups": [{"sweep": name, **count} for name, count in counts if count]})
    else:
        click.echo("\n".join([*plan.lines(), *outlook_lines(loaded, opened, plan), *store_notes(opened)]))


def warn(text: str) -> None:
    """Print a line to standard error."""
    click.echo(text, err=True)


def outlook_lines(sweeps: Sequence[Sweep], store: Store, plan: Plan) -> list[str]:
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


def store_notes(store: Store) -> list[str]:
    """What a user should know about the store before a sweep fills it."""
    from flatdist.errors import StoreError
    from flatdist.store.location import is_local

    try:
        if is_local(store.uri) or store.can_compact():
            return []
    except StoreError as error:
        return [f"note:   {error}"]
    return [f"note:   {store.uri} cannot create a file exclusively, so it is never compacted: keep the shards long"]


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as data."""
    counts = ("total", "done", "missing", "failed", "to_run")
    return {
        "sweeps": [{**vars(sweep), "missing": sweep.missing} for sweep in plan.sweeps],
        "cells": len(plan.cells),
        "left_out": plan.left_out,
        "replicates": {name: getattr(plan, name) for name in counts},
        "shards": len(plan.shards),
        "slots": plan.slots,
        "seconds": _interval(plan.time),
        "slot_seconds": _interval(plan.work),
        "basis": plan.forecast.basis,
        "engine": plan.engine,
        "device": plan.settings.expected_device,
        "memory_bytes_per_trial": plan.memory_bytes,
        "packs": [shard.replicates for shard in plan.shards if shard.together],
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "mid": interval.mid, "high": interval.high}
