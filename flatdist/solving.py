"""Solving one cell's replicates by a method that computes its answer together with a certificate of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from flatdist.cell import Cell
from flatdist.factorization import end_to_end
from flatdist.flatness import hessian_trace
from flatdist.methods.base import SolverMethod
from flatdist.metrics import final_metrics
from flatdist.problems import sample_arrays
from flatdist.training import Hooks, Interrupted


def solve(cell: Cell, replicates: Sequence[int], hooks: Hooks) -> Iterator[tuple[int, dict[str, Any], list[Any]]]:
    """Solve replicates of a cell one after the other.

    Args:
        cell: a cell of a solver method.
        replicates: numbers of the replicates.
        hooks: progress and interruption; a solver is interrupted between replicates.

    Yields:
        Per replicate its number, the measured columns of its ``trials`` row, and no history.
    """
    method = cell.spec
    assert isinstance(method, SolverMethod)
    module, function = method.solver.split(":")
    solver = getattr(import_module(module), function)
    options = {"depth": cell.depth, "width": cell.width} if method.has_layers else {}
    for replicate in replicates:
        if hooks.should_stop():
            raise Interrupted
        started = time.perf_counter()
        problem = sample_arrays(cell, replicate)
        answer, certificate = solver(problem.measurements, problem.labels, **options, return_certificate=True)
        layers = [np.asarray(layer) for layer in answer] if method.has_layers else None
        matrix = np.asarray(answer) if layers is None else end_to_end(layers)
        residuals = np.einsum("iab,ab->i", problem.measurements, matrix) - problem.labels
        trial = final_metrics(matrix, problem) | {
            "status": "converged" if bool(certificate.converged) else "budget_exhausted",
            "train_loss": float(np.mean(residuals**2)),
            "hessian_trace": None if layers is None else float(hessian_trace(layers, problem.measurements)),
            "certificate": float(certificate.value),
            "wall_seconds": time.perf_counter() - started,
        }
        hooks.on_steps(1)
        yield replicate, trial, []
