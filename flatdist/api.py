"""The commands ``plan`` and ``sweep`` as functions, for notebooks and programs."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from flatdist.errors import LaunchError

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.cli.planning import Resources
    from flatdist.planning import Plan
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

Display = Literal["auto", "live", "plain", "none"]


class MissingReplicates(UserWarning):
    """A sweep has ended and some replicates have no result; ``flatdist failures`` says why."""


def plan(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    store: str | os.PathLike[str] | Store = "results",
    *,
    where: str | Sequence[str] = (),
    set: Mapping[str, Any] | None = None,  # noqa: A002 - the command's own word
    executor: Literal["ray", "inline"] = "ray",
    probe: bool = True,
    **resources: Any,
) -> Plan:
    """What a sweep would run, how long it takes and how much memory it needs; starts nothing but short probes.

    Args:
        sweep: a sweep file, its content as a dict, a name that the store has a record of, or a loaded sweep.
        store: the results.
        where: only cells for which these conditions hold.
        set: one value for a field, everywhere.
        executor: ``ray``, or ``inline``: this process alone.
        probe: time a few short runs of kinds of cells that the store has no times of.
        resources: as the command's options: address, max_concurrent, cpus_per_trial, gpus_per_trial, engine, device;
            limit, budget, fit, retry_failed.

    Returns:
        The plan; it prints, and shows in a notebook, what the command prints.

    Raises:
        SweepError: the sweep cannot be used, with everything that is wrong with it.
        LaunchError: this machine does not have what is asked for.

    Example:
        >>> spec = {"replicates": 2, "fixed": {"d_out": 4, "d_in": 4, "rank": 1}, "axes": {"n": [8, 12]}}
        >>> plan(spec, "no-such-store", executor="inline", probe=False).to_run
        4
    """
    loaded, _ = _open(sweep, store, where, set)
    return _plan(loaded, store, _resources(executor, resources), probe=probe, **resources)


def sweep(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    store: str | os.PathLike[str] | Store = "results",
    *,
    where: str | Sequence[str] = (),
    set: Mapping[str, Any] | None = None,  # noqa: A002 - the command's own word
    executor: Literal["ray", "inline"] = "ray",
    display: Display = "auto",
    probe: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Run what is missing of a sweep and return its trials; called again, it resumes.

    Arguments are those of :func:`plan`, and ``display``: ``auto`` fills in a block of a notebook, is a live view in a
    terminal, else plain lines. ``options`` may also hold checkpoint_seconds, trials, loggers and log_folder.

    Returns:
        The ``trials`` rows of the sweep's cells, one a replicate. Replicates that failed have none; a
        :class:`MissingReplicates` warning says how many.

    Raises:
        KeyboardInterrupt: it was interrupted; what was finished is stored.
        SweepError, LaunchError, StoreError: as the command.

    Example:
        >>> spec = {"name": "tiny", "replicates": 2, "axes": {"n": [5, 9]},
        ...         "fixed": {"d_out": 3, "d_in": 3, "rank": 1, "method": "min_nuclear_norm"}}
        >>> trials = sweep(spec, "here", executor="inline", display="none", probe=False)
        >>> len(trials), trials["status"].unique().tolist()
        (4, ['converged'])
    """
    from flatdist.cli.bundle import keep_diff
    from flatdist.cli.driving import Launching, run_rounds
    from flatdist.launch import LaunchSettings, launch

    loaded, opened = _open(sweep, store, where, set)
    opened.check_access()
    resources = _resources(executor, options)
    extra = ("checkpoint_seconds", "trials", "loggers", "log_folder")
    shared = {field.name for field in dataclasses.fields(LaunchSettings)} & vars(resources).keys()
    settings = LaunchSettings(
        **{name: options.pop(name) for name in extra if name in options},
        **{name: getattr(resources, name) for name in shared},
    )
    if loaded.chooses:
        limit, retry = options.pop("limit", None), options.pop("retry_failed", False)
        if options:
            raise LaunchError(f"{', '.join(options)}: not for a sweep that chooses its runs")
        launching = Launching(opened.uri, resources, settings, display, limit, retry)
        status, missing = run_rounds(loaded, launching), 0
        if status == 130:
            raise KeyboardInterrupt
        loaded = loaded.recorded(opened)
    else:
        planned = _plan(loaded, store, resources, probe=probe, **options)
        if not where:
            loaded.record(opened)
            keep_diff(opened, loaded.name)
        missing = planned.failed
        if planned.shards:
            result = launch(planned, opened.uri, executor=executor, settings=settings, display=display)
            if result.interrupted:
                raise KeyboardInterrupt
            missing += result.wanted - result.stored
    if missing:
        text = f"{missing} replicates of {loaded.name!r} have no result: flatdist failures {loaded.name} shows why"
        warnings.warn(text, MissingReplicates, stacklevel=2)
    return loaded.rows(opened.trials([cell.cell_id for cell in loaded.cells]))


def _open(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    store: str | os.PathLike[str] | Store,
    where: str | Sequence[str],
    fixed: Mapping[str, Any] | None,
) -> tuple[Sweep, Store]:
    from flatdist.store import Store
    from flatdist.sweepfile import Changes
    from flatdist.sweeps import open_sweep

    opened = store if isinstance(store, Store) else Store(store)
    conditions = (where,) if isinstance(where, str) else tuple(where)
    return open_sweep(sweep, opened, Changes(dict(fixed or {}), conditions)), opened


def _resources(executor: str, options: dict[str, Any]) -> Resources:
    """Take what the work runs on out of the options."""
    from flatdist.cli.planning import Resources

    defaults: dict[str, Any] = {
        "address": None, "max_concurrent": None, "cpus_per_trial": 1.0, "gpus_per_trial": None, "engine": "auto",
        "device": "auto",
    }  # fmt: skip
    taken = {name: options.pop(name, default) for name, default in defaults.items()}
    return Resources(executor=executor, **taken)


def _plan(
    sweep: Sweep, store: str | os.PathLike[str] | Store, resources: Resources, *, probe: bool, **planning: Any
) -> Plan:
    from flatdist.cli.planning import check_here, plan_sweeps
    from flatdist.errors import did_you_mean
    from flatdist.store import Store

    allowed = ("limit", "budget", "fit", "retry_failed")
    for name in planning:
        if name not in allowed:
            raise LaunchError(
                f"there is no option {name!r}{did_you_mean(name, allowed)}; allowed: {', '.join(allowed)}"
            )
    check_here(resources)
    opened = store if isinstance(store, Store) else Store(store)
    return plan_sweeps([sweep.expected(opened)], opened.uri, resources, with_probe=probe, **planning)
