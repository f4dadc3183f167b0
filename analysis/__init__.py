"""From tables of trials to tables of findings to figures: DataFrame -> DataFrame -> Figure.

Nothing here loads torch, ray or numba. Run as ``python -m analysis.NAME SWEEP``: sample_complexity, phase_diagram,
tolerance, paired, scaling (with the collapse of the transitions), training_curves, theorems, flow_limit,
flatness_gap, risk and risk_steps. The other modules are functions for notebooks and for these.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.scaling import fit_scaling as fit_scaling
    from analysis.threshold import fit_thresholds as fit_thresholds

# Loaded when first used, so that ``python -m analysis.scaling`` does not import its own module beforehand.
_HOMES = {"fit_scaling": "analysis.scaling", "fit_thresholds": "analysis.threshold"}

__all__ = ["fit_scaling", "fit_thresholds"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
