"""Each replicate's first success on nested problems, and its mean beside the statistical dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.fits.grouping import group_rows
from flatdist.fits.success import label_success, require_columns, resolve_tolerance
from flatdist.theory import statistical_dimension

SHAPE = ("d_out", "d_in", "rank")


STANDARD_ERRORS = 2.0  # E[N] agrees with delta + 1/2 where it is no further away


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


def paired_first_success(
    trials: pd.DataFrame, by: Sequence[str], reference: str, tolerance: float | None = None, level: float = 0.95
) -> pd.DataFrame:
    """How much later than the reference method each other method succeeds on the same streams of measurements.

    Args:
        trials: of nested problems, with the shapes.
        by: columns whose values make a group; those of the problem name the pairs, with the replicate.
        reference: a method with one configuration.
        tolerance: of the success; the default of the methods present.
        level: of Student's intervals.

    Returns:
        One row per group of the other methods: the columns of ``by``, ``pairs``, ``difference`` (mean of N minus the
        reference's N, in measurements) with ``difference_low``, ``difference_high``, ``standard_error``,
        ``equal`` (share of pairs with the same N), and ``n_unpaired`` (replicates without the other's N).

    Raises:
        FitError: the reference has no trials or several configurations, or nothing pairs with it.
    """
    problem = [name for name in PROBLEM_FIELDS if name in trials and name != "n"]
    keys = [*problem, "replicate"]
    known = sorted(map(str, trials["method"].unique())) if "method" in trials else []
    if reference not in known:
        raise FitError(f"the reference method {reference!r} has no trials here; allowed: {', '.join(known)}")
    first = first_successes(trials, list(dict.fromkeys(["method", *by, *problem])), tolerance)
    theirs = first[first["method"] == reference]
    if theirs.duplicated(keys).any():
        raise FitError(f"the reference method {reference!r} has several configurations; choose one with `where`")
    pairs = first[first["method"] != reference].merge(theirs[[*keys, "n_first"]], on=keys, suffixes=("", "_reference"))
    if pairs.empty:
        raise FitError(f"no other method was run on the problems of {reference!r}, so there are no pairs")
    rows = []
    for key, group in group_rows(pairs, by):
        difference = (group["n_first"] - group["n_first_reference"]).dropna().to_numpy(dtype=float)
        row: dict[str, Any] = {"pairs": len(difference), "n_unpaired": len(group) - len(difference)}
        row |= dict.fromkeys(("difference", "difference_low", "difference_high", "standard_error", "equal"), math.nan)
        if len(difference) > 1:
            mean, error = float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))
            reach = float(stats.t.ppf(0.5 + level / 2.0, len(difference) - 1)) * error
            row |= {"difference": mean, "difference_low": mean - reach, "difference_high": mean + reach}
            row |= {"standard_error": error, "equal": float((difference == 0.0).mean())}
        rows.append({**key, **row})
    return pd.DataFrame(rows)


def agreement_lines(means: pd.DataFrame, series: Sequence[str]) -> list[str]:
    """For each series, in how many shapes E[N] is within two standard errors of delta + 1/2."""
    lines = []
    for key, group in group_rows(means, series):
        known = group["deviation"].dropna()
        near = int((known.abs() <= STANDARD_ERRORS).sum())
        name = ", ".join(str(value) for value in key.values() if value is not None)
        lines.append(f"{name or 'all'}: E[N] within 2 standard errors of delta + 1/2 in {near} of {len(known)} shapes")
    return lines
