"""Finite-size scaling: success against (n - n50) / width is one curve for all shapes, and width grows as sqrt(d d')."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.grouping import group_rows
from analysis.layout import matching
from analysis.power_law import COEFFICIENT, EXPONENT, fit_power_law, profile_limits
from analysis.sample_complexity import success_rates
from analysis.scaling import points_of
from flatdist.boundary.likelihood import quantile


def collapse_table(trials: pd.DataFrame, thresholds: pd.DataFrame, by: Sequence[str], tolerance: float) -> pd.DataFrame:
    """Success rates of every group with a measured width, on its own scale.

    Returns:
        The columns of :func:`analysis.sample_complexity.success_rates` and ``z`` = (n - n50) / width, with the width
        from 10 to 90 % success.
    """
    rates = success_rates(trials, by, tolerance)
    parts = []
    for key, fits in group_rows(thresholds, by):
        fit = fits.iloc[0]
        if fit["censored"] == "none" and fit["transition"] > 0 and math.isfinite(fit["transition"]):
            mine = matching(rates, key)
            parts.append(mine.assign(z=(mine["n"] - fit["n50"]) / fit["transition"]))
    return pd.concat(parts, ignore_index=True) if parts else rates.iloc[:0].assign(z=pd.Series(dtype=float))


def master_curve(z: np.ndarray) -> np.ndarray:
    """The logistic curve that rises from 10 to 90 % over one unit of z."""
    return np.asarray(1.0 / (1.0 + np.exp(-2.0 * quantile("logit", 0.9) * z)))


def fit_width_law(thresholds: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Fit width = c (d d')^a in each group; theory's order of magnitude is a = 1/2.

    Returns:
        One row per group with at least three shapes of different size: the columns of ``by``, ``coefficient``,
        ``exponent`` with limits, ``n_shapes``.
    """
    rows: list[dict[str, Any]] = []
    for key, group in group_rows(thresholds[thresholds["censored"] == "none"], by):
        points = points_of(group, "entries", "transition", level)
        if points.shapes < 3 or np.ptp(points.x) < 1e-9:
            continue
        best = fit_power_law(points)
        row: dict[str, Any] = {"n_shapes": points.shapes, "coefficient": math.exp(best.parameters[COEFFICIENT])}
        row["exponent"] = best.parameters[EXPONENT]
        row["exponent_low"], row["exponent_high"] = profile_limits(points, best, EXPONENT, level)
        rows.append({**key, **row})
    return pd.DataFrame(rows)
