"""What depth does to the transition: ratios to the nuclear norm over the size, limits, variances, and the ablation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatdist.figures.panels import Key, Panels
from flatdist.figures.style import (
    DASHED,
    DOTTED,
    FAINT,
    INK,
    PAGE_WIDTH,
    PREDICTION_LINES,
    color_of,
    marker_of,
    plain_ticks,
)
from flatdist.theory import flattest_limit, prediction

DEPTHS = ("2", "3", "4", "5", "inf")
ABLATIONS = {
    "3": "F (depth 3)",
    "3, isotropic normal weights": "isotropic normal weights",
    "3, mean gradient": "mean gradient",
}


def depth_figure(ratios: pd.DataFrame) -> Figure:
    """Four panels over the size d of square Gaussian rank-1 problems, from ``depth_ratios`` of :mod:`flatdist.fits`.

    n50 over the nuclear norm's and over the statistical dimension, at each depth, with the limits as ticks at the
    right; the ratio of variances; and n50's ratio with parts of F replaced. Bars are two standard errors.
    """
    with Panels([{}] * 4, row_height=2.4, rest=0.0, columns=2) as panels:
        ratio, statdim, variance, ablation = panels.flat
        depth_panel(ratio, ratios)
        depth_panel(statdim, ratios, column="ratio_statdim")
        _over_size(variance, ratios, "variance_ratio", dict.fromkeys(DEPTHS), DEPTHS)
        _over_size(ablation, ratios, "ratio", ABLATIONS, [*ABLATIONS])
        variance.set_ylabel("variance of $N$ over the nuclear norm's")
        ablation.set_ylabel("$n_{50}$ over the nuclear norm's")
        ablation.legend(fontsize=6)
    return panels.figure


def depth_panel(axes: Axes, ratios: pd.DataFrame, depths: Sequence[str] = DEPTHS, *, column: str = "ratio") -> None:
    """n50 over the nuclear norm's against the size: a line per depth of :data:`DEPTHS`, each limit a tick at the right.

    ``column`` is ``ratio``, or ``ratio_statdim`` for n50 over the statistical dimension.
    """
    _over_size(axes, ratios, column, {depth: _named(depth) for depth in depths}, DEPTHS)
    for depth in depths:
        limit, place = flattest_limit(math.inf if depth == "inf" else int(depth)), axes.get_yaxis_transform()
        axes.plot([1.0, 1.04], [limit] * 2, color=color_of(DEPTHS.index(depth)), transform=place, clip_on=False)
    axes.set_ylabel("$n_{50}$ over the nuclear norm's" if column == "ratio" else "$n_{50}$ over $\\delta$")
    axes.legend(fontsize=6, loc="upper left")


def ranks_figure(ratios: pd.DataFrame, trained: pd.DataFrame | None = None) -> Figure:
    """Every rank of one square size: where half of the streams are recovered, and what depth gains on the nuclear norm.

    Left, n50 as a part of all entries over the rank fraction, with the exact statistical dimension, its limit for large
    matrices and the degrees of freedom; right, by how much n50 is lower than the nuclear norm's, over the rank, with an
    inverse square through rank 1. Bars are two standard errors.

    Args:
        ratios: from :func:`flatdist.fits.first_success.depth_ratios`; of its square sizes the one with most ranks.
        trained: thresholds of a training method at that size, with ``rank``, ``n50``, ``n50_low`` and ``n50_high``.
    """
    square = _square(ratios)
    ranked = square.groupby("d_out")["rank"].nunique()
    size = int(ranked.index.to_numpy()[ranked.to_numpy().argmax()])
    rows, ranks = square[square["d_out"] == size], range(1, size + 1)
    rows = rows.assign(saving=1.0 - rows["ratio"], saving_error=rows["ratio_error"], fraction=rows["rank"] / size)
    rows = rows.assign(part=(rows["mean"] - 0.5) / size**2, part_error=rows["mean_error"] / size**2)
    with Panels([{}, {}], row_height=2.8, rest=0.0, columns=2) as panels:
        diagram, gain = panels.flat
        for name in ("statdim", "statdim_asymptotic", "dof"):
            dashes, grey = PREDICTION_LINES[name]
            law, fractions = prediction(name), [rank / size for rank in ranks]
            values = [law.value(size, size, rank) / size**2 for rank in ranks]
            diagram.plot(fractions, values, linestyle=dashes, color=grey, linewidth=0.8, label=law.label)
        for index, norm in enumerate(("nuclear norm", *DEPTHS)):
            mine = rows[rows["norm"] == norm]
            if len(mine):
                _line(diagram, mine, "fraction", "part", index, label=_named(norm), linestyle="none")
            if len(mine) and norm != "nuclear norm":
                _line(gain, mine, "rank", "saving", index, label=_named(norm))
        if trained is not None:
            low, n50, high = (trained[name] / size**2 for name in ("n50_low", "n50", "n50_high"))
            bars, x = [n50 - low, high - n50], trained["rank"] / size
            diagram.errorbar(x, n50, yerr=bars, color=INK, fmt="x", markersize=4, label="label-noise SGD")
        first = float(rows.loc[(rows["norm"] == "3") & (rows["rank"] == 1), "saving"].iloc[0])
        gain.plot(ranks, [first / rank**2 for rank in ranks], color=FAINT, linewidth=0.6, label="$1/r^2$")
        gain.axhline(0.0, color=INK, linewidth=0.6, zorder=1)
        gain.set_xscale("log")
        plain_ticks(gain.xaxis, 1, size)
        diagram.set(xlabel=f"rank fraction $r / d$, {size} x {size}", ylabel="$n_{50} / d^2$")
        gain.set(xlabel="rank $r$", ylabel="$1 - n_{50}$ over the nuclear norm's")
        diagram.legend(fontsize=6)
        gain.legend(fontsize=6)
    return panels.figure


def ratios_figure(tables: Mapping[str, pd.DataFrame], reference: str) -> Figure:
    """n50 of methods over that of the norm ``reference``: one row per method and setting, bars of two standard errors.

    ``tables`` are from :func:`flatdist.fits.first_success.depth_ratios`, by the titles of their panels.
    """
    height, columns = 0.8 + 0.2 * max(map(len, tables.values())), min(len(tables), 2)
    keys: list[Key] = [{}] * len(tables)
    with Panels(keys, row_height=height, rest=0.0, columns=columns, width=PAGE_WIDTH, sharex=True) as panels:
        for axes, (title, table) in zip(panels.flat, tables.items(), strict=False):
            rows = table[table["norm"] != reference].reset_index(drop=True)
            error = 2.0 * rows["ratio_error"]
            axes.errorbar(rows["ratio"], rows.index, xerr=error, color=color_of(0), fmt="o", markersize=3)
            axes.axvline(1.0, color=INK, linewidth=0.6, zorder=1)
            axes.set_yticks(rows.index, rows["norm"])
            axes.invert_yaxis()
            axes.set_title(title)
        panels.figure.supxlabel(f"$n_{{50}}$ over that of {reference}", fontsize="medium")
    return panels.figure


def scales_figure(table: pd.DataFrame, marks: Mapping[str, float]) -> Figure:
    """Where half of the streams are recovered over the initial scale, with bars of two standard errors.

    Args:
        table: ``init_scale``, ``mean`` of the first success and its standard ``error``.
        marks: numbers of measurements drawn as lines, by their labels.
    """
    with Panels([{}], row_height=2.5, rest=0.0) as panels:
        (axes,) = panels.flat
        rows = table.assign(n50=table["mean"] - 0.5, n50_error=table["error"])
        _line(axes, rows, "init_scale", "n50", 0)
        for index, (label, n) in enumerate(marks.items()):
            axes.axhline(n, color=INK, linewidth=0.6, linestyle=(DASHED, "-", DOTTED)[index % 3], zorder=1)
            axes.annotate(label, (1.0, n), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6)
        axes.set_xscale("log")
        plain_ticks(axes.xaxis, table["init_scale"].min(), table["init_scale"].max())
        axes.set(xlabel="initial scale $s$, symmetric initialization", ylabel="$n_{50}$ of gradient descent")
    return panels.figure


def _named(norm: str) -> str:
    return {"nuclear norm": norm, "inf": "infinite depth"}.get(norm, f"depth {norm}")


def _square(ratios: pd.DataFrame) -> pd.DataFrame:
    return ratios[(ratios["d_out"] == ratios["d_in"]) & (ratios["ensemble"] == "gaussian")]


def _over_size(
    axes: Axes, ratios: pd.DataFrame, column: str, labels: Mapping[str, str | None], order: Sequence[str]
) -> None:
    """A line over the size for each of the norms, given with their labels, on square rank-1 problems."""
    square = _square(ratios)
    square = square[square["rank"] == 1]
    for norm, label in labels.items():
        _line(axes, square[square["norm"] == norm], "d_out", column, order.index(norm), label=label)
    axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
    axes.set_xscale("log")
    axes.set_xlabel("size $d$")
    if len(square):
        plain_ticks(axes.xaxis, square["d_out"].min(), square["d_out"].max())


def _line(axes: Axes, rows: pd.DataFrame, x: str, column: str, index: int, **style: Any) -> None:
    rows = rows.sort_values(x)
    look: dict[str, Any] = {"color": color_of(index), "marker": marker_of(index), "markersize": 3, **style}
    axes.errorbar(rows[x], rows[column], yerr=2.0 * rows[f"{column}_error"], linewidth=0.8, elinewidth=0.6, **look)
