"""When a replicate counts as having recovered its ground truth."""

from __future__ import annotations

import math

from flatdist.methods import METHODS
from flatdist.methods.base import GradientMethod

SGD_TOLERANCE = 1e-2  # annealed label noise ends at 1e-3 ... 1e-5; the noise floor of short runs is above that
SOLVER_TOLERANCE = 1e-6  # float64 solvers tell exact recovery from a near miss


def default_tolerance(method: str) -> float:
    """The relative error below which one method's replicate is a success by default."""
    spec = METHODS.get(method)
    return SGD_TOLERANCE if spec is None or isinstance(spec, GradientMethod) else SOLVER_TOLERANCE


def recovered(relative_error: float | None, status: str | None, tolerance: float) -> bool:
    """Whether a replicate is a success: relative_error < tolerance; a diverged one never is."""
    if relative_error is None or status == "diverged" or not math.isfinite(relative_error):
        return False
    return relative_error < tolerance
