"""Successive halving: cells are compared at rungs of growing numbers of steps, and only the best continue.

The rule is that of ASHA: at a rung a cell continues if it is among the best 1/factor of all that ever reached it, in
this and in earlier rounds. The cells of one round arrive at a rung together, so decisions depend only on results and
not on speed. Tune's ASHAScheduler instead decides in the order of arrival, loses its rungs with the driver, and stops
Tune trials, which hold several cells each here.

A stopped cell keeps its checkpoints and has no row in trials: its round records the step and the value at which it was
stopped. Any later run, also of another sweep, resumes from the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.sweepfile.declaration import EarlyStopping
from flatdist.sweeps.metric import Metric, cell_value

if TYPE_CHECKING:
    from flatdist.store import Store

DIVERGED_AT = 3  # position among a checkpoint's scalars


def paused_value(cell: Cell, state: tuple[int, Mapping[str, Any]] | None, rung: int, column: str) -> float | None:
    """The value of a replicate at a rung, from its checkpoint: infinite if it has diverged, None before that point.

    Training evaluates its history in blocks, so the value compared is the first evaluation at or after the rung, and a
    replicate pauses at the end of that block. Both depend only on the cell.
    """
    if state is None or not cell.spec.takes_steps:
        return None
    from flatdist.factorization.evaluation import BLOCK, evaluation_steps

    step, arrays = state
    steps = evaluation_steps(cell.steps, cell.evaluations)
    evaluated = int((steps <= step).sum()) // BLOCK * BLOCK
    index = int((steps < rung).sum())
    try:
        diverged_at, values = float(arrays["scalars"][DIVERGED_AT]), arrays[f"history_{column}"]
        value = float(values[index])
    except (KeyError, IndexError, TypeError, ValueError):
        return None  # not a state that training saved; training reports it later
    if 0 <= diverged_at <= steps[index]:
        return math.inf
    if index >= evaluated:
        return None
    return value if math.isfinite(value) else math.inf


def is_paused(store: Store, cell: Cell, replicate: int, rung: int) -> bool:
    """Whether a replicate has been trained up to a rung."""
    return paused_value(cell, store.checkpoints.latest(cell.cell_id, replicate), rung, "population_loss") is not None


@dataclass(frozen=True)
class Halving:
    """How the cells of a round are stopped early."""

    rule: EarlyStopping  # the rungs, and which cells continue
    store: Store
    metric: Metric
    mode: str  # min or max

    def value(self, cell: Cell, replicates: Collection[int], rung: int) -> float:
        """The median over a cell's replicates at a rung, from rows and checkpoints; one that failed counts as worst."""
        column = self.metric.rung_column
        assert column is not None, "checked when the sweep file is read"
        columns = ["replicate", "step", column]
        rows = self.store.history([cell.cell_id], where=[("step", ">=", rung)], columns=columns)
        first = rows.sort_values("step").drop_duplicates("replicate")
        values = {int(r): float(value) for r, value in zip(first["replicate"], first[column], strict=True)}
        for replicate in set(replicates) - values.keys():
            state = self.store.checkpoints.latest(cell.cell_id, replicate)
            value = paused_value(cell, state, rung, column)
            if value is not None:
                values[replicate] = value
        if self.metric.relative:
            values = {replicate: value / squared_truth(cell, replicate) for replicate, value in values.items()}
        return cell_value(values, replicates, math.inf if self.mode == "min" else -math.inf)


def squared_truth(cell: Cell, replicate: int) -> float:
    """||M*||_F^2 of a replicate's problem."""
    if cell.ground_truth != "gaussian_factors":
        return 1.0  # by definition
    from flatdist.cells.problems import frobenius_norm, ground_truth_of

    return frobenius_norm(ground_truth_of(cell, replicate)) ** 2
