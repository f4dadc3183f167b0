"""Thresholds: the number of measurements at which half of the replicates succeed, with honest intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flatdist.errors import FitError
from flatdist.fits.clustered import clustered_profile
from flatdist.fits.grouping import (
    as_value,
    group_rows,
    panel_columns,
    series_columns,
    varying_fields,
)
from flatdist.fits.success import label_success, require_columns, resolve_tolerance
from flatdist.threshold import Interval
from flatdist.threshold.interval import judge, one_value
from flatdist.threshold.likelihood import LINKS, Observations, Profile, likelihood_drop, profile, quantile

UNITS = ("auto", "trial", "replicate")
CONTEXT = ("d_out", "d_in", "rank", "ensemble", "depth")


@dataclass(frozen=True)
class FitSettings:
    """How thresholds are fitted.

    Attributes:
        link: ``logit`` or ``probit`` regression on log n.
        level: confidence level of the profile-likelihood intervals.
        unit: what is independent: every ``trial``, or the ``replicate`` with all its n. ``auto`` takes the replicate
            where problems are nested, and the trial elsewhere.
    """

    link: str = "logit"
    level: float = 0.95
    unit: str = "auto"

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise FitError(f"link={self.link!r} is not known; allowed: {', '.join(LINKS)}")
        if self.unit not in UNITS:
            raise FitError(f"unit={self.unit!r} is not known; allowed: {', '.join(UNITS)}")
        if not 0.0 < self.level < 1.0:
            raise FitError(f"level={self.level!r} is not a confidence level; allowed: between 0 and 1, such as 0.95")


def fit_thresholds(
    trials: pd.DataFrame,
    by: Sequence[str] | str = ("method", "rank"),
    tolerance: float | None = None,
    *,
    link: str = "logit",
    level: float = 0.95,
    unit: str = "auto",
) -> pd.DataFrame:
    """Fit n50, the n at which half of the replicates succeed, for each group of trials.

    P(success at n) = F((log n - log n50) / scale), by maximum likelihood with profile-likelihood intervals; the
    replicate is the unit where the same replicates recur at several n. Diverged replicates are failures.

    Args:
        trials: one row per replicate, with at least ``n``, ``replicate``, ``relative_error`` and the columns of ``by``.
        by: columns whose values make a group.
        tolerance: success is relative_error < tolerance; by default the loosest default of the methods present (1e-2
            for methods that train, 1e-6 for solvers), the same for all groups, so that they can be compared.
        link: ``logit`` (F logistic) or ``probit`` (F normal).
        level: confidence level.
        unit: ``auto``, ``trial`` or ``replicate``, see :class:`FitSettings`.

    Returns:
        One row per group, in the order of the groups' values: the columns of ``by``, then

        - ``n50``, ``n50_low``, ``n50_high``: estimate and interval, in measurements. ``n50`` is NaN where censored
          left, right or unresolved; limits are 0 or infinite where the data do not bound n50.
        - ``censored``: ``none``; ``interval`` (all fail up to one n and all succeed from the next: n50 is only known to
          lie between them, and the estimate is their geometric middle); ``left`` (n50 is below the smallest n);
          ``right`` (above the largest); ``unresolved`` (success does not rise with n).
        - ``transition``, ``transition_low``, ``transition_high``: from 10 to 90 % success, in measurements;
          ``scale``, that of log n; ``n_spacing``, between the measured n on either side of n50: a transition narrower
          than that is not resolved.
        - ``n_replicates`` (trials fitted), ``n_values`` (different n), ``n_min``, ``n_max``, ``n_diverged``,
          ``n_unconverged``, and ``n50_converged``: n50 without the diverged and unconverged replicates.
        - ``n50_other_link``: n50 under the other link; ``link``, ``unit``, ``tolerance``: how it was fitted.
        - ``d_out``, ``d_in``, ``rank``, ``ensemble``, ``depth``: where not in ``by``, and one value in every group.

    Raises:
        FitError: no trials, an unknown column, or settings that are not allowed.
    """
    settings = FitSettings(link, level, unit)
    by = [by] if isinstance(by, str) else list(by)
    require_columns(trials, by, "grouping columns")
    tolerance = resolve_tolerance(trials, tolerance)
    labelled = label_success(trials, tolerance)
    rows = []
    mixed: set[str] = set()
    for key, group in group_rows(labelled, by):
        mixed |= set(varying_fields(group, by))
        rows.append({**key, **_fit_group(group, settings), "tolerance": tolerance})
    if mixed:
        warnings.warn(
            f"groups mix trials that differ in {', '.join(sorted(mixed))}; add these columns to `by` unless pooling "
            "them is meant",
            UserWarning,
            stacklevel=2,
        )
    return pd.DataFrame([{**row, **about} for row, about in zip(rows, _context(labelled, by), strict=True)])


def _context(labelled: pd.DataFrame, by: Sequence[str]) -> list[dict[str, Any]]:
    """For each group, the problem's fields that have one value in every group: what laws are fitted against."""
    names = [name for name in CONTEXT if name in labelled and name not in by]
    seen = [
        {name: {as_value(value) for value in group[name]} for name in names} for _, group in group_rows(labelled, by)
    ]
    single = [name for name in names if all(len(values[name]) == 1 for values in seen)]
    return [{name: next(iter(values[name])) for name in single} for values in seen]


