"""From tables of trials to tables of findings to figures: DataFrame -> DataFrame -> Figure.

Nothing here loads torch, ray or numba. Every figure is also a command: ``python -m analysis.NAME SWEEP``.
"""

from __future__ import annotations

from analysis.scaling import fit_scaling
from analysis.threshold import fit_thresholds

__all__ = ["fit_scaling", "fit_thresholds"]
