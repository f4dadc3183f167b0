"""The measurements of a training run: losses, norms and flatness at evaluated steps, and the final row.

Evaluations are computed in blocks of a fixed number of slots, empty slots zero, so that a value has the same bits
whether it was computed with its neighbours, alone, or after an interruption.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.columns import RESULTS, Answer
from flatdist.cells.problems import Problem, StoredProblem
from flatdist.factorization.flatness import MomentTrace, trace_cost
from flatdist.factorization.products import end_to_end
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.sensing.measurements import as_measurements
from flatdist.types import Array

BLOCK = 16  # evaluations computed together
CONVERGED_LOSS = 1e-4  # of the mean squared label
FEWEST_TRACES = 17  # in a history, however expensive
TRACE_SHARE = 0.02  # of the training arithmetic that the Hessian trace of the history may cost


class Evaluator:
    """Evaluates one replicate's layers against its problem, with its measurements stored as for training."""

    def __init__(
        self, problem: Problem[Array] | StoredProblem, depth: int, traces: int, dtype: str = "float32"
    ) -> None:
        """Prepare for that many ``traces`` of the Hessian.

        ``dtype`` is the least precision of the products; measurements stored as int8 do not determine it.
        """
        self.measurements = as_measurements(problem.measurements)
        self.dtype = np.result_type(self.measurements.dtype, dtype)
        self.labels = problem.labels
        self.ground_truth = problem.ground_truth
        self.trace = MomentTrace(self.measurements, depth, traces, dtype)

    def __call__(self, layers: Sequence[Array], with_trace: Sequence[bool] | Array) -> dict[str, Array]:
        """Evaluate up to ``BLOCK`` sets of layers, W_1 ... W_L (BLOCK, d_{j+1}, d_j) float64, unused slots zero.

        Returns:
            ``train_loss``, ``population_loss``, ``nuclear_norm``, ``hessian_trace`` (NaN if not requested), (BLOCK,).
        """
        assert len(layers[0]) == len(with_trace) == BLOCK
        product = end_to_end(layers)  # (BLOCK, d_out, d_in)
        finite = np.asarray(np.isfinite(product).reshape(BLOCK, -1).all(axis=1))
        chosen = finite & np.asarray(with_trace)
        if not finite.all():
            product = np.where(finite[:, None, None], product, 0.0)
        if not chosen.all():
            layers = [np.where(chosen[:, None, None], layer, 0.0) for layer in layers]
        difference = (product - self.ground_truth).reshape(BLOCK, -1)
        values = {
            "train_loss": self._train_loss(product),
            "population_loss": np.vecdot(difference, difference),
            "nuclear_norm": np.linalg.svdvals(product).sum(axis=-1),
        }
        if not finite.all():
            values = {name: np.where(finite, value, np.nan) for name, value in values.items()}
        trace = self.trace(layers) if chosen.any() else np.zeros(BLOCK)
        return values | {"hessian_trace": np.where(chosen, trace, np.nan)}

    def _train_loss(self, product: Array) -> Array:
        matrices = product.astype(self.dtype)  # (BLOCK, d_out, d_in)
        total = np.zeros(BLOCK)
        rows = max(1, 2**18 // product[0].size)
        for start in range(0, len(self.labels), rows):
            some = slice(start, start + rows)
            predictions = self.measurements.select(some).apply(matrices).T  # (rows, BLOCK)
            residuals = predictions.astype(np.float64) - self.labels[some, None]
            total += np.sum(residuals**2, axis=0)
        return total / len(self.labels)


def final_metrics(
    matrix: Array | None,
    problem: Problem[Array] | StoredProblem,
    singular: Array | None = None,
    singular_truth: Array | None = None,
) -> dict[str, Any]:
    """The columns of a result that depend only on the answer, and the ground truth's; null without a finite answer.

    Singular values of the answer and of the ground truth are computed unless they are given.
    """
    singular_truth = np.linalg.svdvals(problem.ground_truth) if singular_truth is None else singular_truth
    row: dict[str, Any] = {"nuclear_norm_truth": float(singular_truth.sum())}
    if matrix is None:
        return row
    answer = Answer(matrix, problem.ground_truth, np.linalg.svdvals(matrix) if singular is None else singular)
    return row | {one.name: np.asarray(one.answer(answer)).tolist() for one in RESULTS if one.answer is not None}


@functools.lru_cache(maxsize=256)
def evaluation_steps(steps: int, evaluations: int) -> Array:
    """Steps at which a run is evaluated: evenly spaced, including 0 and ``steps``; shape (evaluations or fewer,)."""
    found = np.unique(np.round(np.linspace(0, steps, min(evaluations, steps + 1))).astype(np.int64))
    found.flags.writeable = False  # it is kept
    return found


@functools.lru_cache(maxsize=4096)
def trace_evaluations(cell: Cell, batch: int) -> list[bool]:
    """Which evaluations of a training run include the trace of the Hessian: all if it is cheap, otherwise a few.

    They are evenly spaced and include the first and the last. Their number depends only on the cell: the arithmetic of
    the traces stays below ``TRACE_SHARE`` of that of the training steps, each of whose gradients takes ``batch``
    measurements, but there are at least ``FEWEST_TRACES``.
    """
    entries, largest = cell.d_out * cell.d_in, max(cell.d_out, cell.d_in)
    training = cell.steps * (4 * batch * entries + 6 * cell.depth * entries * largest)
    count = len(evaluation_steps(cell.steps, cell.evaluations))
    storage = ENSEMBLES[cell.ensemble].storage
    affordable = bisect.bisect_right(
        range(count + 1),
        TRACE_SHARE * training,
        key=lambda evaluations: trace_cost(cell.n, cell.d_out, cell.d_in, cell.depth, evaluations, storage),
    )
    chosen = set(evaluation_steps(count - 1, max(FEWEST_TRACES, affordable - 1)).tolist())
    return [index in chosen for index in range(count)]
