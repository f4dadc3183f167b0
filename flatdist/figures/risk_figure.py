"""The pictures of ``analysis.risk`` and ``analysis.risk_steps``: errors on log axes, a panel for each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.layout import describe, keys_of
from flatdist.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    color_of,
    marker_of,
    method_label,
    method_rank,
    plain_ticks,
    themed,
)
from flatdist.fits.grouping import matching

CURVE_LINES: Mapping[str, tuple[Any, str, str]] = {
    "nuclear_norm": ("-", "#222222", "nuclear norm, predicted"),
    "minimum_norm": ((0, (5, 2)), "#222222", "min-Frobenius norm, exact law"),
    "floor": ((0, (1, 1.5)), "#222222", "least error of any interpolator"),
    "tangent_fit": ("-", "#aaaaaa", "rank-$r$ fit that does not interpolate"),
    "truncation": ((0, (5, 2)), "#aaaaaa", "best rank-$r$ approximation"),
}
LINES: Sequence[Any] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)))  # series of one method, in turn
_SPREAD = 0.006  # series are shifted by this much of the log axis's range, so that equal points stay visible
_DECADES_SHOWN = 6.0
_SMALLEST = 1e-18  # exact answers are drawn here


def risk_figure(table: pd.DataFrame, curves: pd.DataFrame, series: Sequence[str], panels: Sequence[str]) -> Figure:
    """Draw the median error, with quartiles, against n over the statistical dimension.

    Args:
        table: from :func:`flatdist.fits.risk.risk_table`.
        curves: from :func:`flatdist.fits.risk_predictions.prediction_curves`.
        series: columns that tell a panel's series apart.
        panels: columns that tell panels apart.
    """
    keys = keys_of(table, series)
    with themed():
        shown = [name for name in CURVE_LINES if name in set(curves["curve"])]
        lines = _curve_handles(shown)
        figure, grid, panel_keys = _grid(table, panels, len(keys) + len(lines))
        for axes, key in zip(grid.flat, panel_keys, strict=False):
            mine, theory = matching(table, key), matching(curves, key)
            unit = float((mine["n_over_statdim"] / mine["n"]).iloc[0])
            for name in shown:
                dashes, grey, _ = CURVE_LINES[name]
                curve = theory[theory["curve"] == name].sort_values("n")
                axes.plot(curve["n"] * unit, curve["error"], linestyle=dashes, color=grey, linewidth=0.8, zorder=2)
            _series(axes, mine, "n_over_statdim", keys, ("error", "error_q25", "error_q75"))
            _finish(axes, mine, key)
        for axes in grid[:, 0]:
            axes.set_ylabel("relative error")
        _legend(figure, [*_handles(keys), *lines], f"median and quartiles of {_counts(table, 'replicates')} problems")
    return figure


def ratio_figure(ratios: pd.DataFrame, series: Sequence[str], panels: Sequence[str], reference: str) -> Figure:
    """Draw the median ratio of errors, with its 95 % interval, against n over the statistical dimension.

    Args:
        ratios: from :func:`flatdist.fits.risk.error_ratios`.
        series: columns that tell a panel's series apart.
        panels: columns that tell panels apart.
        reference: method whose errors are the denominators.
    """
    keys = keys_of(ratios, series)
    with themed():
        figure, grid, panel_keys = _grid(ratios, panels, len(keys))
        for axes, key in zip(grid.flat, panel_keys, strict=False):
            mine = matching(ratios, key)
            axes.axhline(1.0, color="#222222", linewidth=0.6, zorder=1)
            _series(axes, mine, "n_over_statdim", keys, ("ratio", "ratio_low", "ratio_high"))
            _finish(axes, mine, key)
        for axes in grid[:, 0]:
            axes.set_ylabel(f"error / {method_label(reference)}'s")
        _legend(figure, _handles(keys), f"median of {_counts(ratios, 'pairs')} pairs, 95 % interval")
    return figure


def steps_figure(table: pd.DataFrame, series: Sequence[str], panels: Sequence[str]) -> Figure:
    """Draw the median error, and how much of the noise is left unfitted, against the number of steps.

    Args:
        table: from :func:`flatdist.fits.risk.risk_table`, with ``steps``; methods without steps are drawn as levels.
        series: columns that tell a panel's series apart, ``steps`` not among them.
        panels: columns that tell the columns of panels apart.
    """
    keys, columns = keys_of(table, series), keys_of(table, panels)
    with themed():
        size = (PAGE_WIDTH, 3.8 + 0.14 * -(-(len(keys) + 2) // 3))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
        for place, key in enumerate(columns):
            mine = matching(table, key)
            trained, level = mine[mine["steps"].notna()], mine[mine["steps"].isna()]
            for axes, names in zip(
                grid[:, place], (("error", "error_q25", "error_q75"), ("misfit", None, None)), strict=True
            ):
                _series(axes, trained, "steps", keys, names)
                for _, row in level.iterrows():
                    if row[names[0]] > _SMALLEST**0.5:  # interpolation to rounding needs no line
                        axes.axhline(row[names[0]], color=color_of(method_rank(row["method"])), linewidth=0.8, zorder=1)
                _finish(axes, trained, key if axes is grid[0, place] else {}, "steps")
            for name, column in (("floor", "floor"), ("tangent_fit", "rank_fit")):
                dashes, grey, _ = CURVE_LINES[name]
                for value in set(mine[column].dropna()):
                    grid[0, place].axhline(value, linestyle=dashes, color=grey, linewidth=0.8, zorder=1)
        grid[0, 0].set_ylabel("relative error")
        grid[1, 0].set_ylabel("train loss / noise variance")
        for axes in grid[1]:
            axes.set_xlabel("steps")
        lines = _curve_handles(["floor", "tangent_fit"])
        _legend(figure, [*_handles(keys), *lines], f"median and quartiles of {_counts(table, 'replicates')} problems")
    return figure


def _grid(table: pd.DataFrame, panels: Sequence[str], entries: int) -> tuple[Figure, Any, list[dict[str, Any]]]:
    """A figure with room for the panels, one column for each value of the last thing that tells them apart."""
    panel_keys = keys_of(table, panels)
    levels = table[panels[-1]].nunique(dropna=False) if panels else 1
    columns = levels if levels in (2, 3) and len(panel_keys) % levels == 0 else min(2, len(panel_keys))
    rows = -(-len(panel_keys) // columns)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    size = (width, 1.75 * rows + 0.5 + 0.14 * -(-entries // (1 if columns == 1 else 3)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panel_keys) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(panel_keys) - columns, 0) : len(panel_keys)]:
        axes.set_xlabel("measurements $n$ / statistical dimension")
    return figure, grid, panel_keys


def _looks(keys: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Colour and marker by method; line and filling by its place among the series of that method."""
    seen: dict[Any, int] = {}
    looks = []
    for key in keys:
        method = key.get("method")
        index = method_rank(str(method))
        place = seen[method] = seen.get(method, -1) + 1
        color = color_of(index)
        filling = color if place % 2 == 0 else "white"
        look = {"color": color, "marker": marker_of(index), "linestyle": LINES[place % len(LINES)]}
        looks.append((key, {**look, "markerfacecolor": filling, "markeredgewidth": 0.7}))
    return looks


