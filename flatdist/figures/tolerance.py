"""n50 as a function of the tolerance that defines success: near misses count for much at 1e-2, and not at 1e-6.

``python -m analysis.tolerance SWEEP [--store S] [--out DIR]``
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.layout import describe, keys_of, styled
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
from flatdist.fits.grouping import matching, name_nulls, panel_columns, series_columns
from flatdist.fits.threshold import TOLERANCES, fit_over_tolerances, grouping
from flatdist.theory import prediction

PREDICTIONS = ("rsum", "statdim")
_PANELS_IN_ONE_COLUMN = 4


def tolerance_figure(trials: pd.DataFrame, thresholds: pd.DataFrame) -> Figure:
    """n50 with its band against the tolerance: a panel for each problem, a colour for each method.

    Args:
        trials: rows of the store.
        thresholds: from :func:`fit_over_tolerances`, grouped as :func:`flatdist.fits.threshold.grouping`
        says.
    """
    panels, series = panel_columns(trials), series_columns(trials)
    panel_keys, series_keys = keys_of(thresholds, panels), keys_of(thresholds, series)
    columns = 1 if len(panel_keys) <= _PANELS_IN_ONE_COLUMN else 2
    rows = -(-len(panel_keys) // columns)
    with themed():
        size = (COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, 1.4 * rows + 0.5 + 0.13 * len(series_keys))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        drawn: set[str] = set()
        for axes, key in zip(grid.flat, panel_keys, strict=False):
            mine = matching(thresholds, key)
            for index, name in styled(series_keys):
                fits = matching(mine, name).sort_values("tolerance")
                fits = fits[fits["censored"].isin(["none", "interval"])]
                axes.fill_between(
                    fits["tolerance"], fits["n50_low"], fits["n50_high"], color=color_of(index), alpha=0.18, linewidth=0
                )
                axes.plot(fits["tolerance"], fits["n50"], color=color_of(index), marker=marker_of(index))
            shown = mine[mine["censored"].isin(["none", "interval"])]["n50"]
            if len(shown):
                axes.set_ylim(0.85 * shown.min(), 1.15 * shown.max())
            drawn |= draw_predictions(axes, matching(trials, key), PREDICTIONS, n_axis="y", linewidth=0.8)
            axes.set_xscale("log")
            axes.set_yscale("log")
            plain_ticks(axes.yaxis, *axes.get_ylim())
            axes.set_title(describe(key), loc="left", pad=3)
            sns.despine(ax=axes)
        for axes in grid.flat[len(panel_keys) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("$n_{50}$")
        for axes in grid[-1]:
            axes.set_xlabel("success: relative error below")
        grid.flat[0].invert_xaxis()
        handles = [
            Line2D([], [], color=color_of(index), marker=marker_of(index), label=describe(name) or "all trials")
            for index, name in styled(series_keys)
        ]
        for law in (name for name in PREDICTIONS if name in drawn):
            dashes, grey = PREDICTION_LINES[law]
            handles.append(Line2D([], [], color=grey, linestyle=dashes, label=prediction(law).label))
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    by = grouping(trials)
    thresholds = fit_over_tolerances(trials, by, link=request.link)
    settings = {"tolerances": TOLERANCES, "link": request.link, "level": 0.95, "by": by}
    figure = tolerance_figure(trials, thresholds)
    paths = save_figure(figure, request.out, "tolerance", request.origin(trials, settings))
    named = thresholds.assign(n50=np.round(thresholds["n50"], 1), **name_nulls(thresholds, by).astype(str))
    wide = named.pivot_table(index=by, columns="tolerance", values="n50", dropna=False, observed=True)
    return [*wide.dropna(how="all").to_string(na_rep="-").splitlines(), "", *path_lines(paths)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("tolerance", "n50 as a function of the tolerance.", draw, arguments)
