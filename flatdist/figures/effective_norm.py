"""What depth does to the transition: ratios to the nuclear norm over the size, limits, variances, and the ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatdist.figures.style import PAGE_WIDTH, color_of, marker_of, plain_ticks, themed
from flatdist.theory import flattest_limit

DEPTHS = ("2", "3", "4", "5", "inf")
ABLATIONS = ("3", "3, isotropic normal weights", "3, mean gradient")


def depth_figure(ratios: pd.DataFrame) -> Figure:
    """Three panels over the size d of square Gaussian rank-1 problems.

    Args:
        ratios: from :func:`flatdist.fits.effective_norm.depth_ratios`.

    Returns:
        n50 over the nuclear norm's at each depth with the limits as ticks at the right; the ratio of variances; and
        n50's ratio with parts of F replaced. Bars are two standard errors.
    """
    square = ratios[(ratios["d_out"] == ratios["d_in"]) & (ratios["rank"] == 1) & (ratios["ensemble"] == "gaussian")]
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 2.5), layout="constrained")
        ratio, variance, ablation = figure.subplots(1, 3)
        for index, depth in enumerate(DEPTHS):
            rows = square[square["norm"] == depth]
            label = "infinite depth" if depth == "inf" else f"depth {depth}"
            _line(ratio, rows, "ratio", index, label)
            _line(variance, rows, "variance_ratio", index, None)
            limit = flattest_limit(math.inf if depth == "inf" else int(depth))
            side = {"transform": ratio.get_yaxis_transform(), "clip_on": False}
            ratio.plot([1.0, 1.04], [limit, limit], color=color_of(index), **side)
        for index, norm in enumerate(ABLATIONS):
            label = {"3": "F (depth 3)"}.get(norm, norm.removeprefix("3, "))
            _line(ablation, square[square["norm"] == norm], "ratio", index, label)
        ratio.set_ylabel("$n_{50}$ over the nuclear norm's")
        variance.set_ylabel("variance of $N$ over the nuclear norm's")
        ablation.set_ylabel("$n_{50}$ over the nuclear norm's")
        for axes in (ratio, variance, ablation):
            axes.axhline(1.0, color="#222222", linewidth=0.6, zorder=1)
            axes.set_xscale("log")
            axes.set_xlabel("size $d$")
            if len(square):
                plain_ticks(axes.xaxis, square["d_out"].min(), square["d_out"].max())
            sns.despine(ax=axes)
        ratio.legend(fontsize=6)
        ablation.legend(fontsize=6)
    return figure


def ratios_figure(tables: Mapping[str, pd.DataFrame], reference: str) -> Figure:
    """n50 of methods over a reference's, a row a method and setting, a panel a table.

    Args:
        tables: from :func:`flatdist.fits.depth_ratios`, by the titles of their panels.
        reference: the norm that they were compared with, at 1.

    Returns:
        Points with bars of two standard errors.
    """
    with themed():
        most = max(len(table) for table in tables.values())
        figure = Figure(figsize=(PAGE_WIDTH, 0.8 + 0.2 * most), layout="constrained")
        for axes, (title, table) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
            rows = table[table["norm"] != reference].reset_index(drop=True)
            error = 2.0 * rows["ratio_error"]
            axes.errorbar(rows["ratio"], rows.index, xerr=error, color=color_of(0), fmt="o", markersize=3)
            axes.axvline(1.0, color="#222222", linewidth=0.6, zorder=1)
            axes.set_yticks(rows.index, rows["norm"])
            axes.invert_yaxis()
            axes.set_title(title)
            axes.set_xlabel(f"$n_{{50}}$ over that of {reference}")
            sns.despine(ax=axes)
    return figure


def _line(axes: Axes, rows: pd.DataFrame, column: str, index: int, label: str | None) -> None:
    rows = rows.sort_values("d_out")
    axes.errorbar(
        rows["d_out"], rows[column], yerr=2.0 * rows[f"{column}_error"], color=color_of(index), marker=marker_of(index),
        markersize=3, linewidth=0.8, elinewidth=0.6, label=label,
    )  # fmt: skip
