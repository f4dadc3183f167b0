"""Thresholds over a prediction or over another method's, shape by shape: how far is n50 from where it should be?

``python -m analysis.ratios SWEEP [--over statdim|METHOD] [--margin M] [--store S] [--out DIR] [--tolerance E]``

Over a prediction the interval is n50's own. Over a method both thresholds are uncertain; their intervals are combined
as if independent, which is too careful where the methods were run on the same problems.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.layout import keys_of, matching, panel_columns, series_columns
from flatdist.figures.origin import file_stem
from flatdist.figures.style import save_figure
from flatdist.fits.grouping import group_rows, name_nulls
from flatdist.fits.shapes import SHAPE, predicted
from flatdist.fits.success import require_columns, resolve_tolerance
from flatdist.fits.threshold import fit_thresholds
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
        ``ratio_low`` and ``ratio_high``. The ratio is NaN where either threshold is censored; its limits are what the
        intervals still say, 0 or infinite where nothing.

    Raises:
        FitError: missing columns, ``over`` is neither, or the method has several configurations or no shape in common.
    """
    require_columns(thresholds, (*SHAPE, "n50", "n50_low", "n50_high", "censored"), "needed columns")
    if over in SAMPLE_COMPLEXITIES:
        reference = predicted(over, thresholds)
        scaled = {f"ratio{end}": thresholds[f"n50{end}"] / reference for end in ("", "_low", "_high")}
        return thresholds.assign(over=over, reference=reference, **scaled)
    return _over_method(thresholds, over)


def _over_method(thresholds: pd.DataFrame, over: str) -> pd.DataFrame:
    methods = sorted(map(str, thresholds["method"].unique())) if "method" in thresholds else []
    if over not in methods:
        raise FitError(
            f"over={over!r} is neither a prediction nor a method of these trials; "
            f"allowed: {', '.join([*SAMPLE_COMPLEXITIES, *methods])}"
        )
    problem = [name for name in PROBLEM_FIELDS if name in thresholds and name != "n"]
    known = {tuple(key.values()): group for key, group in group_rows(thresholds[thresholds["method"] == over], problem)}
    if any(len(group) > 1 for group in known.values()):
        raise FitError(f"the reference method {over!r} has several configurations; choose one of them with `where`")
    rows = []
    for key, group in group_rows(thresholds[thresholds["method"] != over], problem):
        theirs = known.get(tuple(key.values()))
        if theirs is not None:
            reference = theirs.to_dict("records")[0]
            rows += [{**row, "over": over, **ratio_of(row, reference)} for row in group.to_dict("records")]
    if not rows:
        raise FitError(f"no other method has thresholds on the problems of {over!r}, so there are no ratios")
    return pd.DataFrame(rows)


