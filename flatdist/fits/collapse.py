"""Finite-size scaling: success against (n - n50) / width is one curve for all shapes, and width grows as sqrt(d d')."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flatdist.fits.grouping import group_rows, matching, series_columns
from flatdist.fits.power_law import COEFFICIENT, EXPONENT, fit_power_law, profile_limits
from flatdist.fits.scaling import fit_scaling, points_of
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import require_columns, resolve_tolerance, success_rates
from flatdist.fits.threshold import fit_thresholds, grouping
from flatdist.threshold.curves import quantile

RESOLVED, BELOW, UNKNOWN = "none", "left", "unresolved"


def width_table(thresholds: pd.DataFrame) -> pd.DataFrame:
    """The width of each transition, as far as the measured n resolve it.

    A width below the distance between the n on either side of n50 reflects the grid rather than the transition, so it
    is only an upper bound.

    Args:
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`.

    Returns:
        The thresholds with ``width``, ``width_low``, ``width_high`` (from 10 to 90 % success, in measurements) and
        ``width_censored``: ``none``; ``left`` (only ``width_high`` is known: the larger of the grid's distance and the
        end of the fitted interval); ``unresolved`` (nothing is known).
    """
    width, low, high = (thresholds[f"transition{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    spacing = thresholds["n_spacing"].to_numpy(dtype=float)
    bracketed = thresholds["censored"].isin(["none", "interval"]).to_numpy() & np.isfinite(high)
    resolved = bracketed & (thresholds["censored"] == "none").to_numpy() & (width > 0) & ~(width < spacing)
    kind = np.where(resolved, RESOLVED, np.where(bracketed, BELOW, UNKNOWN))
    return thresholds.assign(
        width=np.where(resolved, width, np.nan),
        width_low=np.where(resolved, low, 0.0),
        width_high=np.where(resolved, high, np.where(bracketed, np.fmax(high, spacing), np.inf)),
        width_censored=kind,
    )


def unresolved_lines(thresholds: pd.DataFrame) -> list[str]:
    """A remark on the transitions that the measured n do not resolve; no line if they resolve all."""
    kinds = width_table(thresholds)["width_censored"].value_counts()
    below, known = int(kinds.get(BELOW, 0)), int(kinds.get(BELOW, 0) + kinds.get(RESOLVED, 0))
    text = (
        f"{below} of {known} transitions are narrower than the distance between the measured n: the width's law takes "
        "them as upper bounds, and the collapse leaves them out; finer n would resolve them"
    )
    return [text] if below else []


def collapse_table(trials: pd.DataFrame, thresholds: pd.DataFrame, by: Sequence[str], tolerance: float) -> pd.DataFrame:
    """Success rates of every group whose width the measured n resolve, on its own scale.

    Returns:
        The columns of :func:`flatdist.fits.success.success_rates` and ``z`` = (n - n50) / width, with
        the width from 10 to 90 % success.
    """
    rates = success_rates(trials, by, tolerance)
    parts = []
    for key, fits in group_rows(width_table(thresholds), by):
        fit = fits.iloc[0]
        if fit["width_censored"] == RESOLVED:
            mine = matching(rates, key)
            parts.append(mine.assign(z=(mine["n"] - fit["n50"]) / fit["width"]))
    return pd.concat(parts, ignore_index=True) if parts else rates.iloc[:0].assign(z=pd.Series(dtype=float))


def master_curve(z: np.ndarray) -> np.ndarray:
    """The logistic curve that rises from 10 to 90 % over one unit of z."""
    return np.asarray(1.0 / (1.0 + np.exp(-2.0 * quantile("logit", 0.9) * z)))


def fit_width_law(thresholds: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Fit width = c (d d')^a in each group; theory's order of magnitude is a = 1/2.

    Widths that the measured n do not resolve enter as the bounds that they are (:func:`width_table`).

    Returns:
        One row per group with at least three shapes of different size whose width is resolved: the columns of ``by``,
        ``coefficient``, ``exponent`` with limits, ``n_shapes``, ``n_unresolved`` (widths that are only bounds).
    """
    rows: list[dict[str, Any]] = []
    for key, group in group_rows(width_table(thresholds), by):
        points = points_of(group.assign(censored=group["width_censored"]), "entries", "width", level)
        resolved = points.select(~np.isnan(points.y))
        if resolved.shapes < 3 or np.ptp(resolved.x) < 1e-9:
            continue
        best = fit_power_law(points)
        row: dict[str, Any] = {"n_shapes": points.shapes, "n_unresolved": len(points.x) - len(resolved.x)}
        row["coefficient"] = math.exp(best.parameters[COEFFICIENT])
        row["exponent"] = best.parameters[EXPONENT]
        row["exponent_low"], row["exponent_high"] = profile_limits(points, EXPONENT, level)
        rows.append({**key, **row})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Fits:
    """What the two figures show.

    Attributes:
        tolerance: of a success.
        by: columns that thresholds are grouped by.
        series: those of them that make a colour.
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`.
        laws: from :func:`flatdist.fit_scaling`.
        widths: from :func:`flatdist.fits.collapse.fit_width_law`.
        collapsed: from :func:`flatdist.fits.collapse.collapse_table`.
    """

    tolerance: float
    by: list[str]
    series: list[str]
    thresholds: pd.DataFrame
    laws: pd.DataFrame
    widths: pd.DataFrame
    collapsed: pd.DataFrame


def fit_all(trials: pd.DataFrame, tolerance: float | None = None, link: str = "auto") -> Fits:
    """Fit thresholds, laws and widths.

    Raises:
        FitError: the trials lack columns, or no threshold is bracketed by its data.
    """
    require_columns(trials, SHAPE, "needed columns")
    tolerance = resolve_tolerance(trials, tolerance)
    by = list(dict.fromkeys([*grouping(trials), *SHAPE]))
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=link)
    series = series_columns(trials)
    laws = fit_scaling(thresholds, by=series)
    widths = fit_width_law(thresholds, series)
    return Fits(tolerance, by, series, thresholds, laws, widths, collapse_table(trials, thresholds, by, tolerance))
