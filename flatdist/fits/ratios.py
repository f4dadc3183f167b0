"""Ratios of n50: to a prediction, to another method's, and between neighbouring values of a field."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.fits.grouping import SHAPE, group_rows, panel_columns, predicted, series_columns
from flatdist.fits.success import require_columns
from flatdist.theory import SAMPLE_COMPLEXITIES

MARGIN = 0.1
BRACKETED = ("none", "interval")


def ratios(thresholds: pd.DataFrame, over: str = "statdim") -> pd.DataFrame:
    """Each n50 over a prediction, or over the n50 that a method has on the same problems.

    Args:
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`, with ``d_out``, ``d_in`` and ``rank``.
        over: name of a prediction, or a method with one configuration.

    Returns:
        The thresholds (without the reference method's) with ``over``, ``reference`` (the denominator), ``ratio``,
        ``ratio_low`` and ``ratio_high``. The ratio is NaN where either threshold is censored; its limits are those
        implied by the intervals, 0 or infinite if there is none.

    Raises:
        FitError: missing columns, ``over`` is neither, or the method has several configurations or no shape in common.
    """
    require_columns(thresholds, (*SHAPE, "n50", "n50_low", "n50_high", "censored"), "needed columns")
    if over in SAMPLE_COMPLEXITIES:
        reference = predicted(over, thresholds)
        scaled = {f"ratio{end}": thresholds[f"n50{end}"] / reference for end in ("", "_low", "_high")}
        return thresholds.assign(over=over, reference=reference, **scaled)
    methods = sorted(map(str, thresholds["method"].unique())) if "method" in thresholds else []
    if over not in methods:
        raise FitError(
            f"over={over!r} is neither a prediction nor a method of these trials; "
            f"allowed: {', '.join([*SAMPLE_COMPLEXITIES, *methods])}"
        )
    rows = []
    for _, group in group_rows(thresholds, [name for name in PROBLEM_FIELDS if name in thresholds and name != "n"]):
        theirs = group[group["method"] == over].to_dict("records")
        if len(theirs) > 1:
            raise FitError(f"the reference method {over!r} has several configurations; choose one of them with `where`")
        mine = group[group["method"] != over].to_dict("records") if theirs else []
        rows += [{**row, "over": over, **ratio_of(row, theirs[0])} for row in mine]
    if not rows:
        raise FitError(f"no other method has thresholds on the problems of {over!r}, so there are no ratios")
    return pd.DataFrame(rows)


def ratio_of(mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[str, float]:
    """Ratio of two independent thresholds: their intervals on log n, added in squares side by side (MOVER).

    The limits are log a - log b -+ sqrt((a - a_low)^2 + (b_high - b)^2) and its mirror, all on logarithms; they keep
    the asymmetry of both intervals.
    """
    if mine["censored"] in BRACKETED and theirs["censored"] in BRACKETED:
        with np.errstate(divide="ignore"):
            (a, a_low, a_high), (b, b_low, b_high) = (
                np.log([row["n50"], row["n50_low"], row["n50_high"]]) for row in (mine, theirs)
            )
        below, above = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
        ratio, low = math.exp(a - b), math.exp(a - b - below)
        high = math.exp(a - b + above) if above < 700 else math.inf
    else:
        ratio, low = math.nan, mine["n50_low"] / theirs["n50_high"] if theirs["n50_high"] > 0 else 0.0
        high = mine["n50_high"] / theirs["n50_low"] if theirs["n50_low"] > 0 else math.inf
    return {"reference": float(theirs["n50"]), "ratio": ratio, "ratio_low": low, "ratio_high": high}


def summarise(table: pd.DataFrame, by: Sequence[str], margin: float = MARGIN) -> pd.DataFrame:
    """Summary of a table of :func:`ratios` over the shapes, for each series.

    Returns:
        The columns of ``by``, ``shapes``, ``censored`` (of them, without a ratio), ``median_ratio``,
        ``median_distance`` and ``worst_distance`` of \\|ratio - 1\\| over the shapes, ``worst_shape``, and of how many
        shapes the interval lies inside the margin (``equivalent``), beyond it (``different``), or contains 1
        (``contains_one``).
    """
    rows = []
    for key, group in group_rows(table, by):
        low, high, known = group["ratio_low"], group["ratio_high"], group[group["ratio"].notna()]
        distance = (known["ratio"] - 1.0).abs()
        row: dict[str, Any] = {
            "shapes": len(group),
            "censored": len(group) - len(known),
            "median_ratio": known["ratio"].median(),
            "median_distance": distance.median(),
            "worst_distance": distance.max(),
            "worst_shape": shape_name(known.iloc[int(distance.to_numpy().argmax())]) if len(known) else "",
            "equivalent": int(((low >= 1.0 - margin) & (high <= 1.0 + margin)).sum()),
            "different": int(((high < 1.0 - margin) | (low > 1.0 + margin)).sum()),
            "contains_one": int(((low <= 1.0) & (high >= 1.0)).sum()),
        }
        rows.append({**key, **row})
    return pd.DataFrame(rows)


def shape_name(row: Any) -> str:
    """A problem's shape and rank in words."""
    return f"{int(row['d_out'])}x{int(row['d_in'])} rank {int(row['rank'])}"


def series_of(trials: pd.DataFrame) -> list[str]:
    """Columns that make a series: the method's fields that vary, and the problem's beyond its shape."""
    problem = [name for name in panel_columns(trials) if name not in SHAPE]
    return [*series_columns(trials), *problem]


def check_field(trials: pd.DataFrame, field: str) -> None:
    """Reject a field that n50 cannot be drawn against: unknown, not numeric, or of a single value."""
    require_columns(trials, [field], "the field")
    values = trials[field].dropna()
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values) or field == "n":
        raise FitError(f"n50 is drawn against a number; {field!r} is not one that a group of trials has")
    if values.nunique() < 2:
        only = f"only {values.iloc[0]:g}" if len(values) else "no value"
        raise FitError(f"these trials have {only} in {field!r}; run a sweep with several, or choose another --x")


def changes(thresholds: pd.DataFrame, field: str, by: Sequence[str]) -> pd.DataFrame:
    """Change of n50 between neighbouring values of the field, everything else equal.

    One row for each pair of neighbours: the columns of ``by``, ``low_value``, ``high_value``, and ``ratio`` of n50 at
    the higher value to that at the lower, ``ratio_low``, ``ratio_high`` and ``n50_equal``, whether 1 is inside.
    """
    rows = []
    for key, group in group_rows(thresholds[thresholds[field].notna()], by):
        ordered = group.sort_values(field).to_dict("records")
        for lower, higher in itertools.pairwise(ordered):
            ratio = ratio_of(higher, lower)
            equal = bool(ratio["ratio_low"] <= 1.0 <= ratio["ratio_high"])
            rows.append({**key, "low_value": lower[field], "high_value": higher[field], **ratio, "n50_equal": equal})
    columns = [*by, "low_value", "high_value", "ratio", "ratio_low", "ratio_high", "n50_equal"]
    return pd.DataFrame(rows, columns=columns)


def split(trials: pd.DataFrame, field: str) -> tuple[list[str], list[str]]:
    """Columns of the panels, the problem's and the depth, and of the lines, the method's others."""
    panels, series = panel_columns(trials), series_columns(trials)
    panels += [name for name in series if name == "depth"]
    return [name for name in panels if name != field], [name for name in series if name not in (field, "depth")]
