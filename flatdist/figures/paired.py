"""Methods side by side on the same problems: paired differences of success, with intervals.

``python -m analysis.paired SWEEP [--reference min_nuclear_norm] [--store S] [--out DIR] [--tolerance E]``

A replicate's problem depends on the problem's fields and the replicate's number only, so two methods' trials of one
replicate are a pair, and what the problems share cancels in the difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.layout import describe, keys_of, matching, panel_columns, series_columns, styled
from flatdist.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    color_of,
    marker_of,
    method_label,
    plain_ticks,
    save_figure,
    themed,
)
from flatdist.fits.grouping import configuration_columns, group_rows, name_nulls
from flatdist.fits.success import label_success, require_columns, resolve_tolerance

_PANELS_IN_ONE_COLUMN = 4


def paired_differences(
    trials: pd.DataFrame, reference: str, tolerance: float | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Success of every other method minus that of the reference, on the problems both have.

    Args:
        trials: rows of the store.
        reference: a method with one configuration.
        tolerance: of the success; by default the common one of the methods present.
        level: confidence level.

    Returns:
        One row per (series, panel, n): their columns, ``n``, ``pairs``, ``both``, ``only_method``, ``only_reference``,
        ``neither``, and ``difference`` with ``difference_low``, ``difference_high`` (Newcombe's method 10).

    Raises:
        FitError: the reference has no trials or several configurations, or no other method shares its problems.
    """
    require_columns(trials, ("method", "replicate", "n"), "needed columns")
    labelled = label_success(trials, resolve_tolerance(trials, tolerance))
    series, panels = series_columns(labelled), panel_columns(labelled)
    pairs = with_reference(labelled, reference, ["success"])
    rows = []
    for key, group in group_rows(pairs, [*series, *panels, "n"]):
        mine, other = group["success"].to_numpy(dtype=bool), group["success_reference"].to_numpy(dtype=bool)
        counts = [int(np.sum(mask)) for mask in (mine & other, mine & ~other, ~mine & other, ~mine & ~other)]
        low, high = newcombe_interval((counts[0], counts[1], counts[2], counts[3]), level)
        names = ("both", "only_method", "only_reference", "neither")
        rows.append(
            {
                **key,
                "pairs": len(group),
                **dict(zip(names, counts, strict=True)),
                "difference": (counts[1] - counts[2]) / len(group),
                "difference_low": low,
                "difference_high": high,
            }
        )
    return pd.DataFrame(rows)


def with_reference(trials: pd.DataFrame, reference: str, columns: Sequence[str]) -> pd.DataFrame:
    """The trials of all other methods, with the reference's ``columns`` on the same problem as ``COLUMN_reference``.

    Raises:
        FitError: the reference has no trials or several configurations, or no other method shares its problems.
    """
    problem = [name for name in PROBLEM_FIELDS if name in trials]
    theirs = trials[trials["method"] == reference]
    if theirs.empty:
        known = ", ".join(sorted(map(str, trials["method"].unique())))
        raise FitError(f"the reference method {reference!r} has no trials here; allowed: {known}")
    if theirs.duplicated([*problem, "replicate"]).any():
        raise FitError(
            f"the reference method {reference!r} has several configurations; select one of its "
            f"{', '.join(configuration_columns(theirs, but=PROBLEM_FIELDS)) or 'cells'}"
        )
    pairs = trials[trials["method"] != reference].merge(
        theirs[[*problem, "replicate", *columns]], on=[*problem, "replicate"], suffixes=("", "_reference")
    )
    if pairs.empty:
        raise FitError(f"no other method was run on the problems of {reference!r}, so there are no pairs")
    return pairs


def newcombe_interval(counts: tuple[int, int, int, int], level: float) -> tuple[float, float]:
    """Interval for the difference of two paired proportions (Newcombe 1998, method 10: Wilson intervals, combined).

    Args:
        counts: of pairs where both, only the first, only the second, or neither succeeded.
        level: confidence level.
    """
    both, only_first, only_second, neither = counts
    total = sum(counts)
    first, second = both + only_first, both + only_second
    difference = (first - second) / total
    (low1, high1), (low2, high2) = wilson_interval(first, total, level), wilson_interval(second, total, level)
    margins = first * (total - first) * second * (total - second)
    excess = float(both * neither - only_first * only_second)
    if excess > 0:
        excess = max(excess - total / 2.0, 0.0)  # Newcombe's continuity correction
    correlation = excess / np.sqrt(margins) if margins > 0 else 0.0
    p1, p2 = first / total, second / total

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2.0 * correlation * a * b + b * b, 0.0)))

    return difference - reach(p1 - low1, high2 - p2), difference + reach(high1 - p1, p2 - low2)