def _series(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    keys: Sequence[Mapping[str, Any]],
    names: tuple[str, str | None, str | None],
) -> None:
    """A line with a bar at each point for every series; what is infinite or unknown is left out."""
    values = table[x].to_numpy(dtype=float)
    extent = np.log(values.max() / values.min()) if len(values) else 0.0
    middle, low, high = names
    for place, (key, look) in enumerate(_looks(keys)):
        mine = matching(table, key).sort_values(x)
        center = mine[middle].to_numpy(dtype=float)
        finite = np.isfinite(center)
        where = mine[x].to_numpy(dtype=float) * np.exp(_SPREAD * extent * (place - 0.5 * (len(keys) - 1)))
        axes.plot(where[finite], np.maximum(center[finite], _SMALLEST), linewidth=0.9, zorder=3, **look)
        if low is not None and high is not None:
            ends = [np.maximum(mine[name].to_numpy(dtype=float)[finite], _SMALLEST) for name in (low, high)]
            ends[1] = np.where(np.isfinite(ends[1]), ends[1], 10.0 * np.maximum(center[finite], _SMALLEST))
            axes.vlines(where[finite], *ends, color=look["color"], linewidth=0.6, zorder=3)


def _finish(axes: Axes, table: pd.DataFrame, key: Mapping[str, Any], x: str = "n_over_statdim") -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low > 10.0**_DECADES_SHOWN:
        axes.set_ylim(bottom=high / 10.0**_DECADES_SHOWN)
    if x == "n_over_statdim":
        plain_ticks(axes.xaxis, float(table[x].min()), float(table[x].max()), most=6)
    axes.set_title(describe(key), loc="left", pad=3)
    sns.despine(ax=axes)


def _handles(keys: Sequence[Mapping[str, Any]]) -> list[Line2D]:
    return [Line2D([], [], label=describe(key) or "all trials", linewidth=0.9, **look) for key, look in _looks(keys)]


def _curve_handles(names: Sequence[str]) -> list[Line2D]:
    looks = [(CURVE_LINES[name][0], CURVE_LINES[name][1], CURVE_LINES[name][2]) for name in names]
    return [Line2D([], [], linestyle=dashes, color=grey, linewidth=0.8, label=label) for dashes, grey, label in looks]


def _counts(table: pd.DataFrame, column: str) -> str:
    counts = sorted(set(table[column]))
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _legend(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    columns = 3 if figure.get_figwidth() > COLUMN_WIDTH else 1
    figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2, handlelength=2.6,
        title=title, title_fontsize=6.5,
    )  # fmt: skip
