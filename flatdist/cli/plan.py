"""``flatdist plan``: what a sweep would run; starts nothing."""

from __future__ import annotations

from typing import Any

import click

from flatdist.cli.driving import check_options, outlook_lines
from flatdist.cli.options import (
    json_option,
    load_sweeps,
    open_store,
    read_changes,
    selection_options,
    store_option,
    sweeps_argument,
)
from flatdist.cli.output import print_json
from flatdist.cli.planning import Resources, plan_json, plan_sweeps, resource_options, store_notes


@click.command("plan")
@sweeps_argument
@store_option
@selection_options
@resource_options
@json_option
def plan_command(sweeps: tuple[str, ...], store: str, as_json: bool, **options: Any) -> None:
    """Say what SWEEP would run, how long it takes and how much memory it needs; start nothing.

    Several sweeps are planned as one. Times come from what is in the store already, else from probes of a few hundred
    steps in this process.
    """
    changes = read_changes(options.pop("words"), options.pop("conditions"))
    loaded = load_sweeps(sweeps, store, changes)
    check_options(loaded, options)
    opened = open_store(store, must_exist=False)
    plan = plan_sweeps(
        [sweep.expected(opened) for sweep in loaded], store, take_resources(options), **take_planning(options)
    )
    if as_json:
        counts = ((sweep.name, sweep.outlook(opened).counts) for sweep in loaded)
        print_json(plan_json(plan) | {"groups": [{"sweep": name, **count} for name, count in counts if count]})
    else:
        click.echo("\n".join([*plan.lines(), *outlook_lines(loaded, opened, plan), *store_notes(store)]))


def take_resources(options: dict[str, Any]) -> Resources:
    """The options that say what the work runs on."""
    names = ("address", "executor", "max_concurrent", "cpus_per_trial", "gpus_per_trial", "engine", "device", "pack")
    return Resources(**{name: options[name] for name in names})


def take_planning(options: dict[str, Any]) -> dict[str, Any]:
    """The options that say how much of it is to run."""
    names = ("limit", "retry_failed", "budget", "fit")
    return {name: options[name] for name in names} | {"with_probe": not options["no_probe"]}
