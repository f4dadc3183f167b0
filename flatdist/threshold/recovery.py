"""When a replicate counts as having recovered its ground truth."""

from __future__ import annotations

import math

from flatdist.methods import METHODS
from flatdist.methods.base import SGD_TOLERANCE


def default_tolerance(method: str) -> float:
    """The relative error below which a replicate of a method is a success by default."""
    return METHODS[method].tolerance if method in METHODS else SGD_TOLERANCE


def recovered(relative_error: float | None, status: str | None, tolerance: float) -> bool:
    """Whether a replicate is a success: relative_error < tolerance; a diverged one never is."""
    if relative_error is None or status == "diverged" or not math.isfinite(relative_error):
        return False
    return relative_error < tolerance
