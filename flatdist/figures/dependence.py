"""n50 as a function of one field of the cells, a line for each value of the others: what would change the finding?

``python -m analysis.dependence SWEEP --field init_scale [--store S] [--out DIR] [--tolerance E]``

Flat and low where the method forgets the field; the map of n50 over the initial scale and the label noise, which tells
flatness from the bias of small layers, is this figure with ``--field init_scale``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.command import Request, path_lines, run_command, table_lines
from flatdist.figures.layout import describe, keys_of, legend_columns, styled
from flatdist.figures.sample_complexity import draw_predictions
from flatdist.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    PREDICTION_LINES,
    color_of,
    marker_of,
    plain_ticks,
    save_figure,
    themed,
)
from flatdist.fits.grouping import matching, name_nulls
from flatdist.fits.ratios import BRACKETED, changes, check_field, split
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import resolve_tolerance
from flatdist.fits.threshold import fit_thresholds
from flatdist.theory import prediction

PREDICTIONS = ("dof", "rsum", "statdim", "entries")
_PANELS_IN_ONE_COLUMN = 4
_MOST_TICKS = 7


def in_panel(table: pd.DataFrame, key: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of a panel; those of methods without a depth are in the panels of every depth."""
    found = matching(table, {name: value for name, value in key.items() if name != "depth"})
    return found[found["depth"].isna() | (found["depth"] == key["depth"])] if "depth" in key else found


def dependence_figure(trials: pd.DataFrame, thresholds: pd.DataFrame, field: str) -> Figure:
    """n50 against the field: a panel for each problem, a colour for each method.

    Args:
        trials: rows of the store.
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`, grouped by the field and by what
        :func:`split` says. field: on the x axis; methods without it are horizontal lines.
    """
    panels, series = split(trials, field)
    panel_keys, series_keys = keys_of(thresholds, panels), keys_of(thresholds, series)
    panel_keys = [key for key in panel_keys if key.get("depth", 0) is not None] or panel_keys
    columns = 1 if len(panel_keys) <= _PANELS_IN_ONE_COLUMN else 2
    rows = -(-len(panel_keys) // columns)
    values = np.sort(thresholds[field].dropna().astype(float).unique())
    logarithmic = bool(values[0] > 0 and values[-1] / values[0] > 3)
    with themed():
        size = (COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, 1.6 * rows + 0.5 + 0.13 * (len(series_keys) + 2))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        drawn: set[str] = set()
        for axes, key in zip(grid.flat, panel_keys, strict=False):
            mine = in_panel(thresholds, key)
            axes.set_yscale("log")
            _limits(axes, mine)
            for index, name in styled(series_keys):
                _line(axes, matching(mine, name), field, index)
            drawn |= draw_predictions(axes, in_panel(trials, key), PREDICTIONS, n_axis="y", linewidth=0.8)
            plain_ticks(axes.yaxis, *axes.get_ylim())
            axes.set_title(describe(key), loc="left", pad=3)
            axes.set_ylabel("$n_{50}$")
            sns.despine(ax=axes)
        for axes in grid.flat[len(panel_keys) :]:
            axes.set_axis_off()
        for axes in grid.flat[max(len(panel_keys) - columns, 0) : len(panel_keys)]:
            axes.set_xlabel(field)
            axes.tick_params(labelbottom=True)
        _x_axis(grid.flat[0], values, logarithmic)
        handles = _handles(series_keys, drawn, thresholds)
        figure.legend(handles=handles, loc="outside upper center", ncols=legend_columns(handles))
    return figure


def _x_axis(axes: Axes, values: np.ndarray, logarithmic: bool) -> None:
    """The measured values as ticks, where they are few."""
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / (values[-1] / values[0]) ** 0.06, values[-1] * (values[-1] / values[0]) ** 0.06)
    if len(values) <= _MOST_TICKS:
        axes.set_xticks(list(values), labels=[f"{value:g}" for value in values])
        axes.minorticks_off()
    elif logarithmic:
        plain_ticks(axes.xaxis, values[0], values[-1])


