"""Scripts: ``python -m analysis.NAME SWEEP`` draws one question's figure with the functions of flatdist."""

from flatdist import fit_scaling, fit_thresholds

__all__ = ["fit_scaling", "fit_thresholds"]
