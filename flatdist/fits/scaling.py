"""Which law does n50 follow: c r(d+d')^a, c dof^a, c statdim^a or c (d d')^a? And the transition's width: c (d d')^a.

Finite-size scaling: success against (n - n50) / width is one curve for all shapes, and the width grows as sqrt(d d').
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from flatdist.errors import FitError
from flatdist.fits.grouping import SHAPE, configuration_columns, group_rows, predicted, series_columns
from flatdist.fits.power_law import COEFFICIENT, EXPONENT, Points, fit_power_law, held_out_score, profile_limits
from flatdist.fits.success import require_columns, resolve_tolerance, success_rates
from flatdist.fits.threshold import fit_thresholds, grouping
from flatdist.theory import prediction
from flatdist.threshold.curves import quantile

LAWS = ("rsum", "dof", "statdim", "entries")
EXACT_LAWS = ("statdim", "entries")  # the constant is part of the law: n50 = law is tested for equivalence
MARGIN = 0.03
ONE_SIZE = "undecided: one size"
EXCLUDING_ODDS = 20.0  # against the best law, by AICc: the odds of a 95 % statement
_SMALLEST_ERROR = 1e-3  # of log n50: n is a whole number
RESOLVED, BELOW, UNKNOWN = "none", "left", "unresolved"  # kinds of widths


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
    censored = int((group["censored"] != "none").sum())
    rows = []
    for law in laws:
        fit = _fit_law(points_of(group, law, level=level), law in EXACT_LAWS, level, margin)
        rows.append({"law": law, "formula": prediction(law).formula, **fit, "n_censored": censored})
    best = min(row["aicc"] for row in rows)
    for row in rows:
        row["aicc_difference"] = row["aicc"] - best if math.isfinite(row["aicc"]) else math.nan
        row["verdict"] = _verdict(row) if row.pop("varies") else ONE_SIZE
    return rows


@lru_cache(maxsize=512)  # a report, its figures and a page that follows a store ask for the same fits again and again
def _fit_law(points: Points, exact: bool, level: float, margin: float) -> dict[str, Any]:
    varies, best = bool(np.ptp(points.x) > 1e-9), None
    limits = coefficients = (math.nan, math.nan)
    if varies and points.shapes >= 3:  # both are undetermined otherwise
        best = fit_power_law(points)
        coefficients, limits = (profile_limits(points, which, level) for which in (COEFFICIENT, EXPONENT))
    proportional = fit_power_law(points, 1.0)
    low, high = (_exp(value) for value in profile_limits(points, COEFFICIENT, 0.9, 1.0))
    equivalence = "different" if high < 1.0 - margin or low > 1.0 + margin else "undecided"
    if 1.0 - margin <= low and high <= 1.0 + margin:
        equivalence = "equivalent"
    return {
        "coefficient": _exp(best.parameters[COEFFICIENT]) if best else math.nan,
        "coefficient_low": _exp(coefficients[0]),
        "coefficient_high": _exp(coefficients[1]),
        "exponent": best.parameters[EXPONENT] if best else math.nan,
        "exponent_low": limits[0],
        "exponent_high": limits[1],
        "discrepancy": math.exp(best.parameters[2]) if best else math.nan,
        "ratio": math.exp(proportional.parameters[COEFFICIENT]),
        "ratio_low": low,
        "ratio_high": high,
        "ratio_discrepancy": math.exp(proportional.parameters[2]),
        "equivalence": equivalence if exact else None,
        "varies": varies,
        "aicc": proportional.aicc(points.shapes),
        "held_out": held_out_score(points, 1.0),
        "n_shapes": points.shapes,
        "n_points": len(points.x),
    }


def _exp(value: float) -> float:
    return math.inf if value >= 700 else math.exp(value)


def _verdict(row: dict[str, Any]) -> str:
    if row["n_shapes"] < 4 or math.isnan(row["exponent"]) or math.isnan(row["aicc_difference"]):
        return "undecided"
    one_is_inside = row["exponent_low"] <= 1.0 <= row["exponent_high"]
    likely = row["aicc_difference"] <= 2.0 * math.log(EXCLUDING_ODDS)
    return "consistent" if one_is_inside and likely else "excluded at 95 %"


def width_table(thresholds: pd.DataFrame) -> pd.DataFrame:
    """The width of each transition, as far as the measured n resolve it.

    A width below the distance between the n on either side of n50 reflects the grid rather than the transition, so it
    is only an upper bound.

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
    below = int(kinds.get(BELOW, 0))
    text = (
        f"{below} of {below + kinds.get(RESOLVED, 0)} transitions are narrower than the distance between the measured "
        "n: the width's law takes them as upper bounds, and the collapse leaves them out; finer n would resolve them"
    )
    return [text] if below else []


def collapse_table(trials: pd.DataFrame, thresholds: pd.DataFrame, by: Sequence[str], tolerance: float) -> pd.DataFrame:
    """Success rates of every group whose width the measured n resolve, with ``z`` = (n - n50) / width."""
    resolved = width_table(thresholds)["width_censored"] == RESOLVED
    known = thresholds.loc[resolved, [*by, "n50", "transition"]]
    rates = success_rates(trials, by, tolerance).merge(known, on=list(by))
    return rates.assign(z=(rates["n"] - rates["n50"]) / rates["transition"]).drop(columns=["n50", "transition"])


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
    for key, group in group_rows(thresholds, by):
        widths = width_table(group)
        points = points_of(widths.assign(censored=widths["width_censored"]), "entries", "width", level)
        resolved = points.select(~np.isnan(points.y))
        if resolved.shapes < 3 or np.ptp(resolved.x) < 1e-9:
            continue
        coefficient, exponent, _ = fit_power_law(points).parameters
        low, high = profile_limits(points, EXPONENT, level)
        row: dict[str, Any] = {"n_shapes": points.shapes, "n_unresolved": len(points.x) - len(resolved.x)}
        row |= {"coefficient": math.exp(coefficient), "exponent": exponent, "exponent_low": low, "exponent_high": high}
        rows.append({**key, **row})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Fits:
    """What the two figures show."""

    tolerance: float  # of a success
    by: list[str]  # columns that thresholds are grouped by
    series: list[str]  # those of them that make a colour
    thresholds: pd.DataFrame  # from :func:`flatdist.fit_thresholds`
    laws: pd.DataFrame  # from :func:`fit_scaling`
    widths: pd.DataFrame  # from :func:`fit_width_law`
    collapsed: pd.DataFrame  # from :func:`collapse_table`


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
