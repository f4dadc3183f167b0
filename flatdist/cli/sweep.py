"""``flatdist sweep``: run what is missing."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from flatdist.cli.bundle import keep_diff
from flatdist.cli.driving import Launching, check_options, outlook_lines, run_rounds
from flatdist.cli.options import (
    FiniteRange,
    load_sweep,
    load_sweeps,
    open_store,
    read_changes,
    selection_options,
    store_option,
    sweeps_argument,
)
from flatdist.cli.plan import take_planning, take_resources
from flatdist.cli.planning import Resources, check_here, plan_sweeps, resource_options
from flatdist.errors import SweepError

if TYPE_CHECKING:
    from flatdist.launch import LaunchSettings
    from flatdist.launch.parts import Part
    from flatdist.planning import Plan

INTERRUPTED = 130
LONG_SECONDS = 3600.0  # a plan predicted to take longer is confirmed, where somebody is there to ask


@click.command("sweep")
@sweeps_argument
@store_option
@selection_options
@resource_options
@click.option("--checkpoint-seconds", type=FiniteRange(min=1), default=60.0, show_default=True,
              help="Time between two checkpoints of a long replicate.")  # fmt: skip
@click.option("--trials", type=click.Choice(["packs", "cells"]), default="packs", show_default=True, help="A Tune "
              "trial packs short cells, or is one cell under its own fields that reports its curves.")  # fmt: skip
@click.option("--logger", "loggers", multiple=True, metavar="NAME", help="With --trials cells: switch on a logger of "
              "Ray Tune: tensorboard, csv, json, mlflow or wandb.")  # fmt: skip
@click.option("--log-folder", default="tune-logs", show_default=True, metavar="DIR", help="Where loggers keep files.")
@click.option("--part", metavar="K/N", help="Run part K of N in this process, without Ray, as "
              "one job of an array; auto asks Slurm's, Kubernetes' or SkyPilot's variables.")  # fmt: skip
@click.option("--display", type=click.Choice(["auto", "live", "plain", "none"]), default="auto", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask before a long run.")
def sweep_command(sweeps: tuple[str, ...], store: str, **options: Any) -> int:
    """Run what is missing of SWEEP; rerun the command to resume.

    Several sweeps run as one. Exit status: 0 all done, 1 some replicates failed, 2 bad input, 130 interrupted.
    """
    from flatdist.launch.ray.tune import check_loggers

    words, conditions = options.pop("words"), options.pop("conditions")
    part = _read_part(options)
    loaded = load_sweeps(sweeps, store, read_changes(words, conditions))
    resources = take_resources(options)
    check_here(resources)
    check_loggers(options["loggers"], options["trials"])
    opened = open_store(store, must_exist=False)
    opened.check_access()
    check_options(loaded, options)
    plan = plan_sweeps([sweep.expected(opened) for sweep in loaded], store, resources, **take_planning(options))
    click.echo("\n".join([*plan.lines(), *outlook_lines(loaded, opened, plan)]))
    plain = [sweep for sweep in loaded if not sweep.chooses]
    for name, sweep in zip(sweeps, loaded, strict=True):
        whole = load_sweep(name, store, read_changes(words, ())) if conditions else sweep
        if whole.chooses:
            continue  # recorded round by round
        whole.record(opened)
        keep_diff(opened, whole.name)
        if words:
            click.echo(f"--set makes other cells; this sweep is called {whole.name} in the store", err=True)
    if not plan.shards and len(plain) == len(loaded):
        return _report_failures(plan, opened)
    if not options["yes"] and plan.time.mid > LONG_SECONDS and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm(f"This takes about {plan.time}. Start?", abort=True, err=True)
    if len(plain) == len(loaded):
        return _launch(plan, store, resources, options, part)
    statuses = []
    if plain:
        planning = take_planning(options) | {"with_probe": False}
        statuses.append(_launch(plan_sweeps(plain, store, resources, **planning), store, resources, options, part))
    launching = Launching(
        store=store,
        resources=resources,
        settings=_settings(resources, options),
        display=options["display"],
        limit=options["limit"],
        retry_failed=options["retry_failed"],
        part=part,
    )
    for sweep in loaded:
        if sweep.chooses and INTERRUPTED not in statuses:
            statuses.append(run_rounds(sweep, launching))
    return max(statuses)


def _read_part(options: dict[str, Any]) -> Part | None:
    """The part that this process is to run; it runs inline, and probes nothing that others would probe too."""
    if options["part"] is None:
        return None
    from flatdist.launch.parts import read_part

    if options["budget"] is not None or options["limit"] is not None:
        raise SweepError("--part shares the whole sweep, which --budget and --limit cut; narrow it with --where")
    if options["address"] is not None or options["loggers"]:
        raise SweepError("--part runs without Ray: leave out --address and --logger")
    part = read_part(options["part"])
    options |= {"executor": "inline", "no_probe": True}
    return part


def _settings(resources: Resources, options: dict[str, Any]) -> LaunchSettings:
    from flatdist.launch import LaunchSettings

    log = click.get_current_context().params  # workers log as the driver does
    return LaunchSettings(
        address=resources.address,
        max_concurrent=resources.max_concurrent,
        cpus_per_trial=resources.cpus_per_trial,
        gpus_per_trial=resources.gpus_per_trial,
        engine=resources.engine,
        device=resources.device,
        checkpoint_seconds=options["checkpoint_seconds"],
        trials=options["trials"],
        loggers=tuple(options["loggers"]),
        log_folder=options["log_folder"],
        log_level=log["log_level"],
        log_file=log["log_file"],
    )


def _launch(plan: Plan, store: str, resources: Resources, options: dict[str, Any], part: Part | None) -> int:
    from flatdist.launch import launch

    if resources.device == "auto" and resources.address is None:  # where the plan says
        on_cpu = plan.settings.device == "cpu"
        gpus = 0.0 if on_cpu else resources.gpus_per_trial or 1.0
        resources = dataclasses.replace(resources, device=plan.settings.device, gpus_per_trial=gpus)
    settings = _settings(resources, options)
    executor = cast(Literal["ray", "inline"], resources.executor)
    result = launch(plan, store, executor=executor, settings=settings, display=options["display"], part=part)
    if part is not None:
        click.echo(f"{part}: ran {result.ran} of them", err=True)
    recorded = _report_failures(plan, open_store(store)) if result.failed or plan.failed else 0
    return recorded if result.exit_code == 0 else result.exit_code  # what failed earlier still stands


def _report_failures(plan: Plan, store: Any) -> int:
    """List the replicates whose last attempt failed, grouped by error."""
    from flatdist.cli.inspect import failure_lines

    lines = failure_lines(store, [cell.cell_id for cell in plan.cells], tracebacks=False)
    if lines:
        click.echo("\n".join(lines), err=True)
    return 1 if lines else 0
