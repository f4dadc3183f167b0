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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.sweeps.metric import Metric, cell_value

if TYPE_CHECKING:
    from flatdist.store import Store

DIVERGED_AT = 3  # position among a checkpoint's scalars


@dataclass(frozen=True)
class EarlyStopping:
    """When cells are compared, and how many continue.

    Attributes:
        first: steps at the first rung.
        factor: each rung has this many times the steps of the previous one, and one in this many cells continues.
    """

    first: int
    factor: int = 3

    def rungs(self, steps: int) -> list[int]:
        """The rungs for a number of steps; the last is at steps / factor, since stopping later saves little."""
        rungs = []
        rung = self.first
        while rung * self.factor <= steps:
            rungs.append(rung)
            rung *= self.factor
        return rungs

    def stopped(self, here: Mapping[int, float], before: Sequence[float], mode: str) -> tuple[int, ...]:
        """Which candidates are stopped.

        Args:
            here: candidate -> value at the rung.
            before: values of earlier rounds at this rung.
            mode: ``min`` or ``max``.
        """
        sign = 1.0 if mode == "min" else -1.0
        ranked = sorted(sign * value for value in (*here.values(), *before))
        cutoff = ranked[math.ceil(len(ranked) / self.factor) - 1] if ranked else 0.0
        return tuple(index for index, value in here.items() if sign * value > cutoff or not math.isfinite(value))


def paused_value(cell: Cell, state: tuple[int, Mapping[str, Any]] | None, rung: int, column: str) -> float | None:
    """The value of a replicate at a rung, from its checkpoint.

    Training evaluates its history in blocks, so the value compared is the first evaluation at or after the rung, and a
    replicate pauses at the end of that block. Both depend only on the cell.

    Args:
        cell: the cell.
        state: its checkpoint, (step, arrays), or None.
        rung: steps.
        column: of the history.

    Returns:
        The value; infinite where the replicate has diverged; None before that point.
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


class RungValues:
    """Values of a metric's history column at rungs, from rows and from checkpoints."""

    def __init__(self, store: Store, metric: Metric, worst: float) -> None:
        assert metric.rung_column is not None, "checked when the sweep file is read"
        self._store, self._metric, self._column, self._worst = store, metric, metric.rung_column, worst

    def of(self, cell: Cell, replicates: Collection[int], rung: int) -> float:
        """The median over a cell's replicates at a rung; one that failed or diverged counts as the worst."""
        values = self._stored(cell, rung)
        for replicate in set(replicates) - values.keys():
            state = self._store.checkpoints.latest(cell.cell_id, replicate)
            value = paused_value(cell, state, rung, self._column)
            if value is not None:
                values[replicate] = value
        if self._metric.relative:
            values = {replicate: value / squared_truth(cell, replicate) for replicate, value in values.items()}
        return cell_value(values, replicates, self._worst)

    def _stored(self, cell: Cell, rung: int) -> dict[int, float]:
        columns = ["replicate", "step", self._column]
        rows = self._store.history([cell.cell_id], where=[("step", ">=", rung)], columns=columns)
        first = rows.sort_values("step").drop_duplicates("replicate")
        return {int(r): float(value) for r, value in zip(first["replicate"], first[self._column], strict=True)}


def squared_truth(cell: Cell, replicate: int) -> float:
    """||M*||_F^2 of a replicate's problem."""
    if cell.ground_truth != "gaussian_factors":
        return 1.0  # by definition
    import dataclasses

    from flatdist.cells.problems import frobenius_norm, sample_arrays

    one = dataclasses.replace(cell, n=1, nested=True) if cell.nested else cell  # M* does not depend on n then
    return frobenius_norm(sample_arrays(one, replicate).ground_truth) ** 2
