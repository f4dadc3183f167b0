"""Which law does n50 follow: c r(d+d')^a, c dof^a, c statdim^a or c (d d')^a?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from flatdist.errors import FitError
from flatdist.fits.grouping import configuration_columns, group_rows
from flatdist.fits.power_law import (
    COEFFICIENT,
    EXPONENT,
    Points,
    PowerLaw,
    fit_power_law,
    held_out_score,
    profile_limits,
)
from flatdist.fits.shapes import SHAPE, predicted
from flatdist.fits.success import require_columns
from flatdist.theory import prediction

LAWS = ("rsum", "dof", "statdim", "entries")
EXACT_LAWS = ("statdim", "entries")  # the constant is part of the law: n50 = law is tested for equivalence
MARGIN = 0.03
ONE_SIZE = "undecided: one size"
EXCLUDING_ODDS = 20.0  # against the best law, by AICc: the odds of a 95 % statement
_SMALLEST_ERROR = 1e-3  # of log n50: n is a whole number


def fit_scaling(
    thresholds: pd.DataFrame,
    by: Sequence[str] | None = None,
    *,
    laws: Sequence[str] = LAWS,
    level: float = 0.95,
    margin: float = MARGIN,
) -> pd.DataFrame:
    """Fit each law to the thresholds of each method and depth.

    log n50 = log c + a log(law) + discrepancy + sampling error; the sampling error comes from n50's interval, censored
    thresholds enter as bounds, and thresholds of one shape share their discrepancy.

    Args:
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`, with ``d_out``, ``d_in`` and ``rank``.
        by: groups to fit separately; by default method, depth, ensemble and every other cell field of the table
            that varies beyond the shape.
        laws: names of :data:`flatdist.theory.SAMPLE_COMPLEXITIES`.
        level: confidence level of the intervals.
        margin: n50 and the law are called equivalent if the 90 % interval of their ratio lies within this relative
            margin.

    Returns:
        One row per (group, law): the columns of ``by``, ``law``, ``formula``, then

        - ``coefficient``, ``exponent`` with ``_low`` and ``_high``: of c law^a with both free.
        - ``discrepancy``: relative scatter of the shapes around the law, beyond sampling error.
        - ``ratio``, ``ratio_low``, ``ratio_high``: c where a = 1, and its 90 % interval; ``ratio_discrepancy``.
        - ``equivalence`` of n50 and the law itself, for laws with a constant: ``equivalent``, ``different`` or
          ``undecided``.
        - ``aicc``, ``aicc_difference`` (to the group's best law) and ``held_out`` (log predictive density of each
          shape from the others), all of the proportional law (a = 1).
        - ``n_shapes``, ``n_points``, ``n_censored``.
        - ``verdict``: ``consistent``; ``excluded at 95 %`` where the exponent's interval excludes 1, or the
          proportional law is more than 20 times less likely than the best one; ``undecided`` with fewer than four
          shapes; ``undecided: one size`` where the law has one value, so that there is nothing to fit.

    Raises:
        FitError: columns are missing, a law is unknown, or the data bracket no threshold.

    Example:
        >>> import numpy as np
        >>> rank = np.arange(1, 7)
        >>> n50 = 2.0 * rank * (40 - rank)  # twice the degrees of freedom
        >>> shapes = pd.DataFrame({"method": "sam", "d_out": 20, "d_in": 20, "rank": rank, "censored": "none"})
        >>> thresholds = shapes.assign(n50=n50, n50_low=0.98 * n50, n50_high=1.02 * n50)
        >>> fit_scaling(thresholds, laws=["dof"])[["coefficient", "exponent"]].round(2).values.tolist()
        [[2.0, 1.0]]
    """
    require_columns(thresholds, (*SHAPE, "n50", "n50_low", "n50_high", "censored"), "needed columns")
    unknown = [law for law in laws if law not in LAWS]
    if unknown:
        raise FitError(f"no law is named {unknown[0]!r}; allowed: {', '.join(LAWS)}")
    if by is None:
        by = [name for name in ("method", "depth", "ensemble") if name in thresholds]
        by += configuration_columns(thresholds, but=(*SHAPE, *by))
    require_columns(thresholds, by, "grouping columns")
    rows: list[dict[str, Any]] = []
    for key, group in group_rows(thresholds, by):
        if group["censored"].isin(["none", "interval"]).any():
            rows += [{**key, **row} for row in _fit_group(group, laws, level, margin)]
    if not rows:
        raise FitError("no threshold is bracketed by its data, so there is no law to fit; widen the range of n")
    return pd.DataFrame(rows)


def points_of(group: pd.DataFrame, law: str, quantity: str = "n50", level: float = 0.95) -> Points:
    """Thresholds of a group, or another quantity with limits and ``censored``, as points of a power law in ``law``.

    Unresolved ones carry no information and are left out.
    """
    used = group[group["censored"] != "unresolved"]
    x = np.log(predicted(law, used))
    with np.errstate(divide="ignore"):
        y, low, high = (np.log(used[quantity + end].to_numpy(dtype=float)) for end in ("", "_low", "_high"))
    reach = special.ndtri(0.5 + level / 2.0)
    sides = np.stack((y - low, high - y))
    sides[~np.isfinite(sides)] = np.nan
    finite = np.isfinite(sides)
    count = finite.sum(axis=0)
    error = np.where(finite, sides, 0.0).sum(axis=0) / np.maximum(count, 1) / reach
    bounded = (used["censored"].to_numpy() == "none") & (count > 0) & np.isfinite(y)
    shape = used.groupby(list(SHAPE)).ngroup().to_numpy()
    return Points(x, np.where(bounded, y, np.nan), np.maximum(error, _SMALLEST_ERROR), low, high, shape)


def _fit_group(group: pd.DataFrame, laws: Sequence[str], level: float, margin: float) -> list[dict[str, Any]]:
    rows = []
    for law in laws:
        row: dict[str, Any] = {"law": law, "formula": prediction(law).formula}
        row |= _fit_law(points_of(group, law, level=level), law in EXACT_LAWS, level, margin)
        rows.append(row | {"n_censored": int((group["censored"] != "none").sum())})
    best = min(row["aicc"] for row in rows)
    for row in rows:
        row["aicc_difference"] = row["aicc"] - best if math.isfinite(row["aicc"]) else math.nan
        row["verdict"] = _verdict(row) if row.pop("varies") else ONE_SIZE
    return rows


@lru_cache(maxsize=512)  # a report, its figures and a page that follows a store ask for the same fits again and again
def _fit_law(points: Points, exact: bool, level: float, margin: float) -> dict[str, Any]:
    proportional = fit_power_law(points, 1.0)
    return {
        **_free_fit(points, level),
        **_proportional_fit(points, proportional, exact, margin),
        "varies": _varies(points),
        "aicc": proportional.aicc(points.shapes),
        "held_out": held_out_score(points, 1.0),
        "n_shapes": points.shapes,
        "n_points": len(points.x),
    }


def _free_fit(points: Points, level: float) -> dict[str, Any]:
    """Coefficient and exponent, both free; undetermined if the law has the same value everywhere."""
    names = ("coefficient", "coefficient_low", "coefficient_high", "exponent", "exponent_low", "exponent_high")
    if not _varies(points) or points.shapes < 3:
        return dict.fromkeys((*names, "discrepancy"), math.nan)
    best = fit_power_law(points)
    coefficient = profile_limits(points, COEFFICIENT, level)
    exponent = profile_limits(points, EXPONENT, level)
    values = (
        *(_exp(value) for value in (best.parameters[COEFFICIENT], *coefficient)),
        best.parameters[EXPONENT],
        *exponent,
    )
    return {**dict(zip(names, values, strict=True)), "discrepancy": math.exp(best.parameters[2])}


def _varies(points: Points) -> bool:
    return bool(np.ptp(points.x) > 1e-9)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _proportional_fit(points: Points, fitted: PowerLaw, exact: bool, margin: float) -> dict[str, Any]:
    low, high = (_exp(value) for value in profile_limits(points, COEFFICIENT, 0.9, 1.0))
    if not exact:
        equivalence = None
    elif 1.0 - margin <= low and high <= 1.0 + margin:
        equivalence = "equivalent"
    else:
        equivalence = "different" if high < 1.0 - margin or low > 1.0 + margin else "undecided"
    return {
        "ratio": math.exp(fitted.parameters[COEFFICIENT]),
        "ratio_low": low,
        "ratio_high": high,
        "ratio_discrepancy": math.exp(fitted.parameters[2]),
        "equivalence": equivalence,
    }


def _verdict(row: dict[str, Any]) -> str:
    if row["n_shapes"] < 4 or math.isnan(row["exponent"]) or math.isnan(row["aicc_difference"]):
        return "undecided"
    one_is_inside = row["exponent_low"] <= 1.0 <= row["exponent_high"]
    likely = row["aicc_difference"] <= 2.0 * math.log(EXCLUDING_ODDS)
    return "consistent" if one_is_inside and likely else "excluded at 95 %"
