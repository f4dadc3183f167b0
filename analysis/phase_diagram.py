"""Heat map of success over (n, rank) for each method, with theory's predictions drawn over it.

``python -m analysis.phase_diagram SWEEP [--store S] [--out DIR] [--tolerance E]``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.command import Request, path_lines, run_command, table_lines
from analysis.grouping import configuration_columns
from analysis.layout import describe, keys_of, matching, series_columns
from analysis.sample_complexity import success_rates
from analysis.style import (
    COLUMN_WIDTH,
    HEAT,
    PAGE_WIDTH,
    PREDICTION_LINES,
    plain_ticks,
    provenance,
    save_figure,
    themed,
)
from analysis.success import require_columns, resolve_tolerance
from analysis.threshold import fit_thresholds
from flatdist.cell import PROBLEM_FIELDS
from flatdist.theory import prediction

PREDICTIONS = ("dof", "rsum", "statdim", "entries")
# Over dark and light cells alike, lines are drawn in a colour with a contrasting edge.
_LINE, _EDGE = "#ffffff", "#000000"


def panel_columns(trials: pd.DataFrame) -> list[str]:
    """Columns that make a panel: everything that varies but n and rank."""
    problem = [name for name in configuration_columns(trials, but=("rank", "method")) if name in PROBLEM_FIELDS]
    return [*series_columns(trials), *problem]


def phase_diagram_figure(trials: pd.DataFrame, thresholds: pd.DataFrame, tolerance: float) -> Figure:
    """Draw success over (n, rank), a panel for each method.

    Args:
        trials: rows of the store, with ``rank``, ``d_out`` and ``d_in``.
        thresholds: from :func:`analysis.fit_thresholds`, grouped by the panels' columns and rank.
        tolerance: of the success.
    """
    panels = panel_columns(trials)
    rates = success_rates(trials, list(dict.fromkeys([*panels, "rank", "d_out", "d_in"])), tolerance)
    keys = keys_of(rates, panels)
    columns = 1 if len(keys) <= 5 else 2
    rows = -(-len(keys) // columns)
    ranks = sorted(set(rates["rank"]))
    panel_height = 0.34 + 0.21 * max(len(ranks), 3)
    with themed():
        size = (COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, rows * panel_height + 0.95)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, key in zip(grid.flat, keys, strict=False):
            _panel(axes, key, matching(rates, key), matching(thresholds, key))
        low, high = float(rates["n"].min()), float(rates["n"].max())
        plain_ticks(grid.flat[0].xaxis, low, high)
        for axes in grid.flat[len(keys) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("rank $r$")
        for axes in grid.flat[max(len(keys) - columns, 0) : len(keys)]:
            axes.set_xlabel("measurements $n$")
            axes.tick_params(labelbottom=True)
        scale = mpl.cm.ScalarMappable(norm=Normalize(0, 1), cmap=HEAT)
        bar = figure.colorbar(scale, ax=grid, location="right", shrink=0.9 if rows < 3 else 0.5, aspect=24, pad=0.02)
        bar.set_label(f"success probability (relative error < {tolerance:g})")
        bar.outline.set_linewidth(0.4)
        figure.legend(
            handles=_legend_handles(), loc="outside upper center", ncols=2, columnspacing=1.0, handlelength=2.4
        )
    return figure


def _panel(axes: Axes, key: Mapping[str, Any], rates: pd.DataFrame, thresholds: pd.DataFrame) -> None:
    norm, colors = Normalize(0, 1), mpl.colormaps[HEAT]
    ranks = sorted(set(rates["rank"]))
    bottom = {rank: index for index, rank in enumerate(ranks)}
    axes.set_xscale("log")
    axes.set_facecolor("#dddddd")  # nothing was measured there
    for rank in ranks:
        row = rates[rates["rank"] == rank].sort_values("n")
        edges = log_edges(row["n"].to_numpy(dtype=float))
        mesh_rows = np.array([bottom[rank] - 0.5, bottom[rank] + 0.5])
        axes.pcolormesh(
            edges, mesh_rows, row["rate"].to_numpy(dtype=float)[None, :], norm=norm, cmap=colors,
            edgecolors="#ffffff", linewidth=0.15,
        )  # fmt: skip
        counts = sorted(set(row["count"]))
        axes.annotate(
            f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
            (1.0, bottom[rank]), xycoords=("axes fraction", "data"), xytext=(1.5, 0), textcoords="offset points",
            va="center", fontsize=5.5,
        )  # fmt: skip
    _draw_predictions(axes, rates, bottom)
    _draw_thresholds(axes, thresholds, bottom)
    low, high = float(rates["n"].min()), float(rates["n"].max())
    axes.set_xlim(low / 1.05, high * 1.05)
    axes.set_ylim(-0.5, len(ranks) - 0.5)
    axes.set_yticks(range(len(ranks)), [f"{rank:g}" for rank in ranks])
    axes.minorticks_off()
    axes.set_title(describe(key), loc="left", pad=3)
    sns.despine(ax=axes)


def log_edges(n: np.ndarray) -> np.ndarray:
    """Edges of cells around increasing values, at the geometric means of neighbours, (k + 1,)."""
    if len(n) == 1:
        return np.array([n[0] / 1.05, n[0] * 1.05])
    middles = np.sqrt(n[1:] * n[:-1])
    return np.concatenate(([n[0] ** 2 / middles[0]], middles, [n[-1] ** 2 / middles[-1]]))


def _draw_predictions(axes: Axes, rates: pd.DataFrame, bottom: Mapping[Any, int]) -> None:
    """Each prediction as a line through its value at every rank, at the middle of the rank's row."""
    if rates[["d_out", "d_in"]].drop_duplicates().shape[0] != 1:
        return
    d_out, d_in = (int(rates[name].iloc[0]) for name in ("d_out", "d_in"))
    rows = np.array(sorted(bottom.values()), dtype=float)
    for name in PREDICTIONS:
        values = np.array([prediction(name).value(d_out, d_in, int(rank)) for rank in sorted(bottom)])
        logs = np.log(values)
        first, last = (logs[1] - logs[0], logs[-1] - logs[-2]) if len(logs) > 1 else (0.0, 0.0)
        x = np.exp(np.concatenate(([logs[0] - 0.5 * first], logs, [logs[-1] + 0.5 * last])))
        y = np.concatenate(([rows[0] - 0.5], rows, [rows[-1] + 0.5]))
        axes.plot(x, y, color=_EDGE, linewidth=2.2, alpha=0.6, zorder=3, solid_capstyle="butt")
        axes.plot(x, y, color=_LINE, linewidth=1.2, linestyle=PREDICTION_LINES[name][0], zorder=4)


