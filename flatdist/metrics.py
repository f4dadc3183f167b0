"""What is measured of a training run: losses, norms and flatness at evaluated steps, and the final row.

Evaluations are computed in blocks of a fixed number of slots, empty slots zero, so that a value has the same bits
whether it was computed with its neighbours, alone, or after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flatdist.factorization import end_to_end
from flatdist.flatness import MomentTrace
from flatdist.problems import Problem, frobenius_norm
from flatdist.types import Array

BLOCK = 8  # evaluations computed together
CONVERGED_LOSS = 1e-4  # of the mean squared label
TRACE_SHARE = 0.03  # of the training arithmetic that the Hessian trace of the history may cost


class Evaluator:
    """Evaluates one replicate's layers against its problem."""

    def __init__(self, problem: Problem[Array], measurements: Array, depth: int, evaluations: int) -> None:
        """Prepare the evaluations of one replicate.

        Args:
            problem: the replicate's problem in float64; its measurements are not kept.
            measurements: (n, d_out, d_in) as trained on: float32, float64 or int8.
            depth: number of layers.
            evaluations: about how many there will be.
        """
        self.measurements = measurements.reshape(len(measurements), -1)
        self.labels = problem.labels
        self.ground_truth = problem.ground_truth
        self.trace = MomentTrace(measurements, depth, evaluations)

    def __call__(self, layers: Sequence[Array], with_trace: Sequence[bool]) -> dict[str, Array]:
        """Evaluate up to ``BLOCK`` sets of layers.

        Args:
            layers: W_1 ... W_L, each (BLOCK, d_{j+1}, d_j) float64; unused slots zero.
            with_trace: (BLOCK,) where the trace of the Hessian is wanted.

        Returns:
            ``train_loss``, ``population_loss``, ``nuclear_norm`` and ``hessian_trace`` (NaN where not wanted), (BLOCK,).
        """
        assert len(layers[0]) == len(with_trace) == BLOCK
        product = end_to_end(layers)  # (BLOCK, d_out, d_in)
        finite = np.isfinite(product).all(axis=(-2, -1))
        product = np.where(finite[:, None, None], product, 0.0)
        trace = np.full(BLOCK, np.nan)
        if any(with_trace):
            chosen = finite & np.asarray(with_trace)
            trace = np.where(chosen, self.trace([np.where(chosen[:, None, None], w, 0.0) for w in layers]), np.nan)
        values = {
            "train_loss": self._train_loss(product),
            "population_loss": np.sum((product - self.ground_truth) ** 2, axis=(-2, -1)),
            "nuclear_norm": np.linalg.svd(product, compute_uv=False).sum(axis=-1),
            "hessian_trace": trace,
        }
        return {name: np.where(finite, value, np.nan) for name, value in values.items()}

    def _train_loss(self, product: Array) -> Array:
        dtype = np.result_type(self.measurements.dtype, np.float32)
        columns = product.reshape(BLOCK, -1).T.astype(dtype)  # (entries, BLOCK)
        total = np.zeros(BLOCK)
        rows = max(1, 2**18 // len(columns))
        for start in range(0, len(self.labels), rows):
            predictions = self.measurements[start : start + rows].astype(dtype, copy=False) @ columns  # (rows, BLOCK)
            residuals = predictions.astype(np.float64) - self.labels[start : start + rows, None]
            total += np.sum(residuals**2, axis=0)
        return total / len(self.labels)


def final_metrics(matrix: Array | None, problem: Problem[Array]) -> dict[str, Any]:
    """The columns of a result that depend on the answer alone; null where there is no finite answer.

    ``effective_rank`` is exp of the entropy of the singular values divided by their sum (Roy, Vetterli 2007).
    """
    truth_norm = frobenius_norm(problem.ground_truth)
    row: dict[str, Any] = {"nuclear_norm_truth": float(np.linalg.svd(problem.ground_truth, compute_uv=False).sum())}
    if matrix is None:
        return row
    singular = np.linalg.svd(matrix, compute_uv=False)
    population = float(np.sum((matrix - problem.ground_truth) ** 2))
    weights = singular / singular.sum() if singular.sum() > 0 else np.zeros_like(singular)
    positive = weights[weights > 0]
    return row | {
        "population_loss": population,
        "relative_error": population / truth_norm**2,
        "nuclear_norm": float(singular.sum()),
        "frobenius_norm": frobenius_norm(matrix),
        "spectral_norm": float(singular[0]),
        "effective_rank": float(np.exp(-np.sum(positive * np.log(positive)))),
        "singular_values": [float(value) for value in singular],
    }


def evaluation_steps(steps: int, evaluations: int) -> Array:
    """Steps at which a run is evaluated: evenly spaced, 0 and ``steps`` always among them, (evaluations or fewer,)."""
    return np.unique(np.round(np.linspace(0, steps, min(evaluations, steps + 1))).astype(np.int64))


def trace_evaluations(
    steps: int, evaluations: int, n: int, d_out: int, d_in: int, depth: int, batch: int
) -> list[bool]:
    """Which evaluations include the trace of the Hessian: all while it is cheap, else evenly spaced ones.

    The first and the last always do. The number depends on the cell alone: the arithmetic of the traces stays below
    ``TRACE_SHARE`` of the arithmetic of the training steps.
    """
    count = len(evaluation_steps(steps, evaluations))
    largest = max(d_out, d_in)
    step_cost = 4 * batch * d_out * d_in + 6 * depth * d_out * d_in * largest
    middle = (depth - 2) * min(4 * n * d_out * d_in * largest, (d_out * d_in) ** 2)
    trace_cost = middle + 4 * d_out * d_in * largest
    affordable = int(TRACE_SHARE * steps * step_cost / trace_cost)
    chosen = evaluation_steps(count - 1, max(2, min(count, affordable)))
    return [index in set(chosen.tolist()) for index in range(count)]
