"""The flow that label-noise SGD follows at small learning rates, from SGD's own starting layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.problems import Problem
from flatdist.factorization.evaluation import final_metrics
from flatdist.factorization.flow import descend_to_zero_loss, flow
from flatdist.factorization.products import initial_layers
from flatdist.types import Array


def flow_limit(cell: Cell, replicate: int, problem: Problem[Array]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Descend to zero loss from the layers that SGD starts from, then follow the flow for ``flow_duration``.

    A learning rate that tends to 0 spends no flow time on the way to zero loss, so the clock starts there.

    Returns:
        The measured columns of the trial, its ``certificate`` the largest relative residual of the labels on the way,
        and ``evaluations`` evenly spaced rows of history, which ``step`` counts.

    Raises:
        SolverError: zero loss is not reached, or the flow cannot be followed.
    """
    stack, labels, truth = problem.measurements, problem.labels, problem.ground_truth
    layers = descend_to_zero_loss(initial_layers(cell, replicate), stack, labels)
    path = flow(layers, stack, labels, np.linspace(0.0, cell.flow_duration, cell.evaluations))
    history = [
        {
            "step": step,
            "flow_time": float(time),
            "hessian_trace": float(trace),
            "train_loss": float(np.mean((np.einsum("iab,ab->i", stack, matrix) - labels) ** 2)),
            "population_loss": float(np.sum((matrix - truth) ** 2)),
            "nuclear_norm": float(np.linalg.svd(matrix, compute_uv=False).sum()),
        }
        for step, (time, trace, matrix) in enumerate(zip(path.times, path.traces, path.matrices, strict=True))
    ]
    return final_metrics(path.matrices[-1], problem) | {
        "status": "converged",
        "train_loss": history[-1]["train_loss"],
        "hessian_trace": history[-1]["hessian_trace"],
        "certificate": path.residual,
        "flow_time": cell.flow_duration,
    }, history
