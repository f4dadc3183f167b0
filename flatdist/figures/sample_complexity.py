"""Success probability against the number of measurements, with n50 and theory's predictions.

``python -m analysis.sample_complexity SWEEP [--store S] [--out DIR] [--tolerance E]``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.command import Request, path_lines, run_command, table_lines
from flatdist.figures.layout import describe, keys_of, styled
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
from flatdist.fits.grouping import matching, panel_columns, series_columns
from flatdist.fits.success import resolve_tolerance, success_rates
from flatdist.fits.threshold import fit_thresholds, grouping
from flatdist.theory import prediction
from flatdist.threshold.curves import curve

PREDICTIONS = ("dof", "rsum", "statdim", "entries")
_PANEL_HEIGHT = 1.25  # inches
_PANELS_IN_ONE_COLUMN = 5
_SPREAD = 0.004  # series are shifted by this much of log n's range, so that equal points stay visible


def sample_complexity_figure(trials: pd.DataFrame, thresholds: pd.DataFrame, tolerance: float) -> Figure:
    """Draw success against n: a panel for each problem, a colour for each method.

    Args:
        trials: rows of the store.
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`, grouped by :func:`grouping` of the trials.
        tolerance: of the success.
    """
    panels, series = panel_columns(trials), series_columns(trials)
    rates = success_rates(trials, [*panels, *series], tolerance)
    panel_keys, series_keys = keys_of(rates, panels), keys_of(rates, series)
    columns = 1 if len(panel_keys) <= _PANELS_IN_ONE_COLUMN else 2
    rows = -(-len(panel_keys) // columns)
    legend_height = 0.13 * (1 + max(len(series_keys), len(PREDICTIONS) + 1)) + 0.12
    height = rows * _PANEL_HEIGHT + legend_height + 0.4
    with themed():
        figure = Figure(figsize=(COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        shown: set[str] = set()
        for axes, key in zip(grid.flat, panel_keys, strict=False):
            _panel(axes, key, matching(rates, key), matching(thresholds, key), series_keys)
            shown |= draw_predictions(axes, matching(trials, key))
        for axes in grid.flat[len(panel_keys) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("success")
        for axes in grid.flat[max(len(panel_keys) - columns, 0) : len(panel_keys)]:
            axes.set_xlabel("measurements $n$")
        figure.legend(
            handles=two_blocks(_series_handles(series_keys), [*_prediction_handles(shown), _band_handle()]),
            loc="outside upper center",
            ncols=2,
            columnspacing=1.2,
            handlelength=2.2,
            title=f"success: relative error < {tolerance:g}",
            title_fontsize=6.5,
        )
    return figure


def _panel(
    axes: Axes,
    key: Mapping[str, Any],
    rates: pd.DataFrame,
    thresholds: pd.DataFrame,
    series_keys: Sequence[Mapping[str, Any]],
) -> None:
    low, high = float(rates["n"].min()), float(rates["n"].max())
    margin = (high / low) ** 0.04 if high > low else 1.2
    dense = np.geomspace(low, high, 300)
    for place, (index, series) in enumerate(styled(series_keys)):
        points, fits = matching(rates, series), matching(thresholds, series)
        shift = (high / low) ** (_SPREAD * (place - 0.5 * (len(series_keys) - 1)))
        sns.scatterplot(
            x=points["n"].to_numpy(dtype=float) * shift,
            y=points["rate"].to_numpy(dtype=float),
            color=color_of(index),
            marker=marker_of(index),
            s=11,
            linewidth=0.2,
            ax=axes,
            legend=False,
            zorder=3,
            clip_on=False,
        )
        for _, fit in fits.iterrows():
            _draw_fit(axes, fit, dense, color_of(index))
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.5, 1])
    plain_ticks(axes.xaxis, low, high)
    counts = sorted(set(rates["count"]))
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    axes.set_title(f"{describe(key)}   ({many} replicates per point)", loc="left", pad=3)
    sns.despine(ax=axes)


def draw_predictions(
    axes: Axes,
    trials: pd.DataFrame,
    names: Sequence[str] = PREDICTIONS,
    *,
    n_axis: Literal["x", "y"] = "x",
    linewidth: float = 0.9,
) -> set[str]:
    """A line for each predicted n, where the trials have one shape and rank and the line is in view.

    Args:
        axes: the panel.
        trials: the panel's trials.
        names: of the predictions to draw.
        n_axis: the axis that n is on.
        linewidth: in points.

    Returns:
        Names of the predictions that were drawn.
    """
    shown: set[str] = set()
    if not {"d_out", "d_in", "rank"} <= set(trials):
        return shown
    shapes = trials[["d_out", "d_in", "rank"]].drop_duplicates()
    if len(shapes) != 1:
        return shown
    d_out, d_in, rank = (int(size) for size in shapes.iloc[0])
    low, high = axes.get_xlim() if n_axis == "x" else axes.get_ylim()
    line = axes.axvline if n_axis == "x" else axes.axhline
    for name in names:
        value = prediction(name).value(d_out, d_in, rank)
        dashes, grey = PREDICTION_LINES[name]
        if low <= value <= high:
            line(value, linestyle=dashes, color=grey, linewidth=linewidth, zorder=1)
            shown.add(name)
    return shown


def _draw_fit(axes: Axes, fit: pd.Series, dense: np.ndarray, color: str) -> None:
    """The fitted curve and the band of n50; a step over the gap where the data are separated."""
    if fit["censored"] in ("none", "interval"):
        axes.axvspan(fit["n50_low"], fit["n50_high"], color=color, alpha=0.18, linewidth=0, zorder=0)
        axes.plot([fit["n50"]], [0.5], marker="|", color=color, markersize=7, markeredgewidth=1.2, zorder=4)
    if fit["censored"] == "none":
        rate = curve(fit["link"], dense, fit["n50"], fit["scale"], fit["lapse"])
        axes.plot(dense, rate, color=color, zorder=2)
    elif fit["censored"] == "interval":
        edges = [dense[0], fit["n50_low"], fit["n50_high"], dense[-1]]
        axes.plot(edges, [0, 0, 1, 1], color=color, linewidth=0.8, zorder=2)


def _series_handles(keys: Sequence[Mapping[str, Any]]) -> list[Line2D]:
    return [
        Line2D([], [], color=color_of(index), marker=marker_of(index), label=describe(key) or "all trials")
        for index, key in styled(keys)
    ]


def _prediction_handles(shown: Set[str]) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=PREDICTION_LINES[name][1],
            linestyle=PREDICTION_LINES[name][0],
            linewidth=0.8,
            label=prediction(name).label,
        )
        for name in PREDICTIONS
        if name in shown
    ]


def two_blocks(left: Sequence[Line2D], right: Sequence[Line2D]) -> list[Line2D]:
    """Handles of a two-column legend, filled up so that each block has a column of its own."""
    rows = max(len(left), len(right))
    return [handle for block in (left, right) for handle in (*block, *[_blank()] * (rows - len(block)))]


def _blank() -> Line2D:
    return Line2D([], [], color="none", label=" ")


def _band_handle() -> Line2D:
    return Line2D([], [], color="#777777", alpha=0.3, linewidth=6, label="$n_{50}$, 95 % interval")


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    tolerance = resolve_tolerance(trials, request.tolerance)
    by = grouping(trials)
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=request.link)
    figure = sample_complexity_figure(trials, thresholds, tolerance)
    origin = request.origin(trials, {"tolerance": tolerance, "link": request.link, "level": 0.95, "by": by})
    paths = save_figure(figure, request.out, "sample_complexity", origin)
    return [*table_lines(thresholds, by), "", *path_lines(paths)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("sample_complexity", "Success probability against n, with n50 and predictions.", draw, arguments)