def wilson_interval(successes: int, total: int, level: float) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927)."""
    z = float(stats.norm.ppf(0.5 + level / 2.0))
    share = successes / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(center - float(half), 0.0), min(center + float(half), 1.0)


def mean_differences(differences: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """The differences averaged over the pairs of all n in each group, with an exact test of no difference.

    Returns:
        The columns of ``by``, ``pairs``, ``difference``, ``only_method``, ``only_reference``, and ``p_value`` of
        McNemar's exact test, for which pairs at different n must be independent problems.
    """
    rows = []
    for key, group in group_rows(differences, by):
        mine, other = int(group["only_method"].sum()), int(group["only_reference"].sum())
        pairs = int(group["pairs"].sum())
        p_value = stats.binomtest(mine, mine + other, 0.5).pvalue if mine + other else 1.0
        row: dict[str, Any] = {"pairs": pairs, "difference": (mine - other) / pairs}
        rows.append({**key, **row, "only_method": mine, "only_reference": other, "p_value": float(p_value)})
    return pd.DataFrame(rows)


def paired_figure(differences: pd.DataFrame, series: Sequence[str], panels: Sequence[str], reference: str) -> Figure:
    """The difference against n: a panel for each problem, a colour for each method."""
    panel_keys, series_keys = keys_of(differences, panels), keys_of(differences, series)
    columns = 1 if len(panel_keys) <= _PANELS_IN_ONE_COLUMN else 2
    rows = -(-len(panel_keys) // columns)
    with themed():
        size = (COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, 1.3 * rows + 0.5 + 0.13 * len(series_keys))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, key in zip(grid.flat, panel_keys, strict=False):
            mine = matching(differences, key)
            for index, name in styled(series_keys):
                table = matching(mine, name).sort_values("n")
                below = table["difference"] - table["difference_low"]
                above = table["difference_high"] - table["difference"]
                axes.errorbar(
                    table["n"].to_numpy(dtype=float) * (1.0 + 0.006 * index), table["difference"],
                    yerr=[below, above], color=color_of(index), marker=marker_of(index), elinewidth=0.6,
                )  # fmt: skip
            axes.axhline(0.0, color="#222222", linewidth=0.6, zorder=1)
            axes.set_xscale("log")
            plain_ticks(axes.xaxis, float(mine["n"].min()), float(mine["n"].max()))
            pairs = sorted(set(mine["pairs"]))
            many = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]}-{pairs[-1]}"
            axes.set_title(f"{describe(key)}   ({many} pairs per point)", loc="left", pad=3)
            sns.despine(ax=axes)
        for axes in grid.flat[len(panel_keys) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("difference in success")
        for axes in grid.flat[max(len(panel_keys) - columns, 0) : len(panel_keys)]:
            axes.set_xlabel("measurements $n$")
        handles = [
            Line2D([], [], color=color_of(index), marker=marker_of(index), label=describe(name))
            for index, name in styled(series_keys)
        ]
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=2,
            title=f"minus {method_label(reference)}, same problems",
            title_fontsize=6.5,
        )
    return figure


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Compare, draw and save; returns the lines to print."""
    reference = request.options.reference
    tolerance = resolve_tolerance(trials, request.tolerance)
    differences = paired_differences(trials, reference, tolerance)
    series, panels = series_columns(trials), panel_columns(trials)
    figure = paired_figure(differences, series, panels, reference)
    settings = {"tolerance": tolerance, "reference": reference, "level": 0.95}
    paths = save_figure(figure, request.out, "paired", request.origin(trials, settings))
    table = mean_differences(differences, [*series, *panels])
    shown = table.assign(**name_nulls(table, [*series, *panels]))
    return [*shown.to_string(index=False, float_format="{:.3g}".format).splitlines(), "", *path_lines(paths)]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", default="min_nuclear_norm", help="method to compare with")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("paired", "Paired differences of success between methods.", draw, arguments, _arguments)