def ratio_of(mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[str, float]:
    """Ratio of two independent thresholds: their intervals on log n, added in squares side by side (MOVER).

    The limits are log a - log b -+ sqrt((a - a_low)^2 + (b_high - b)^2) and its mirror, all on logarithms; they keep
    the asymmetry of both intervals.
    """
    if mine["censored"] not in BRACKETED or theirs["censored"] not in BRACKETED:
        low = mine["n50_low"] / theirs["n50_high"] if theirs["n50_high"] > 0 else 0.0
        high = mine["n50_high"] / theirs["n50_low"] if theirs["n50_low"] > 0 else math.inf
        return {"reference": float(theirs["n50"]), "ratio": math.nan, "ratio_low": low, "ratio_high": high}
    with np.errstate(divide="ignore"):
        a, a_low, a_high = np.log([mine["n50"], mine["n50_low"], mine["n50_high"]])
        b, b_low, b_high = np.log([theirs["n50"], theirs["n50_low"], theirs["n50_high"]])
    below, above = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
    return {
        "reference": float(theirs["n50"]),
        "ratio": math.exp(a - b),
        "ratio_low": math.exp(a - b - below),
        "ratio_high": math.exp(a - b + above) if above < 700 else math.inf,
    }


def summarise(table: pd.DataFrame, by: Sequence[str], margin: float = MARGIN) -> pd.DataFrame:
    """What the shapes say together, for each series.

    Args:
        table: from :func:`ratios`.
        by: columns whose values make a series.
        margin: relative distance from 1 that is counted.

    Returns:
        The columns of ``by``, ``shapes``, ``censored`` (of them, without a ratio), ``median_ratio``,
        ``median_distance`` and ``worst_distance`` of \\|ratio - 1\\| over the shapes, ``worst_shape``, ``within``
        (shapes within the margin) and ``contains_one`` (shapes whose interval contains 1).
    """
    rows = []
    for key, group in group_rows(table, by):
        known = group[group["ratio"].notna()]
        distance = (known["ratio"] - 1.0).abs()
        worst = known.iloc[[int(distance.to_numpy().argmax())]].to_dict("records") if len(known) else []
        row: dict[str, Any] = {
            "shapes": len(group),
            "censored": len(group) - len(known),
            "median_ratio": known["ratio"].median(),
            "median_distance": distance.median(),
            "worst_distance": distance.max(),
            "worst_shape": shape_name(worst[0]) if worst else "",
            "within": int((distance <= margin).sum()),
            "contains_one": int(((group["ratio_low"] <= 1.0) & (group["ratio_high"] >= 1.0)).sum()),
        }
        rows.append({**key, **row})
    return pd.DataFrame(rows)


def shape_name(row: Mapping[Any, Any]) -> str:
    """A problem's shape and rank in words."""
    return f"{int(row['d_out'])}x{int(row['d_in'])} rank {int(row['rank'])}"


def series_of(trials: pd.DataFrame) -> list[str]:
    """What makes a series: the method's fields that vary, and the problem's beyond its shape."""
    problem = [name for name in panel_columns(trials) if name not in SHAPE]
    return [*series_columns(trials), *problem]


def panels_of(table: pd.DataFrame) -> list[tuple[int | None, pd.DataFrame]]:
    """A part of the table for each depth, with the methods that have none in every part."""
    depths = [key["depth"] for key in keys_of(table, ["depth"])] if "depth" in table else []
    known = [depth for depth in depths if depth is not None]
    if not known:
        return [(None, table)]
    without = matching(table, {"depth": None})
    return [(int(depth), pd.concat([without, matching(table, {"depth": depth})])) for depth in known]


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    from flatdist.figures.ratios_figure import ratios_figure

    require_columns(trials, SHAPE, "needed columns")
    over, margin = request.options.over, request.options.margin
    if not 0.0 < margin < 1.0:
        raise FitError(f"margin={margin!r} is not a relative distance; allowed: between 0 and 1, such as {MARGIN}")
    tolerance = resolve_tolerance(trials, request.tolerance)
    series = series_of(trials)
    by = list(dict.fromkeys([*series, *SHAPE]))
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=request.link)
    table = ratios(thresholds, over)
    settings = {"tolerance": tolerance, "link": request.link, "level": 0.95, "by": by, "over": over, "margin": margin}
    paths = save_figure(
        ratios_figure(table, series, margin), request.out, f"ratios_{over}", request.origin(trials, settings)
    )
    path = request.out / f"{file_stem(f'ratios_{over}', request.where)}.csv"
    table.to_csv(path, index=False, float_format="%.6g")
    return [*_lines(table, series, margin), "", *path_lines([*paths, path])]


def _lines(table: pd.DataFrame, series: Sequence[str], margin: float) -> list[str]:
    summary = summarise(table, series, margin)
    shown = pd.concat([name_nulls(summary, series), summary.drop(columns=list(series))], axis=1)
    shown = shown.rename(columns={"within": f"within {100 * margin:g} %"})
    return shown.to_string(index=False, float_format="{:.3f}".format).splitlines()


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--over", default="statdim", help="a prediction's name, or a method (default: statdim)")
    parser.add_argument("--margin", type=float, default=MARGIN, help="relative distance that is counted (default: 0.1)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("ratios", "n50 over a prediction or another method's n50.", draw, arguments, _arguments)
