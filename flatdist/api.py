"""The commands ``plan`` and ``sweep`` as functions, for notebooks and programs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.planning import Plan
    from flatdist.store import Store
    from flatdist.sweeps import Changes, Sweep

INTERRUPTED = 130
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
    """What a sweep would run, how long it would take and how much memory it needs; runs only short probes.

    Args:
        sweep: a sweep file, its content as a dict, the name of a sweep recorded in the store, or a loaded sweep.
        store: the results.
        where: only cells for which these conditions hold.
        set: one value for a field, everywhere.
        executor: ``ray``, or ``inline`` for this process only.
        probe: time a few short runs of the kinds of cells that the store has no timings for.
        resources: any field of :class:`flatdist.planning.Settings`, such as address, max_concurrent, cpus_per_trial,
            gpus_per_trial, engine, device, limit, budget, fit and retry_failed.

    Returns:
        The plan; printed, or shown in a notebook, it says what the command prints.

    Raises:
        SweepError: the sweep cannot be used; the message lists every problem.
        LaunchError: this machine does not have the requested resources.

    Example:
        >>> spec = {"replicates": 2, "fixed": {"d_out": 4, "d_in": 4, "rank": 1}, "axes": {"n": [8, 12]}}
        >>> plan(spec, "no-such-store", executor="inline", probe=False).to_run
        4
    """
    from flatdist.launch import plan_sweeps
    from flatdist.planning.settings import read_settings

    loaded, opened, _ = _open(sweep, store, where, set)
    return plan_sweeps([loaded], opened, read_settings({"executor": executor, "probe": probe, **resources}))


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
    """Run the missing replicates of a sweep and return its trials; call it again to resume.

    Arguments are those of :func:`plan` and ``display``: ``auto`` updates a block of a notebook, shows a live view in a
    terminal, and prints plain lines elsewhere.

    Returns:
        The ``trials`` rows of the sweep's cells, one per replicate. Replicates that failed have none; a
        :class:`MissingReplicates` warning says how many.

    Raises:
        KeyboardInterrupt: the sweep was interrupted; finished replicates are stored.
        SweepError, LaunchError, StoreError: as for the command.

    Example:
        >>> spec = {"name": "tiny", "replicates": 2, "axes": {"n": [5, 9]},
        ...         "fixed": {"d_out": 3, "d_in": 3, "rank": 1, "method": "min_nuclear_norm"}}
        >>> trials = sweep(spec, "here", executor="inline", display="none", probe=False)
        >>> len(trials), trials["status"].unique().tolist()
        (4, ['converged'])
    """
    from flatdist.launch import Running
    from flatdist.launch.sweeping import prepare
    from flatdist.planning.settings import read_settings

    loaded, opened, changes = _open(sweep, store, where, set)
    settings = read_settings({"executor": executor, "probe": probe, **options})
    planned = prepare([loaded], opened, settings, changes, without_ray="executor='inline'")
    outcome = Running(opened, planned, display).run([loaded])
    if outcome.status == INTERRUPTED:
        raise KeyboardInterrupt
    if outcome.missing:
        text = f"{outcome.missing} replicates of {loaded.name!r} have no result: "
        warnings.warn(f"{text}flatdist failures {loaded.name} shows why", MissingReplicates, stacklevel=2)
    loaded = loaded.recorded(opened)
    return loaded.rows(opened.trials([cell.cell_id for cell in loaded.cells]))


def _open(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    store: str | os.PathLike[str] | Store,
    where: str | Sequence[str],
    fixed: Mapping[str, Any] | None,
) -> tuple[Sweep, Store, Changes]:
    from flatdist.store import Store
    from flatdist.sweepfile import Changes
    from flatdist.sweeps import open_sweep

    opened = store if isinstance(store, Store) else Store(store)
    changes = Changes(dict(fixed or {}), (where,) if isinstance(where, str) else tuple(where))
    return open_sweep(sweep, opened, changes), opened, changes
