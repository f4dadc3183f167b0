"""What depth does to the transition: ratios to the nuclear norm over the size, limits, variances, and the ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatdist.figures.style import INK, PAGE_WIDTH, color_of, despine, marker_of, plain_ticks, themed
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
    square = _square(ratios)
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 2.5), layout="constrained")
        ratio, variance, ablation = figure.subplots(1, 3)
        depth_panel(ratio, ratios)
        for index, depth in enumerate(DEPTHS):
            _line(variance, square[square["norm"] == depth], "variance_ratio", index, None)
        for index, norm in enumerate(ABLATIONS):
            label = {"3": "F (depth 3)"}.get(norm, norm.removeprefix("3, "))
            _line(ablation, square[square["norm"] == norm], "ratio", index, label)
        variance.set_ylabel("variance of $N$ over the nuclear norm's")
        ablation.set_ylabel("$n_{50}$ over the nuclear norm's")
        for axes in (variance, ablation):
            _finish(axes, square)
        ablation.legend(fontsize=6)
    return figure


def ratios_figure(tables: Mapping[str, pd.DataFrame], reference: str) -> Figure:
    """n50 of methods over a reference's: one row per method and setting, one panel per table.

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
            axes.axvline(1.0, color=INK, linewidth=0.6, zorder=1)
            axes.set_yticks(rows.index, rows["norm"])
            axes.invert_yaxis()
            axes.set_title(title)
            axes.set_xlabel(f"$n_{{50}}$ over that of {reference}")
            despine(axes)
    return figure


def depth_panel(axes: Axes, ratios: pd.DataFrame, depths: Sequence[str] = DEPTHS) -> None:
    """n50 over the nuclear norm's against the size: one line per depth, each limit a tick at the right.

    Args:
        axes: to draw into.
        ratios: from :func:`flatdist.fits.effective_norm.depth_ratios`.
        depths: of :data:`DEPTHS`.
    """
    square = _square(ratios)
    for depth in depths:
        index = DEPTHS.index(depth)
        label = "infinite depth" if depth == "inf" else f"depth {depth}"
        _line(axes, square[square["norm"] == depth], "ratio", index, label)
        limit = flattest_limit(math.inf if depth == "inf" else int(depth))
        place = axes.get_yaxis_transform()
        axes.plot([1.0, 1.04], [limit, limit], color=color_of(index), transform=place, clip_on=False)
    axes.set_ylabel("$n_{50}$ over the nuclear norm's")
    _finish(axes, square)
    axes.legend(fontsize=6)


def _square(ratios: pd.DataFrame) -> pd.DataFrame:
    return ratios[(ratios["d_out"] == ratios["d_in"]) & (ratios["rank"] == 1) & (ratios["ensemble"] == "gaussian")]


def _finish(axes: Axes, square: pd.DataFrame) -> None:
    axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
    axes.set_xscale("log")
    axes.set_xlabel("size $d$")
    if len(square):
        plain_ticks(axes.xaxis, square["d_out"].min(), square["d_out"].max())
    despine(axes)


def _line(axes: Axes, rows: pd.DataFrame, column: str, index: int, label: str | None) -> None:
    rows = rows.sort_values("d_out")
    axes.errorbar(
        rows["d_out"], rows[column], yerr=2.0 * rows[f"{column}_error"], color=color_of(index), marker=marker_of(index),
        markersize=3, linewidth=0.8, elinewidth=0.6, label=label,
    )  # fmt: skip
