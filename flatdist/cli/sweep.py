"""``flatdist sweep``: run what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import (
    FiniteRange,
    load_sweeps,
    open_store,
    read_changes,
    selection_options,
    store_option,
    sweeps_argument,
)
from flatdist.cli.plan import outlook_lines, resource_options, warn
from flatdist.errors import SweepError

if TYPE_CHECKING:
    from flatdist.store import Store

LONG_SECONDS = 3600.0  # a plan predicted to take longer is confirmed, where somebody is there to ask


@click.command("sweep")
@sweeps_argument
@store_option
@selection_options
@resource_options
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
        _check_part(options)
        options |= {"executor": "inline", "probe": False}
    given = click.get_current_context().params  # workers log as the driver does
    options |= {name: given[name] for name in ("log_level", "log_file")}
    settings = read_settings(options)
    loaded = load_sweeps(sweeps, store, changes)
    opened = open_store(store, must_exist=False)
    how = "--executor inline" if mine is None else "--part"
    plan = prepare(loaded, opened, settings, changes, without_ray=how, tell=warn)
    click.echo("\n".join([*plan.lines(), *outlook_lines(loaded, opened, plan)]))
    if not yes and plan.time.mid > LONG_SECONDS and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm(f"This takes about {plan.time}. Start?", abort=True, err=True)
    outcome = Running(opened, plan, display, tell=click.echo, warn=warn, part=mine).run(loaded)
    if outcome.status == 1 or plan.failed:
        ids = [cell.cell_id for sweep in loaded for cell in sweep.recorded(opened).cells]
        return max(outcome.status, _report_failures(ids, opened))  # earlier failures still count
    return outcome.status


def _check_part(options: dict[str, Any]) -> None:
    """Refuse options that a part cannot have.

    Raises:
        SweepError: with what to do instead.
    """
    if options["budget"] is not None or options["limit"] is not None:
        raise SweepError("--part excludes --budget and --limit, which cut the sweep; narrow it with --where")
    if options["address"] is not None or options["loggers"]:
        raise SweepError("--part runs without Ray: leave out --address and --logger")


def _report_failures(cell_ids: list[str], store: Store) -> int:
    from flatdist.cli.inspect import failure_lines

    lines = failure_lines(store, list(dict.fromkeys(cell_ids)), tracebacks=False)
    if lines:
        warn("\n".join(lines))
    return 1 if lines else 0