def _draw_thresholds(axes: Axes, thresholds: pd.DataFrame, bottom: Mapping[Any, int]) -> None:
    """n50 and its interval in each row."""
    for _, fit in thresholds.iterrows():
        if fit["censored"] not in ("none", "interval"):
            continue
        row = bottom[fit["rank"]]
        for color, width in ((_LINE, 2.4), ("#D55E00", 1.3)):
            axes.plot([fit["n50_low"], fit["n50_high"]], [row, row], color=color, linewidth=width, zorder=5)
        axes.plot([fit["n50"]], [row], "o", color="#D55E00", markeredgecolor=_LINE, markeredgewidth=0.5, zorder=6)


def _legend_handles() -> list[Line2D]:
    handles = []
    for name in PREDICTIONS:
        dashes, grey = PREDICTION_LINES[name]
        handles.append(Line2D([], [], color=grey, linestyle=dashes, linewidth=1.0, label=prediction(name).label))
    handles.append(Line2D([], [], color="#D55E00", marker="o", linewidth=1.3, label="$n_{50}$, 95 % interval"))
    handles.append(Line2D([], [], color="none", label="right: replicates per cell"))
    return handles


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    require_columns(trials, ("rank", "d_out", "d_in"), "needed columns")
    tolerance = resolve_tolerance(trials, request.tolerance)
    by = [*panel_columns(trials), "rank"]
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=request.link)
    figure = phase_diagram_figure(trials, thresholds, tolerance)
    origin = provenance(request.title, trials, {"tolerance": tolerance, "link": request.link, "level": 0.95, "by": by})
    paths = save_figure(figure, request.out, "phase_diagram", origin)
    return [*table_lines(thresholds, by), "", *path_lines(paths)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("phase_diagram", "Success over (n, rank) for each method, with predictions.", draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
