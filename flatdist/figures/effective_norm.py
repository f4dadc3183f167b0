"""What depth does to the transition: ratios to the nuclear norm over the size, limits, variances, and the ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatdist.figures.style import (
    COLUMN_WIDTH,
    FAINT,
    INK,
    PAGE_WIDTH,
    PREDICTION_LINES,
    color_of,
    despine,
    marker_of,
    plain_ticks,
    themed,
)
from flatdist.theory import (
    degrees_of_freedom,
    flattest_limit,
    prediction,
    statistical_dimension,
    statistical_dimension_asymptotic,
)

DEPTHS = ("2", "3", "4", "5", "inf")
ABLATIONS = ("3", "3, isotropic normal weights", "3, mean gradient")


def depth_figure(ratios: pd.DataFrame) -> Figure:
    """Four panels over the size d of square Gaussian rank-1 problems.

    Args:
        ratios: from :func:`flatdist.fits.effective_norm.depth_ratios`.

    Returns:
        n50 over the nuclear norm's and over the statistical dimension, at each depth, with the limits as ticks at the
        right; the ratio of variances; and n50's ratio with parts of F replaced. Bars are two standard errors.
    """
    square = _square(ratios)
    square = square[square["rank"] == 1]
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 4.8), layout="constrained")
        (ratio, statdim), (variance, ablation) = figure.subplots(2, 2)
        depth_panel(ratio, ratios)
        depth_panel(statdim, ratios, column="ratio_statdim")
        for index, depth in enumerate(DEPTHS):
            _line(variance, square[square["norm"] == depth], "d_out", "variance_ratio", index, None)
        for index, norm in enumerate(ABLATIONS):
            label = {"3": "F (depth 3)"}.get(norm, norm.removeprefix("3, "))
            _line(ablation, square[square["norm"] == norm], "d_out", "ratio", index, label)
        variance.set_ylabel("variance of $N$ over the nuclear norm's")
        ablation.set_ylabel("$n_{50}$ over the nuclear norm's")
        for axes in (variance, ablation):
            _finish(axes, square)
        ablation.legend(fontsize=6)
    return figure


def ranks_figure(ratios: pd.DataFrame, trained: pd.DataFrame | None = None) -> Figure:
    """Every rank of one square size: where half of the streams are recovered, and what depth gains on the nuclear norm.

    Args:
        ratios: from :func:`flatdist.fits.effective_norm.depth_ratios`; of its square sizes the one with most ranks.
        trained: thresholds of a training method at that size, with ``rank``, ``n50``, ``n50_low`` and ``n50_high``.

    Returns:
        Left, n50 as a part of all entries over the rank fraction, with the exact statistical dimension, its limit for
        large matrices and the degrees of freedom; right, by how much n50 is lower than the nuclear norm's, over the
        rank, with an inverse square through rank 1. Bars are two standard errors.
    """
    square = _square(ratios)
    ranked = square.groupby("d_out")["rank"].nunique()
    size = int(ranked.index.to_numpy()[ranked.to_numpy().argmax()])
    rows = square[square["d_out"] == size].assign(saving=lambda table: 1.0 - table["ratio"], entries=float(size * size))
    rows = rows.assign(saving_error=rows["ratio_error"], fraction=rows["rank"] / size)
    rows = rows.assign(part=(rows["mean"] - 0.5) / rows["entries"], part_error=rows["mean_error"] / rows["entries"])
    ranks = range(1, size + 1)
    curves = (("statdim", statistical_dimension), ("statdim_asymptotic", statistical_dimension_asymptotic),
              ("dof", degrees_of_freedom))  # fmt: skip
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 2.8), layout="constrained")
        diagram, gain = figure.subplots(1, 2)
        for name, law in curves:
            dashes, grey = PREDICTION_LINES[name]
            values = [law(size, size, rank) / size**2 for rank in ranks]
            diagram.plot([rank / size for rank in ranks], values, linestyle=dashes, color=grey, linewidth=0.8,
                         label=prediction(name).label)  # fmt: skip
        for index, norm in enumerate(("nuclear norm", *DEPTHS)):
            mine = rows[rows["norm"] == norm]
            if mine.empty:
                continue
            _line(diagram, mine, "fraction", "part", index, _named(norm), linestyle="none")
            if norm != "nuclear norm":
                _line(gain, mine, "rank", "saving", index, _named(norm))
        if trained is not None:
            below, above = trained["n50"] - trained["n50_low"], trained["n50_high"] - trained["n50"]
            diagram.errorbar(trained["rank"] / size, trained["n50"] / size**2, yerr=[below / size**2, above / size**2],
                             color=INK, fmt="x", markersize=4, label="label-noise SGD")  # fmt: skip
        first = float(rows.loc[(rows["norm"] == "3") & (rows["rank"] == 1), "saving"].iloc[0])
        gain.plot(ranks, [first / rank**2 for rank in ranks], color=FAINT, linewidth=0.6, label="$1/r^2$")
        diagram.set_xlabel(f"rank fraction $r / d$, {size} x {size}")
        diagram.set_ylabel("$n_{50} / d^2$")
        gain.axhline(0.0, color=INK, linewidth=0.6, zorder=1)
        gain.set_xscale("log")
        plain_ticks(gain.xaxis, 1, size)
        gain.set_xlabel("rank $r$")
        gain.set_ylabel("$1 - n_{50}$ over the nuclear norm's")
        for axes in (diagram, gain):
            despine(axes)
            axes.legend(fontsize=6)
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
        most, lines = max(len(table) for table in tables.values()), -(-len(tables) // 2)
        figure = Figure(figsize=(PAGE_WIDTH, lines * (0.8 + 0.2 * most)), layout="constrained")
        panels = figure.subplots(lines, min(len(tables), 2), squeeze=False, sharex=True).ravel()
        for axes, (title, table) in zip(panels, tables.items(), strict=False):
            rows = table[table["norm"] != reference].reset_index(drop=True)
            error = 2.0 * rows["ratio_error"]
            axes.errorbar(rows["ratio"], rows.index, xerr=error, color=color_of(0), fmt="o", markersize=3)
            axes.axvline(1.0, color=INK, linewidth=0.6, zorder=1)
            axes.set_yticks(rows.index, rows["norm"])
            axes.invert_yaxis()
            axes.set_title(title)
            despine(axes)
        for axes in panels[len(tables) :]:
            axes.remove()
        figure.supxlabel(f"$n_{{50}}$ over that of {reference}", fontsize="medium")
    return figure


def scales_figure(table: pd.DataFrame, marks: Mapping[str, float]) -> Figure:
    """Where half of the streams are recovered over the initial scale.

    Args:
        table: ``init_scale``, ``mean`` of the first success and its standard ``error``.
        marks: numbers of measurements drawn as lines, by their labels.

    Returns:
        Points with bars of two standard errors.
    """
    with themed():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.5), layout="constrained")
        axes = figure.subplots()
        axes.errorbar(table["init_scale"], table["mean"] - 0.5, yerr=2.0 * table["error"], color=color_of(0),
                      marker=marker_of(0), markersize=3, linewidth=0.8, elinewidth=0.6)  # fmt: skip
        for index, (label, n) in enumerate(marks.items()):
            axes.axhline(n, color=INK, linewidth=0.6, linestyle=((0, (5, 2)), "-", (0, (1, 1.5)))[index % 3], zorder=1)
            axes.annotate(label, (1.0, n), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
        axes.set_xscale("log")
        plain_ticks(axes.xaxis, table["init_scale"].min(), table["init_scale"].max())
        axes.set_xlabel("initial scale $s$, symmetric initialization")
        axes.set_ylabel("$n_{50}$ of gradient descent")
        despine(axes)
    return figure


def depth_panel(axes: Axes, ratios: pd.DataFrame, depths: Sequence[str] = DEPTHS, *, column: str = "ratio") -> None:
    """n50 over the nuclear norm's against the size: one line per depth, each limit a tick at the right.

    Args:
        axes: to draw into.
        ratios: from :func:`flatdist.fits.effective_norm.depth_ratios`.
        depths: of :data:`DEPTHS`.
        column: ``ratio``, or ``ratio_statdim``: over the statistical dimension.
    """
    square = _square(ratios)
    square = square[square["rank"] == 1]
    for depth in depths:
        index = DEPTHS.index(depth)
        _line(axes, square[square["norm"] == depth], "d_out", column, index, _named(depth))
        limit = flattest_limit(math.inf if depth == "inf" else int(depth))
        place = axes.get_yaxis_transform()
        axes.plot([1.0, 1.04], [limit, limit], color=color_of(index), transform=place, clip_on=False)
    axes.set_ylabel("$n_{50}$ over the nuclear norm's" if column == "ratio" else "$n_{50}$ over $\\delta$")
    _finish(axes, square)
    axes.legend(fontsize=6, loc="upper left")


def _named(norm: str) -> str:
    return {"nuclear norm": norm, "inf": "infinite depth"}.get(norm, f"depth {norm}")


def _square(ratios: pd.DataFrame) -> pd.DataFrame:
    return ratios[(ratios["d_out"] == ratios["d_in"]) & (ratios["ensemble"] == "gaussian")]


def _finish(axes: Axes, square: pd.DataFrame) -> None:
    axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
    axes.set_xscale("log")
    axes.set_xlabel("size $d$")
    if len(square):
        plain_ticks(axes.xaxis, square["d_out"].min(), square["d_out"].max())
    despine(axes)


def _line(
    axes: Axes, rows: pd.DataFrame, x: str, column: str, index: int, label: str | None, linestyle: str = "-"
) -> None:
    rows = rows.sort_values(x)
    axes.errorbar(
        rows[x], rows[column], yerr=2.0 * rows[f"{column}_error"], color=color_of(index), marker=marker_of(index),
        markersize=3, linewidth=0.8, elinewidth=0.6, label=label, linestyle=linestyle,
    )  # fmt: skip
