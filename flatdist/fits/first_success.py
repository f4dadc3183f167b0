"""Each replicate's first success on nested problems, and its mean compared with the statistical dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import CellError, FitError
from flatdist.fits.grouping import group_rows, grouped
from flatdist.fits.paired import mean_interval, with_reference
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import label_success, require_columns, resolve_tolerance
from flatdist.theory import first_success, statistical_dimension

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
    keys, index = grouped(labelled, [*by, "replicate"])
    n, success = labelled["n"].to_numpy(dtype=float), labelled["success"].to_numpy(dtype=bool)
    high, (low, last) = np.full(len(keys), math.inf), np.zeros((2, len(keys)))
    np.minimum.at(high, index[success], n[success])
    np.maximum.at(last, index[~success], n[~success])
    below = ~success & (n < high[index])
    np.maximum.at(low, index[below], n[below])
    bracketed = np.isfinite(high) & (low > 0.0)
    middle = np.where(bracketed, 0.5 * (low + 1.0 + high), math.nan)
    table = pd.DataFrame(keys).assign(n_low=low, n_high=high, exact=high - low == 1.0, monotone=last < high)
    return table.assign(n_first=middle)


def mean_first_success(
    trials: pd.DataFrame, by: Sequence[str], tolerance: float | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Mean and variance of N in each group, with theory's values for the nuclear norm.

    Args:
        trials: of nested problems; theory needs one ``d_out``, ``d_in`` and ``rank`` in each group.
        by: columns whose values make a group.
        tolerance: of the success; the default of the methods present.
        level: of the intervals: Student's for the mean, that of a normal sample's variance for the ratio.

    Returns:
        One row per group: the columns of ``by``, ``mean``, ``mean_low``, ``mean_high``, ``standard_error``,
        ``predicted`` = delta + 1/2, ``deviation`` in standard errors, ``variance``, ``predicted_variance``,
        ``variance_ratio`` with ``_low`` and ``_high``, ``center`` and ``width`` (``agrees`` where theory's value lies
        in the interval, ``differs`` where not, ``unknown``), ``n_replicates``, ``n_censored`` (replicates whose N the
        data do not bracket: with any, the mean is NaN), ``resolution`` (largest gap between n around an N).
    """
    require_columns(trials, SHAPE, "needed columns")
    first = first_successes(trials, list(dict.fromkeys([*by, *SHAPE])), tolerance)
    rows = []
    for key, group in group_rows(first, by):
        shapes = group[list(SHAPE)].drop_duplicates().astype(int)
        law = _law(*shapes.iloc[0]) if len(shapes) == 1 else (math.nan, math.nan)
        known = group["n_first"].dropna().to_numpy(dtype=float)
        row = {**key, "n_replicates": len(group), "n_censored": len(group) - len(known)}
        row |= _moments(known if len(known) == len(group) else known[:0], *law, level)
        rows.append(row | {"resolution": (group["n_high"] - group["n_low"]).replace(math.inf, math.nan).max()})
    return pd.DataFrame(rows)


def _law(d_out: int, d_in: int, rank: int) -> tuple[float, float]:
    """Mean and variance of the nuclear norm's N; no variance for sizes that are too large to sample."""
    try:
        return first_success(d_out, d_in, rank)
    except CellError:
        return statistical_dimension(d_out, d_in, rank) + 0.5, math.nan


def _moments(first: np.ndarray, predicted: float, variance: float, level: float) -> dict[str, Any]:
    """Mean and variance of (k,) first successes, and theory's; NaN with fewer than two."""
    mean = low = high = error = found = ratio = ratio_low = ratio_high = math.nan
    if len(first) > 1:
        mean, low, high, error = mean_interval(first, level)
        found, freedom = float(first.var(ddof=1)), len(first) - 1
        ratio = found / variance if variance > 0 else math.nan
        tails = special.chdtri(freedom, [0.5 - level / 2.0, 0.5 + level / 2.0])
        ratio_low, ratio_high = (ratio * freedom / tails).tolist()
    return {
        "predicted": predicted,
        "predicted_variance": variance,
        "mean": mean,
        "mean_low": low,
        "mean_high": high,
        "standard_error": error,
        "deviation": (mean - predicted) / error if error > 0 else math.nan,
        "variance": found,
        "variance_ratio": ratio,
        "variance_ratio_low": ratio_low,
        "variance_ratio_high": ratio_high,
        "center": _verdict(low, predicted, high),
        "width": _verdict(ratio_low, 1.0, ratio_high),
    }


def _verdict(low: float, value: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    return "agrees" if low <= value <= high else "differs"


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
    require_columns(trials, ("method",), "needed columns")
    problem = [name for name in PROBLEM_FIELDS if name in trials and name != "n"]
    first = first_successes(trials, list(dict.fromkeys(["method", *by, *problem])), tolerance)
    pairs = with_reference(first, reference, ["n_first"])
    rows = []
    for key, group in group_rows(pairs, by):
        difference = (group["n_first"] - group["n_first_reference"]).dropna().to_numpy(dtype=float)
        mean = low = high = error = equal = math.nan
        if len(difference) > 1:
            mean, low, high, error = mean_interval(difference, level)
            equal = float((difference == 0.0).mean())
        row = {"pairs": len(difference), "n_unpaired": len(group) - len(difference), "difference": mean}
        row |= {"difference_low": low, "difference_high": high, "standard_error": error, "equal": equal}
        rows.append({**key, **row})
    return pd.DataFrame(rows)


def agreement_lines(means: pd.DataFrame, series: Sequence[str]) -> list[str]:
    """For each series, in how many shapes mean and variance of N agree with theory, and the pooled variance."""
    lines = []
    for key, group in group_rows(means, series):
        name = ", ".join(str(value) for value in key.values() if value is not None) or "all"
        known = group["deviation"].dropna()
        near = int((known.abs() <= STANDARD_ERRORS).sum())
        lines.append(f"{name}: E[N] within 2 standard errors of delta + 1/2 in {near} of {len(known)} shapes")
        told = group[group["variance_ratio"].notna()]
        if len(told):
            freedom = told["n_replicates"] - 1
            ratio = float(np.average(told["variance_ratio"], weights=freedom))
            error = math.sqrt(2.0 / float(freedom.sum()))
            agree = int((told["width"] == "agrees").sum())
            lines.append(
                f"{name}: Var N is theory's (95 % interval) in {agree} of {len(told)} shapes; "
                f"all together {ratio:.3f} +- {error:.3f} of it"
            )
    return lines
