"""Everything that ``analysis.scaling`` fits to a sweep: thresholds, their laws, and the widths of the transitions."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from flatdist.figures.collapse import collapse_table, fit_width_law
from flatdist.figures.command import Request
from flatdist.figures.layout import series_columns
from flatdist.figures.sample_complexity import grouping
from flatdist.figures.scaling import fit_scaling
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import require_columns, resolve_tolerance
from flatdist.fits.threshold import fit_thresholds


@dataclass(frozen=True)
class Fits:
    """What the two pictures show.

    Attributes:
        tolerance: of a success.
        by: columns that thresholds are grouped by.
        series: those of them that make a colour.
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`.
        laws: from :func:`analysis.fit_scaling`.
        widths: from :func:`flatdist.figures.collapse.fit_width_law`.
        collapsed: from :func:`flatdist.figures.collapse.collapse_table`.
    """

    tolerance: float
    by: list[str]
    series: list[str]
    thresholds: pd.DataFrame
    laws: pd.DataFrame
    widths: pd.DataFrame
    collapsed: pd.DataFrame


def fit_all(request: Request, trials: pd.DataFrame) -> Fits:
    """Fit thresholds, laws and widths.

    Raises:
        FitError: the trials lack columns, or no threshold is bracketed by its data.
    """
    require_columns(trials, SHAPE, "needed columns")
    tolerance = resolve_tolerance(trials, request.tolerance)
    by = list(dict.fromkeys([*grouping(trials), *SHAPE]))
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=request.link)
    series = series_columns(trials)
    laws = fit_scaling(thresholds, by=series)
    widths = fit_width_law(thresholds, series)
    return Fits(tolerance, by, series, thresholds, laws, widths, collapse_table(trials, thresholds, by, tolerance))