def _limits(axes: Axes, thresholds: pd.DataFrame) -> None:
    """Wide enough for every threshold, every bound of a censored one, and the intervals that are not far wider."""
    values = thresholds[["n50", "n50_low", "n50_high"]].to_numpy(dtype=float)
    centers, bounds = values[np.isfinite(values[:, 0]), 0], values[np.isfinite(values) & (values > 0)]
    if len(centers):
        bounds = bounds[(bounds > 0.6 * centers.min()) & (bounds < centers.max() / 0.6)]
    ends = [*bounds, *_floor(thresholds, bounds)]
    if ends:
        axes.set_ylim(min(ends) / 1.05, max(ends) * 1.05)


def _floor(thresholds: pd.DataFrame, bounds: np.ndarray) -> list[float]:
    """The degrees of freedom, which no n50 is below, where they are near: what small layers head for."""
    shapes = thresholds[[name for name in SHAPE if name in thresholds]].drop_duplicates()
    if shapes.shape != (1, len(SHAPE)) or not len(bounds):
        return []
    value = prediction("dof").value(*(int(size) for size in shapes.iloc[0]))
    return [value] if bounds.min() / 1.5 < value < bounds.min() else []


def _line(axes: Axes, fits: pd.DataFrame, field: str, index: int) -> None:
    """One series: points with intervals, arrows where censored, a band where the method has no such field."""
    style: Mapping[str, Any] = {"color": color_of(index), "marker": marker_of(index)}
    low, high = axes.get_ylim()
    for _, fit in fits[fits[field].isna() & fits["censored"].isin(BRACKETED)].iterrows():
        axes.axhspan(fit["n50_low"], fit["n50_high"], color=color_of(index), alpha=0.18, linewidth=0, zorder=0)
        axes.axhline(fit["n50"], color=color_of(index), linewidth=0.9, zorder=1)
    fits = fits[fits[field].notna()].sort_values(field)
    known = fits[fits["censored"].isin(BRACKETED)]
    ends = np.clip(known[["n50_low", "n50_high"]].to_numpy(dtype=float).T, low, high)
    center = known["n50"].to_numpy(dtype=float)
    axes.errorbar(
        known[field].astype(float), center, yerr=[center - ends[0], ends[1] - center], elinewidth=0.7, zorder=3, **style
    )
    for kind, bound, arrow in (("right", "n50_low", "$\\uparrow$"), ("left", "n50_high", "$\\downarrow$")):
        for _, fit in fits[fits["censored"] == kind].iterrows():
            limit = float(fit[bound])
            if math.isfinite(limit) and limit > 0:
                axes.plot([float(fit[field])], [np.clip(limit, low * 1.03, high / 1.03)], color=color_of(index),
                          marker=arrow, markersize=6, zorder=3)  # fmt: skip


def _handles(keys: Sequence[Mapping[str, Any]], drawn: set[str], thresholds: pd.DataFrame) -> list[Line2D]:
    handles = [
        Line2D([], [], color=color_of(index), marker=marker_of(index), label=describe(name) or "all trials")
        for index, name in styled(keys)
    ]
    for law in (name for name in PREDICTIONS if name in drawn):
        dashes, grey = PREDICTION_LINES[law]
        handles.append(Line2D([], [], color=grey, linestyle=dashes, label=prediction(law).label))
    if thresholds["censored"].isin(["left", "right"]).any():
        label = "beyond what was measured"
        handles.append(Line2D([], [], color="#777777", marker="$\\uparrow$", linestyle="", label=label))
    return handles


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    field = request.options.field
    check_field(trials, field)
    tolerance = resolve_tolerance(trials, request.tolerance)
    panels, series = split(trials, field)
    by = list(dict.fromkeys([*series, *panels, field, *(name for name in SHAPE if name in trials)]))
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=request.link)
    settings = {"tolerance": tolerance, "link": request.link, "level": 0.95, "by": by, "field": field}
    figure = dependence_figure(trials, thresholds, field)
    paths = save_figure(figure, request.out, f"dependence_{field}", request.origin(trials, settings))
    others = [name for name in by if name != field]
    compared = changes(thresholds, field, others)
    shown = pd.concat([name_nulls(compared, others), compared.drop(columns=others)], axis=1)
    table = shown.to_string(index=False, float_format="{:.3f}".format).splitlines() if len(shown) else []
    return [*table_lines(thresholds, by), "", *table, "", *path_lines(paths)]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--field", required=True, help="a numeric field of the cells, such as init_scale or steps")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("dependence", "n50 as a function of one field of the cells.", draw, arguments, _arguments)
