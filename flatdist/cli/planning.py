"""From the options of ``plan`` and ``sweep`` to a plan, and the plan in words."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flatdist.cli.options import FiniteRange

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.planning import Interval, Plan, PlanSettings
    from flatdist.planning.forecast import Forecast, Probe
    from flatdist.sweeps import Sweep

Command = TypeVar("Command", bound=Callable[..., Any])
CLUSTER_SLOTS = 64  # assumed of a cluster that is not asked before the sweep starts: shards are cut small enough for it


@dataclass(frozen=True)
class Resources:
    """What the work is to run on.

    Attributes:
        address: a Ray cluster, or None for this machine.
        executor: ``ray`` or ``inline``.
        max_concurrent: trials at a time; None leaves it to the resources.
        cpus_per_trial: processors of one trial.
        gpus_per_trial: GPUs of one trial; None takes one where there are any.
        engine: of the SGD steps.
        device: ``auto``, ``cpu`` or ``cuda``.
        pack: replicates of different cells trained together at most; None fills a GPU.
    """

    address: str | None
    executor: str
    max_concurrent: int | None
    cpus_per_trial: float
    gpus_per_trial: float | None
    engine: str
    device: str
    pack: int | None = None

    @property
    def uses_gpu(self) -> bool:
        """Whether trials are expected to run on GPUs; this process itself only where it is told to."""
        if self.device != "auto":
            return self.device != "cpu"
        if self.executor == "inline":
            return bool(self.gpus_per_trial)
        return bool(self.gpus_per_trial) if self.gpus_per_trial is not None else bool(local_gpus())

    @property
    def slots(self) -> int:
        """Trials that are expected to run at a time."""
        from flatdist.planning.plan import processors

        if self.executor == "inline":
            return 1
        if self.address is not None:
            return self.max_concurrent or CLUSTER_SLOTS
        slots = max(1, int(processors() / self.cpus_per_trial))
        if self.uses_gpu and (gpus := local_gpus()):
            slots = min(slots, max(1, int(gpus / (self.gpus_per_trial or 1.0))))
        return min(slots, self.max_concurrent or slots)


def check_here(resources: Resources) -> None:
    """Reject resources this machine does not have, before anything is probed or started; a cluster is checked later.

    Raises:
        LaunchError: no such device, no GPU, or a trial wider than this machine.
    """
    from flatdist.errors import LaunchError, did_you_mean
    from flatdist.launch.ray.cluster import cuda_devices
    from flatdist.launch.settings import DEVICES

    if resources.device not in DEVICES:
        hint = did_you_mean(resources.device, DEVICES)
        raise LaunchError(f"--device {resources.device} does not exist{hint}; allowed: {', '.join(DEVICES)}")
    joins = resources.address is not None or os.environ.get("RAY_ADDRESS", "local") != "local"
    if resources.executor == "ray" and joins:
        return
    if resources.executor == "ray" and resources.cpus_per_trial > (has := os.cpu_count() or 1):
        asked = f"--cpus-per-trial {resources.cpus_per_trial:g}"
        raise LaunchError(f"{asked}: this machine has {has} CPUs; allowed: at most {has}, or a cluster's --address")
    if resources.device == "cuda" and not cuda_devices():
        raise LaunchError(
            "--device cuda: torch sees no CUDA device on this machine; use --device cpu, or a cluster's --address"
        )


def local_gpus() -> int:
    """GPUs of this machine, counted without loading torch."""
    return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))


def resource_options(command: Command) -> Command:
    """Options that say what the work runs on, and how much of it is to run."""
    for option in (
        click.option("--no-probe", is_flag=True, help="Run no short probes to predict times."),
        click.option("--retry-failed", is_flag=True, help="Also run replicates whose last attempt failed."),
        click.option("--fit", is_flag=True, help="With --budget: run the part that fits, whole cells first."),
        click.option("--budget", metavar="TIME", help="Refuse what is predicted to take longer, such as 30m or 2h."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
        click.option("--engine", default="auto", show_default=True,
                     help="auto, fused, cuda, triton, batched or reference."),
        click.option("--pack", type=click.IntRange(min=1), metavar="N",
                     help="Train up to N replicates of cells of one shape together; by default as many as fill a GPU."),
        click.option("--gpus-per-trial", type=FiniteRange(min=0),
                     help="GPUs of one trial; a fraction shares a GPU's time, and fills it no better than packs do."),
        click.option("--cpus-per-trial", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True,
                     help="Processors of one trial, and its threads."),
        click.option("--max-concurrent", type=click.IntRange(min=1), metavar="K", help="At most K trials at a time."),
        click.option("--executor", type=click.Choice(["ray", "inline"]), default="ray", show_default=True,
                     help="Ray Tune, or this process alone."),
        click.option("--address", metavar="A", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT."),
    ):  # fmt: skip
        command = option(command)
    return command


def plan_sweeps(
    sweeps: Sequence[Sweep],
    store: str,
    resources: Resources,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
    budget: str | None = None,
    fit: bool = False,
    with_probe: bool = True,
    forecast: Forecast | None = None,
) -> Plan:
    """Make the plan that the options ask for.

    Raises:
        SweepError: it does not fit the budget, or the budget cannot be read as a duration.
        LaunchError: the engine does not exist or does not run on the device, or this machine lacks what was requested.
    """
    from flatdist.cli.options import open_store
    from flatdist.errors import SweepError
    from flatdist.planning import keep_within, make_plan, make_probe, parse_duration

    seconds = None if budget is None else parse_duration(budget)
    if fit and seconds is None:
        raise SweepError("--fit needs --budget: give the time that the plan is to fit")
    opened = open_store(store, must_exist=False)
    settings = plan_settings(resources, retry_failed=retry_failed, limit=limit)
    free_to_choose = resources.device == resources.engine == "auto" and resources.gpus_per_trial is None
    if settings.device == "cuda" and free_to_choose and resources.address is None:
        on_cpu = plan_settings(dataclasses.replace(resources, device="cpu"), retry_failed=retry_failed, limit=limit)
        plans = [make_plan(sweeps, opened, one) for one in (settings, on_cpu)]
        settings = min(plans, key=lambda plan: plan.time.mid).settings  # never the slower one by its own forecast
    threads = max(1, int(resources.cpus_per_trial))
    can_probe = with_probe and (settings.device == "cpu" or local_gpus() > 0)
    probe = _announced(make_probe(settings.engine, settings.device, threads)) if can_probe else None
    plan = make_plan(sweeps, opened, settings, probe=probe, forecast=forecast)
    return plan if seconds is None else keep_within(plan, seconds, fit=fit)


def plan_settings(resources: Resources, *, retry_failed: bool = False, limit: int | None = None) -> PlanSettings:
    """What a plan depends on beside sweeps and store.

    Raises:
        LaunchError: the engine does not exist or does not run on the device, or this machine lacks what was requested.
    """
    from flatdist.engines import resolve_engine
    from flatdist.planning import PlanSettings

    check_here(resources)
    device = "cuda" if resources.uses_gpu else "cpu"
    resolve_engine(resources.engine, device)  # refused here rather than by every cell
    return PlanSettings(
        slots=dataclasses.replace(resources, device=device).slots,
        engine=resources.engine,
        device=device,
        executor=resources.executor,
        retry_failed=retry_failed,
        limit=limit,
        local=resources.address is None and device == "cpu",
        pack=resources.pack,
        cpu_slots=dataclasses.replace(resources, device="cpu").slots,
    )


def _announced(probe: Probe) -> Probe:
    """A probe that says so when it first runs: compiling the engine may take half a minute on a new machine."""
    told = False

    def announced(cell: Cell) -> float:
        nonlocal told
        if not told:
            click.echo("timing a few cells (the store has no timings for them yet)", err=True)
            told = True
        return probe(cell)

    return announced


def store_notes(location: str) -> list[str]:
    """What a user should know about the store before a sweep fills it."""
    from flatdist.cli.options import open_store
    from flatdist.errors import StoreError
    from flatdist.store.location import is_local

    store = open_store(location, must_exist=False)
    try:
        if is_local(store.uri) or store.can_compact():
            return []
    except StoreError as error:
        return [f"note:   {error}"]
    return [f"note:   {store.uri} cannot create a file exclusively: it gets no compaction, so keep the shards long"]


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as data."""
    return {
        "sweeps": [{**vars(sweep), "missing": sweep.missing} for sweep in plan.sweeps],
        "cells": len(plan.cells),
        "left_out": plan.left_out,
        "replicates": {
            "total": plan.total,
            "done": plan.done,
            "missing": plan.missing,
            "failed": plan.failed,
            "to_run": plan.to_run,
        },
        "shards": len(plan.shards),
        "slots": plan.slots,
        "seconds": _interval(plan.time),
        "slot_seconds": _interval(plan.work),
        "basis": plan.forecast.basis,
        "engine": plan.engine,
        "device": plan.settings.device,
        "memory_bytes_per_trial": plan.memory_bytes,
        "packs": [shard.replicates for shard in plan.shards if shard.together],
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"low": interval.low, "mid": interval.mid, "high": interval.high}
