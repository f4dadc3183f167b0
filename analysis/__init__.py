"""Scripts: ``python -m analysis.NAME SWEEP`` draws one question's figure with the functions of flatdist."""

from __future__ import annotations

from typing import Any

__all__ = ["fit_scaling", "fit_thresholds"]


def __getattr__(name: str) -> Any:
    if name == "fit_thresholds":
        from flatdist.fits.threshold import fit_thresholds

        return fit_thresholds
    if name == "fit_scaling":
        from flatdist.fits.scaling import fit_scaling

        return fit_scaling
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
