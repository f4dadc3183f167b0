"""From tables of trials to tables of findings: thresholds, laws, pairs. DataFrame in, DataFrame out."""

from flatdist.fits.extrapolation import differences, gaps, paths, to_zero
from flatdist.fits.first_success import agreement_lines, mean_first_success, paired_first_success
from flatdist.fits.grouping import panel_columns, series_columns
from flatdist.fits.paired import mean_differences, paired_differences
from flatdist.fits.ratios import changes, ratios, series_of, summarise
from flatdist.fits.risk import error_ratios, quantile_test, ratios_by_regime, risk_table
from flatdist.fits.scaling import Fits, fit_all, fit_scaling, fit_width_law
from flatdist.fits.success import label_success, success_rates
from flatdist.fits.theorem_checks import run_checks, verdict_table
from flatdist.fits.threshold import fit_over_tolerances, fit_thresholds, grouping

__all__ = [
    "Fits", "agreement_lines", "changes", "differences", "error_ratios", "fit_all", "fit_over_tolerances",
    "fit_scaling", "fit_thresholds", "fit_width_law", "gaps", "grouping", "label_success", "mean_differences",
    "mean_first_success", "paired_differences", "paired_first_success", "panel_columns", "paths", "quantile_test",
    "ratios", "ratios_by_regime", "risk_table", "run_checks", "series_columns", "series_of", "success_rates",
    "summarise", "to_zero", "verdict_table",
]  # fmt: skip
