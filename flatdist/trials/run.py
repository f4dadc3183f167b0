"""Running replicates of one cell in this process: the one way from a cell to result rows."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.cells.plugins import loaded_plugins
from flatdist.errors import CellError
from flatdist.machine.provenance import machine_provenance, run_provenance
from flatdist.trials.settings import RunSettings

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.methods.base import Produced
    from flatdist.trials.settings import Hooks


@dataclass
class Outcome:
    """One finished replicate: its ``trials`` row and its ``history`` rows."""

    trial: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)


def run_replicates(
    cell: Cell,
    replicates: Sequence[int],
    settings: RunSettings | None = None,
    *,
    hooks: Hooks | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[Outcome]:
    """Compute replicates of one cell.

    Args:
        cell: the configuration.
        replicates: numbers of the replicates.
        settings: engine, device, threads.
        hooks: checkpoints, progress, interruption.
        provenance: the result of :func:`flatdist.machine.provenance.run_provenance` in the driver; by default computed
            here.

    Yields:
        One outcome per replicate, as it finishes.

    Raises:
        flatdist.trials.settings.Interrupted: the hooks asked to stop.
        CellError: a replicate is not a whole number of at least 0.
        LaunchError: the engine or device is not available.
        SolverError: the problem cannot be solved as posed.
    """
    from flatdist.trials.settings import Hooks

    replicates = replicate_numbers(replicates)
    stamp = _stamp(provenance)
    for produced in cell.spec.run(cell, replicates, settings or RunSettings(), hooks or Hooks()):
        yield stamp(cell, produced)


def run_pack(
    items: Sequence[tuple[Cell, Sequence[int]]],
    settings: RunSettings | None = None,
    *,
    hooks: Hooks | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[Outcome]:
    """Train replicates of several cells together, a pack: see :func:`flatdist.trials.train.train_pack`.

    Args:
        items: cells of one :func:`~flatdist.trials.train.pack_key`, and the numbers of the replicates of each.
        settings: engine, device, threads.
        hooks: checkpoints, progress, interruption.
        provenance: as for :func:`run_replicates`.

    Yields:
        One outcome per replicate, as it finishes.
    """
    from flatdist.trials.settings import Hooks
    from flatdist.trials.train import train_pack

    numbered = [(cell, replicate_numbers(replicates)) for cell, replicates in items]
    stamp = _stamp(provenance)
    for cell, produced in train_pack(numbered, settings or RunSettings(), hooks or Hooks()):
        yield stamp(cell, produced)


def _stamp(provenance: Mapping[str, Any] | None) -> Callable[[Cell, Produced], Outcome]:
    """Makes outcomes of what a cell's method produced."""
    everywhere = dict(run_provenance() if provenance is None else provenance)

    cells: dict[str, dict[str, Any]] = {}

    def stamp(cell: Cell, produced: Produced) -> Outcome:
        replicate, trial, history = produced
        key = {"cell_id": cell.cell_id, "replicate": replicate}
        if cell.cell_id not in cells:
            cells[cell.cell_id] = {"configuration_id": cell.configuration_id, **cell.row()}
        stamped = {
            **key,
            **cells[cell.cell_id],
            **trial,
            **everywhere,
            **machine_provenance(),
            "plugins": ", ".join(map(str, loaded_plugins())) or None,
            "numerics_version": cell.numerics["method"],
            "sampling_version": cell.numerics["sampling"],
            "finished_at": datetime.datetime.now(datetime.UTC),
        }
        return Outcome(stamped, [key | row for row in history])

    return stamp


def replicate_numbers(replicates: Iterable[int]) -> list[int]:
    """The numbers of replicates, checked."""
    allowed = "allowed: whole numbers of at least 0, such as range(8) or [0, 3]"
    if isinstance(replicates, str) or not isinstance(replicates, Iterable):
        raise CellError(f"replicates: expected a list of whole numbers (got {replicates!r}); {allowed}")
    numbers = []
    for replicate in replicates:
        try:
            numbers.append(operator.index(replicate))
        except TypeError:
            raise CellError(f"replicates: {replicate!r} is not a whole number; {allowed}") from None
        if numbers[-1] < 0:
            raise CellError(f"replicates: {replicate} is negative; {allowed}")
    return numbers


def run_cell(cell: Cell, replicates: Sequence[int] = range(8), **settings: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute replicates of one cell in this process, without a store.

    Args:
        cell: the configuration.
        replicates: numbers of the replicates.
        settings: fields of :class:`RunSettings`: engine, device, threads.

    Returns:
        The ``trials`` and ``history`` tables as DataFrames; columns and units as in the store.

    Raises:
        CellError: a replicate is not a whole number of at least 0.
        LaunchError: the engine or device is not available.
        SolverError: the problem cannot be solved as posed.

    Example:
        >>> from flatdist import Cell, run_cell
        >>> trials, history = run_cell(Cell(d_out=4, d_in=4, rank=1, n=14, method="min_nuclear_norm"), range(3))
        >>> trials["status"].tolist()
        ['converged', 'converged', 'converged']
    """
    from flatdist.store.schema import rows_to_frame

    outcomes = sorted(
        run_replicates(cell, replicates, RunSettings(**settings)), key=lambda outcome: outcome.trial["replicate"]
    )
    trials = rows_to_frame("trials", [outcome.trial for outcome in outcomes])
    return trials, rows_to_frame("history", [row for outcome in outcomes for row in outcome.history])
