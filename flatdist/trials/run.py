"""Running replicates of one cell in this process: the one way from a cell to result rows."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.cells.plugins import loaded_plugins
from flatdist.errors import CellError
from flatdist.machine.provenance import machine_provenance, run_provenance
from flatdist.methods.base import Produced
from flatdist.trials.settings import Hooks, RunSettings

if TYPE_CHECKING:
    import pandas as pd


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
        provenance: the driver's :func:`flatdist.machine.provenance.run_provenance`; by default computed here.

    Yields:
        One outcome per replicate, as it finishes.

    Raises:
        flatdist.trials.settings.Interrupted: the hooks asked to stop.
        CellError: a replicate is not a whole number of at least 0.
        LaunchError: the engine or device is not available.
        SolverError: the problem cannot be solved as posed.
    """
    found = cell.spec.run(cell, replicate_numbers(replicates), settings or RunSettings(), hooks or Hooks())
    yield from _stamped(((cell, produced) for produced in found), provenance)


def run_pack(
    items: Sequence[tuple[Cell, Sequence[int]]],
    settings: RunSettings | None = None,
    *,
    hooks: Hooks | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[Outcome]:
    """Train replicates of several cells of one :func:`~flatdist.trials.train.pack_key` together.

    Otherwise as :func:`run_replicates`; see :func:`flatdist.trials.train.train_pack`.
    """
    from flatdist.trials.train import train_pack

    numbered = [(cell, replicate_numbers(replicates)) for cell, replicates in items]
    yield from _stamped(train_pack(numbered, settings or RunSettings(), hooks or Hooks()), provenance)


def _stamped(found: Iterable[tuple[Cell, Produced]], provenance: Mapping[str, Any] | None) -> Iterator[Outcome]:
    """What methods produced, with the fields of its cell and with its provenance."""
    everywhere = run_provenance() if provenance is None else provenance
    cells: dict[str, dict[str, Any]] = {}
    for cell, (replicate, trial, history) in found:
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
        yield Outcome(stamped, [key | row for row in history])


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

    found = sorted(run_replicates(cell, replicates, RunSettings(**settings)), key=lambda one: one.trial["replicate"])
    trials = rows_to_frame("trials", [one.trial for one in found])
    return trials, rows_to_frame("history", [row for one in found for row in one.history])
