"""The picture of ``analysis.ratios``: a ratio for each shape, a panel for each depth, a colour for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from flatdist.figures.layout import describe, keys_of, legend_columns, styled
from flatdist.figures.ratios import panels_of
from flatdist.figures.style import COLUMN_WIDTH, color_of, marker_of, method_label, plain_ticks, themed
from flatdist.fits.grouping import matching
from flatdist.fits.shapes import predicted
from flatdist.theory import SAMPLE_COMPLEXITIES, prediction

_SPREAD = 0.012  # series of one shape are set side by side, by this much of log x
_RATIO_TICKS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0, 5.0)


def ratios_figure(table: pd.DataFrame, series: Sequence[str], margin: float) -> Figure:
    """Draw the ratios against the statistical dimension.

    Args:
        table: from :func:`flatdist.fits.ratios.ratios`.
        series: columns that make a colour; the depth makes panels of its own.
        margin: half-width of the band around 1.
    """
    colored = [name for name in series if name != "depth"]
    keys = list(styled(keys_of(table, colored)))
    panels = panels_of(table)
    x = predicted("statdim", table)
    limits = _limits(table, margin)
    handles = _handles(keys, table, margin)
    columns = legend_columns(handles)
    with themed():
        size = (COLUMN_WIDTH, 1.25 * len(panels) + 0.55 + 0.13 * -(-len(handles) // columns))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for axes, (depth, part) in zip(grid, panels, strict=True):
            axes.axhspan(1.0 - margin, 1.0 + margin, color="#dddddd", linewidth=0, zorder=0)
            axes.axhline(1.0, color="#222222", linewidth=0.6, zorder=1)
            axes.set_yscale("log")
            axes.set_ylim(*limits)
            for place, (index, key) in enumerate(keys):
                shift = np.exp(_SPREAD * (place - 0.5 * (len(keys) - 1)))
                _points(axes, matching(part, key), shift, index, limits)
            if depth is not None:
                axes.set_title(f"depth {depth}", loc="left", pad=3)
            sns.despine(ax=axes)
        figure.supylabel(_ratio_label(str(table["over"].iloc[0])), fontsize=mpl.rcParams["axes.labelsize"])
        ticks = [tick for tick in _RATIO_TICKS if limits[0] <= tick <= limits[1]]
        grid[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        grid[0].minorticks_off()
        grid[-1].set_xscale("log")
        grid[-1].set_xlim(x.min() / 1.08, x.max() * 1.08)
        plain_ticks(grid[-1].xaxis, x.min(), x.max())
        grid[-1].set_xlabel("statistical dimension of the shape and rank")
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)
    return figure


def _limits(table: pd.DataFrame, margin: float) -> tuple[float, float]:
    """Range of the ratio axis: all ratios and the band, and intervals as far as they are not much wider."""
    known = table["ratio"].dropna()
    low, high = min(known.min(), 1.0 - margin) if len(known) else 0.5, max([*known, 1.0 + margin])
    ends = table[["ratio_low", "ratio_high"]].to_numpy(dtype=float)
    ends = ends[np.isfinite(ends) & (ends > 0.8 * low) & (ends < 1.25 * high)]
    return min([low, *ends]) / 1.02, max([high, *ends]) * 1.02


def _points(axes: Axes, table: pd.DataFrame, shift: float, index: int, limits: tuple[float, float]) -> None:
    """Ratios with their intervals; a censored one as an arrow from the bound that is known."""
    if table.empty:
        return
    x = predicted("statdim", table) * shift
    ratio, low, high = (table[name].to_numpy(dtype=float) for name in ("ratio", "ratio_low", "ratio_high"))
    known = ~np.isnan(ratio)
    ends = np.clip([low[known], high[known]], *limits)
    axes.errorbar(
        x[known], ratio[known], yerr=[ratio[known] - ends[0], ends[1] - ratio[known]], color=color_of(index),
        marker=marker_of(index), linestyle="", elinewidth=0.7, markersize=3, markeredgewidth=0.2,
        markeredgecolor="white", zorder=3,
    )  # fmt: skip
    for bound, marker, usable in ((low, "$\\uparrow$", low > 0), (high, "$\\downarrow$", np.isfinite(high))):
        other = np.isinf(high) if marker == "$\\uparrow$" else low <= 0
        shown = ~known & usable & other
        at = np.clip(bound[shown], *limits)
        axes.plot(x[shown], at, color=color_of(index), marker=marker, linestyle="", markersize=5)


def _ratio_label(over: str) -> str:
    if over in SAMPLE_COMPLEXITIES:
        return "$n_{50}$ / " + {"statdim": "stat. dim."}.get(over, prediction(over).label)
    return f"$n_{{50}}$ / {method_label(over)}'s"


def _handles(keys: Sequence[tuple[int, Mapping[str, Any]]], table: pd.DataFrame, margin: float) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=color_of(index), marker=marker_of(index), linestyle="", label=describe(key) or "all")
        for index, key in keys
    ]
    handles.append(Patch(color="#dddddd", label=f"within {100 * margin:g} %"))
    if table["ratio"].isna().any():
        handles.append(Line2D([], [], color="#777777", marker="$\\uparrow$", linestyle="", label="censored: bound"))
    return handles
