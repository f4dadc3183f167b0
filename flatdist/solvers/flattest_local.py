"""The local condition of the flattest interpolator as a method: does the ground truth have nu < 1?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.problems import Problem
from flatdist.factorization.local_flatness import normal_condition
from flatdist.types import Array

_WIDTH = 1e-2  # relative width of the bracket that a row keeps, where it is far from 1


def flattest_local(cell: Cell, replicate: int, problem: Problem[Array]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The columns of a trial, and no history: ``nu_low`` and ``nu_high`` at the ground truth, and what they decide."""
    low, high = nu_bracket(problem, cell.depth)
    return {
        "nuclear_norm_truth": float(np.linalg.svd(problem.ground_truth, compute_uv=False).sum()),
        "relative_error": 0.0 if high < 1.0 else 1.0,
        "status": "budget_exhausted" if low <= 1.0 <= high else "converged",
        "certificate": 0.0 if math.isinf(high) or not high else high / low - 1.0,
        "nu_low": low,
        "nu_high": high,
    }, []


def nu_bracket(problem: Problem[Array], depth: int | None) -> tuple[float, float]:
    """Bounds on nu at the ground truth, to 1 %, and on one side of 1 if nu is more than 1e-6 away from it.

    Args:
        problem: measurements and ground truth.
        depth: None is infinite.

    Raises:
        SolverError: F is not attained at the ground truth.
    """
    truth, stack = problem.ground_truth, np.asarray(problem.measurements, dtype=np.float64)
    condition = normal_condition(truth / np.linalg.norm(truth), stack, math.inf if depth is None else depth)
    return (math.inf, math.inf) if condition is None else condition.bracket(_WIDTH)[:2]