def _fit_group(group: pd.DataFrame, settings: FitSettings) -> dict[str, Any]:
    """Everything about one group but its key."""
    lost = group["diverged"] | group["unconverged"]
    estimate = estimate_threshold(group, settings)
    if not lost.any():
        converged = estimate
    else:
        converged = estimate_threshold(group[~lost], settings) if (~lost).any() else {"n50": math.nan}
    other = FitSettings(LINKS[1 - LINKS.index(settings.link)], settings.level, settings.unit)
    return {
        **estimate,
        "n_replicates": len(group),
        "n_values": int(group["n"].nunique()),
        "n_spacing": _spacing(group["n"].to_numpy(dtype=float), estimate["n50"]),
        "n_min": float(group["n"].min()),
        "n_max": float(group["n"].max()),
        "n_diverged": int(group["diverged"].sum()),
        "n_unconverged": int(group["unconverged"].sum()),
        "n50_converged": converged["n50"],
        "n50_other_link": estimate_threshold(group, other)["n50"],
        "link": settings.link,
        "unit": independent_unit(group, settings.unit),
    }


def _spacing(n: np.ndarray, n50: float) -> float:
    """Between the measured n on either side of n50; NaN where it is not bracketed."""
    below, above = n[n <= n50], n[n > n50]
    return float(above.min() - below.max()) if len(below) and len(above) else math.nan


def independent_unit(group: pd.DataFrame, unit: str) -> str:
    """``trial`` or ``replicate``: what can be taken as independent in this group."""
    if unit != "auto":
        return unit
    return "replicate" if "nested" in group and group["nested"].fillna(False).astype(bool).any() else "trial"


def estimate_threshold(group: pd.DataFrame, settings: FitSettings) -> dict[str, Any]:
    """n50, its interval, whether it is censored, and the transition's width, for one group of labelled trials."""
    log_n = np.log(group["n"].to_numpy(dtype=float))
    success = group["success"].to_numpy(dtype=bool)
    values = np.unique(log_n)
    if len(values) == 1:
        return _row(one_value(values[0], success, settings.level))
    replicates = group["replicate"].to_numpy()
    units: int | None = None
    if independent_unit(group, settings.unit) == "trial":
        observations = Observations.of_trials(log_n, success)
    else:
        units = len(np.unique(replicates))
        intervals = replicate_intervals(log_n, success, replicates)
        if intervals is None:
            drop = likelihood_drop(settings.level, units)
            return _report(clustered_profile(log_n, success, replicates, drop), values, settings, None)
        observations = Observations.of(*intervals)
    fitted = profile(observations, values, settings.link, settings.level, units)
    return _report(fitted, values, settings, observations)


def replicate_intervals(
    log_n: np.ndarray, success: np.ndarray, replicates: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Each replicate's last failure and first success, -inf and inf where it has none; None where one fails after
    it succeeded.
    """
    _, index = np.unique(replicates, return_inverse=True)
    low, high = np.full(index.max() + 1, -np.inf), np.full(index.max() + 1, np.inf)
    np.maximum.at(low, index[~success], log_n[~success])
    np.minimum.at(high, index[success], log_n[success])
    return (low, high) if np.all(low < high) else None


def _report(
    fitted: Profile, values: np.ndarray, settings: FitSettings, observations: Observations | None
) -> dict[str, Any]:
    """Put a fit in words: is n50 bracketed, and how wide is the transition."""
    found = judge(fitted, values, observations)
    row = _row(found)
    if math.isnan(found.n50):
        return row
    reach = quantile(settings.link, 0.9)

    def width(slope: float) -> float:
        return 2.0 * found.n50 * math.sinh(reach / slope) if slope > 0 and reach / slope < 700 else math.inf

    separated = found.censored == "interval"
    row["scale"] = math.nan if separated else 1.0 / fitted.slope
    row["transition"] = math.nan if separated else width(fitted.slope)
    row["transition_low"], row["transition_high"] = width(fitted.slope_high), width(fitted.slope_low)
    return row


def _row(found: Interval) -> dict[str, Any]:
    return {
        "n50": found.n50,
        "n50_low": found.low,
        "n50_high": found.high,
        "censored": found.censored,
        "transition": math.nan,
        "transition_low": math.nan,
        "transition_high": math.nan,
        "scale": math.nan,
    }


def grouping(trials: pd.DataFrame) -> list[str]:
    """The columns that this figure groups trials by."""
    return [*series_columns(trials), *panel_columns(trials)]


TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)


def fit_over_tolerances(
    trials: pd.DataFrame, by: Sequence[str], tolerances: Sequence[float] = TOLERANCES, link: str = "logit"
) -> pd.DataFrame:
    """The thresholds at every tolerance, stacked; ``tolerance`` tells them apart.

    Raises:
        FitError: no tolerances, or what :func:`flatdist.fits.threshold.fit_thresholds` raises.
    """
    if not tolerances:
        raise FitError("no tolerances are given; allowed: one or more positive numbers")
    tables = [fit_thresholds(trials, by=by, tolerance=tolerance, link=link) for tolerance in tolerances]
    return pd.concat(tables, ignore_index=True)
