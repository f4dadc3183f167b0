"""The picture of ``analysis.first_success``: E[N] beside delta + 1/2, and the methods' N on the same streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.layout import describe, keys_of, legend_columns, styled
from flatdist.figures.style import COLUMN_WIDTH, color_of, marker_of, method_label, plain_ticks, themed
from flatdist.fits.grouping import matching
from flatdist.fits.shapes import predicted

_SPREAD = 0.012  # series of one shape are set side by side, by this much of log x


def first_success_figure(
    means: pd.DataFrame, pairs: pd.DataFrame | None, series: Sequence[str], reference: str
) -> Figure:
    """Draw E[N] - (delta + 1/2) and the paired differences, in percent of delta, against delta.

    Args:
        means: from :func:`flatdist.fits.first_success.mean_first_success`.
        pairs: from :func:`flatdist.fits.first_success.paired_first_success`; None with one method.
        series: columns that make a colour.
        reference: the method that pairs are compared with.
    """
    keys = list(styled(keys_of(means, series)))
    handles = [
        Line2D([], [], color=color_of(index), marker=marker_of(index), linestyle="", label=describe(key) or "all")
        for index, key in keys
    ]
    columns = legend_columns(handles)
    panels = 1 if pairs is None else 2
    with themed():
        size = (COLUMN_WIDTH, 1.6 * panels + 0.5 + 0.13 * -(-len(handles) // columns))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(panels, 1, squeeze=False, sharex=True)[:, 0]
        tables = [(grid[0], _mean_percent(means))]
        if pairs is not None:
            tables.append((grid[1], _pair_percent(pairs)))
        for axes, table in tables:
            axes.axhline(0.0, color="#222222", linewidth=0.6, zorder=1)
            for place, (index, key) in enumerate(keys):
                _points(axes, matching(table, key), np.exp(_SPREAD * (place - 0.5 * (len(keys) - 1))), index)
            sns.despine(ax=axes)
        grid[0].set_ylabel("$E[N] - (\\delta + 1/2)$,\n% of $\\delta$")
        if pairs is not None:
            grid[1].set_ylabel(f"$N$ minus {method_label(reference)}'s,\nsame streams, % of $\\delta$")
        x = predicted("statdim", means)
        grid[-1].set_xscale("log")
        grid[-1].set_xlim(x.min() / 1.08, x.max() * 1.08)
        plain_ticks(grid[-1].xaxis, x.min(), x.max())
        grid[-1].set_xlabel("statistical dimension $\\delta$ of the shape and rank")
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)
    return figure


def _mean_percent(means: pd.DataFrame) -> pd.DataFrame:
    dimension = predicted("statdim", means)
    percent = 100.0 / dimension
    columns = {f"y{end}": (means[f"mean{end}"] - means["predicted"]) * percent for end in ("", "_low", "_high")}
    return means.assign(x=dimension, **columns)


def _pair_percent(pairs: pd.DataFrame) -> pd.DataFrame:
    percent = 100.0 / predicted("statdim", pairs)
    return pairs.assign(
        x=predicted("statdim", pairs),
        **{f"y{end}": pairs[f"difference{end}"] * percent for end in ("", "_low", "_high")},
    )


def _points(axes: Axes, table: pd.DataFrame, shift: float, index: int) -> None:
    known = table.dropna(subset=["y"])
    style: Mapping[str, Any] = {"color": color_of(index), "marker": marker_of(index), "linestyle": ""}
    axes.errorbar(
        known["x"] * shift, known["y"], yerr=[known["y"] - known["y_low"], known["y_high"] - known["y"]],
        elinewidth=0.7, markersize=3, markeredgewidth=0.2, markeredgecolor="white", zorder=3, **style,
    )  # fmt: skip
