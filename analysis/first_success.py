"""On nested problems every replicate has its own N, the first n at which it succeeds: is E[N] = delta + 1/2?

For nuclear-norm minimisation with Gaussian measurements conic kinematics says so exactly, with delta the statistical
dimension; other methods' N on the same measurement streams show by how much they miss it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.grouping import group_rows
from analysis.success import label_success, require_columns, resolve_tolerance
from flatdist.errors import FitError
from flatdist.theory import statistical_dimension


def first_successes(trials: pd.DataFrame, by: Sequence[str], tolerance: float | None = None) -> pd.DataFrame:
    """Each replicate's last failure and first success.

    Returns:
        The columns of ``by``, ``replicate``, ``n_low`` (largest n it failed at below every success, 0 without one),
        ``n_high`` (smallest n it succeeded at, infinite without one), ``exact`` (they are neighbours), ``monotone`` (no
        failure above a success) and ``n_first``, the middle of the whole numbers that N can be; NaN without a success.

    Raises:
        FitError: missing columns, or problems that are not nested.
    """
    require_columns(trials, (*by, "nested"), "needed columns")
    if not trials["nested"].fillna(False).astype(bool).all():
        raise FitError(
            "first successes need nested problems: run the sweep with nested: true, or select its nested cells"
        )
    labelled = label_success(trials, resolve_tolerance(trials, tolerance))
    rows = []
    for key, group in group_rows(labelled, [*by, "replicate"]):
        n, success = group["n"].to_numpy(dtype=float), group["success"].to_numpy(dtype=bool)
        high = float(n[success].min()) if success.any() else math.inf
        below = n[~success & (n < high)]
        low = float(below.max()) if len(below) else 0.0
        middle = 0.5 * (low + 1.0 + high) if math.isfinite(high) and len(below) else math.nan
        rows.append(
            {
                **key,
                "n_low": low,
                "n_high": high,
                "exact": high - low == 1.0,
                "monotone": bool(np.all(n[~success] < high)),
                "n_first": middle,
            }
        )
    return pd.DataFrame(rows)


def mean_first_success(
    trials: pd.DataFrame, by: Sequence[str], tolerance: float | None = None, level: float = 0.95
) -> pd.DataFrame:
    """E[N] in each group beside delta + 1/2.

    Args:
        trials: of nested problems, with ``d_out``, ``d_in`` and ``rank`` constant in each group.
        by: columns whose values make a group.
        tolerance: of the success; the default of the methods present.
        level: of the intervals, which are Student's.

    Returns:
        One row per group: the columns of ``by``, ``mean``, ``mean_low``, ``mean_high``, ``standard_error``,
        ``predicted`` = delta + 1/2, ``deviation`` in standard errors, ``n_replicates``, ``n_censored`` (replicates
        whose N the data do not bracket: with any, the mean is NaN), ``resolution`` (largest gap between n around an N).
    """
    require_columns(trials, ("d_out", "d_in", "rank"), "needed columns")
    first = first_successes(trials, list(dict.fromkeys([*by, "d_out", "d_in", "rank"])), tolerance)
    rows = []
    for key, group in group_rows(first, by):
        shapes = group[["d_out", "d_in", "rank"]].drop_duplicates()
        predicted = statistical_dimension(*(int(v) for v in shapes.iloc[0])) + 0.5 if len(shapes) == 1 else math.nan
        known = group["n_first"].dropna().to_numpy(dtype=float)
        censored = len(group) - len(known)
        row: dict[str, Any] = {"n_replicates": len(group), "n_censored": censored, "predicted": predicted}
        if censored or len(known) < 2:
            row |= dict.fromkeys(("mean", "mean_low", "mean_high", "standard_error", "deviation"), math.nan)
        else:
            mean, error = float(known.mean()), float(known.std(ddof=1) / math.sqrt(len(known)))
            reach = float(stats.t.ppf(0.5 + level / 2.0, len(known) - 1)) * error
            deviation = (mean - predicted) / error if error > 0 else math.nan
            row |= {"mean": mean, "mean_low": mean - reach, "mean_high": mean + reach}
            row |= {"standard_error": error, "deviation": deviation}
        row["resolution"] = float((group["n_high"] - group["n_low"]).replace(math.inf, math.nan).max())
        rows.append({**key, **row})
    return pd.DataFrame(rows)
