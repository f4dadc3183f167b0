"""Heat maps of success for each method, with theory's predictions and the 50 % contour drawn over them.

``python -m analysis.phase_diagram SWEEP [--store S] [--out DIR] [--tolerance E] [--view rank|size|normalised]``

Views: over (n, rank), over (n, size), and over (n / d d', rank / min(d, d')), where all shapes share one panel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.figures.command import Request, path_lines, run_command, table_lines
from flatdist.figures.layout import describe, keys_of
from flatdist.figures.style import (
    COLUMN_WIDTH,
    HEAT,
    PAGE_WIDTH,
    PREDICTION_LINES,
    plain_ticks,
    save_figure,
    themed,
)
from flatdist.fits.grouping import configuration_columns, matching, series_columns
from flatdist.fits.success import require_columns, resolve_tolerance, success_rates
from flatdist.fits.threshold import fit_thresholds
from flatdist.theory import prediction

PREDICTIONS = ("dof", "rsum", "statdim", "entries")
SHAPE = ("d_out", "d_in", "rank")
# Over dark and light cells alike, lines are drawn in white with a dark edge.
_LINE, _EDGE, _CONTOUR = "#ffffff", "#000000", "#D55E00"
_ROW_HEIGHT = 0.21  # inches
_PANELS_IN_ONE_COLUMN = 5


@dataclass(frozen=True)
class View:
    """What the two axes of the diagram are; every row of it is one shape and rank.

    Attributes:
        x_label, y_label: of the axes.
        shared: fields of the shape that rows may differ in; the others get panels of their own.
        order: (d_out, d_in, rank) -> place among the rows.
        name: (d_out, d_in, rank) -> label of a row.
        unit: (d_out, d_in) -> number of measurements that is 1 on the x axis.
    """

    x_label: str
    y_label: str
    shared: tuple[str, ...]
    order: Callable[[int, int, int], float]
    name: Callable[[int, int, int], str]
    unit: Callable[[int, int], float]


VIEWS: Mapping[str, View] = {
    "rank": View(
        "measurements $n$", "rank $r$", ("rank",), lambda a, b, r: r, lambda a, b, r: str(r), lambda a, b: 1.0
    ),
    "size": View(
        "measurements $n$",
        "size $d' \\times d$",
        ("d_out", "d_in"),
        lambda a, b, r: a * b,
        lambda a, b, r: f"{a}" if a == b else f"{a}x{b}",
        lambda a, b: 1.0,
    ),
    "normalised": View(
        "$n / (d\\,d')$",
        "$r / \\min(d, d')$",
        SHAPE,
        lambda a, b, r: r / min(a, b) + 1e-6 * a * b / (1.0 + a * b),
        lambda a, b, r: f"{r / min(a, b):.2f}",
        lambda a, b: float(a * b),
    ),
}


def panel_columns(trials: pd.DataFrame, view: View = VIEWS["rank"]) -> list[str]:
    """Columns that make a panel: everything that varies but n and what the rows are."""
    varying = configuration_columns(trials, but=(*view.shared, "method"))
    return [*series_columns(trials), *(name for name in varying if name in PROBLEM_FIELDS)]


def phase_diagram_figure(
    trials: pd.DataFrame, thresholds: pd.DataFrame, tolerance: float, view: View = VIEWS["rank"]
) -> Figure:
    """Draw success, a panel for each method, a row for each shape and rank.

    Args:
        trials: rows of the store, with ``rank``, ``d_out`` and ``d_in``.
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`, grouped by the panels' columns and the shape.
        tolerance: of the success.
        view: the axes.
    """
    panels = panel_columns(trials, view)
    rates = success_rates(trials, list(dict.fromkeys([*panels, *SHAPE])), tolerance)
    keys = keys_of(rates, panels)
    columns = 1 if len(keys) <= _PANELS_IN_ONE_COLUMN else 2
    lines = -(-len(keys) // columns)
    most = max(matching(rates, key)[list(SHAPE)].drop_duplicates().shape[0] for key in keys)
    height = lines * (0.34 + _ROW_HEIGHT * min(max(most, 3), 14)) + 0.95
    with themed():
        figure = Figure(figsize=(COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, height), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
        span = rates["n"] / [view.unit(int(a), int(b)) for a, b in zip(rates["d_out"], rates["d_in"], strict=True)]
        for axes, key in zip(grid.flat, keys, strict=False):
            _panel(axes, key, matching(rates, key), matching(thresholds, key), view)
            axes.set_xlim(float(span.min()) / 1.05, float(span.max()) * 1.05)
        plain_ticks(grid.flat[0].xaxis, float(span.min()), float(span.max()))
        for axes in grid.flat[len(keys) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel(view.y_label)
        for axes in grid.flat[max(len(keys) - columns, 0) : len(keys)]:
            axes.set_xlabel(view.x_label)
            axes.tick_params(labelbottom=True)
        scale = mpl.cm.ScalarMappable(norm=Normalize(0, 1), cmap=HEAT)
        bar = figure.colorbar(scale, ax=grid, location="right", shrink=0.9 if lines < 3 else 0.5, aspect=24, pad=0.02)
        bar.set_label(f"success probability (relative error < {tolerance:g})")
        bar.outline.set_linewidth(0.4)
        figure.legend(
            handles=_legend_handles(_in_view(rates, view), set(thresholds["censored"])),
            loc="outside upper center",
            ncols=2,
            columnspacing=1.0,
            handlelength=2.4,
        )
    return figure


def _panel(axes: Axes, key: Mapping[str, Any], rates: pd.DataFrame, thresholds: pd.DataFrame, view: View) -> None:
    shapes = sorted({tuple(map(int, row)) for row in rates[list(SHAPE)].to_numpy()}, key=lambda s: view.order(*s))
    rows = {shape: index for index, shape in enumerate(shapes)}
    axes.set_xscale("log")
    axes.set_facecolor("#dddddd")  # nothing was measured there
    for shape, row in rows.items():
        mine = matching(rates, dict(zip(SHAPE, shape, strict=True))).sort_values("n")
        axes.pcolormesh(
            log_edges(mine["n"].to_numpy(dtype=float) / view.unit(*shape[:2])),
            np.array([row - 0.5, row + 0.5]),
            mine["rate"].to_numpy(dtype=float)[None, :],
            norm=Normalize(0, 1),
            cmap=HEAT,
            edgecolors="#ffffff",
            linewidth=0.15,
        )
        counts = sorted(set(mine["count"]))
        axes.annotate(
            f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}",
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(1.5, 0),
            textcoords="offset points",
            va="center",
            fontsize=5.5,
        )
    _draw_predictions(axes, rows, view)
    _draw_contour(axes, thresholds, rows, view)
    _draw_censored(axes, thresholds, rows, view)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_yticks(range(len(rows)), [view.name(*shape) for shape in shapes])
    axes.minorticks_off()
    axes.set_title(describe(key), loc="left", pad=3)
    sns.despine(ax=axes)


def log_edges(n: np.ndarray) -> np.ndarray:
    """Edges of cells around increasing values, at the geometric means of neighbours, (k + 1,)."""
    if len(n) == 1:
        return np.array([n[0] / 1.05, n[0] * 1.05])
    middles = np.sqrt(n[1:] * n[:-1])
    return np.concatenate(([n[0] ** 2 / middles[0]], middles, [n[-1] ** 2 / middles[-1]]))


def _draw_predictions(axes: Axes, rows: Mapping[tuple[int, ...], int], view: View) -> None:
    """Each prediction as a line through its value for every row, at the row's middle."""
    y = np.array(list(rows.values()), dtype=float)
    for name in PREDICTIONS:
        logs = np.log([prediction(name).value(*shape) / view.unit(*shape[:2]) for shape in rows])
        first, last = (logs[1] - logs[0], logs[-1] - logs[-2]) if len(logs) > 1 else (0.0, 0.0)
        x = np.exp(np.concatenate(([logs[0] - 0.5 * first], logs, [logs[-1] + 0.5 * last])))
        ends = np.concatenate(([y[0] - 0.5], y, [y[-1] + 0.5]))
        axes.plot(x, ends, color=_EDGE, linewidth=2.2, alpha=0.6, zorder=3, solid_capstyle="butt")
        axes.plot(x, ends, color=_LINE, linewidth=1.2, linestyle=PREDICTION_LINES[name][0], zorder=4)


def _draw_contour(axes: Axes, thresholds: pd.DataFrame, rows: Mapping[tuple[int, ...], int], view: View) -> None:
    """The 50 % contour through n50 of neighbouring rows, its band, and each row's interval."""
    bracketed = thresholds[thresholds["censored"].isin(["none", "interval"])]
    found = {}
    for _, fit in bracketed.iterrows():
        shape = (int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"]))
        unit = view.unit(*shape[:2])
        found[rows[shape]] = tuple(float(fit[name]) / unit for name in ("n50_low", "n50", "n50_high"))
    left, right = axes.get_xlim()
    for row, (low, middle, high) in found.items():
        if row + 1 in found:
            next_low, next_middle, next_high = found[row + 1]
            y = [row, row + 1]
            bounds = np.clip([low, next_low], left, right), np.clip([high, next_high], left, right)
            axes.fill_betweenx(y, *bounds, color=_CONTOUR, alpha=0.35, linewidth=0, zorder=5)
            axes.plot([middle, next_middle], y, color=_CONTOUR, linewidth=0.9, zorder=5)
        for color, width in ((_LINE, 2.4), (_CONTOUR, 1.3)):
            axes.plot([max(low, left), min(high, right)], [row, row], color=color, linewidth=width, zorder=6)
        axes.plot([middle], [row], "o", color=_CONTOUR, markeredgecolor=_LINE, markeredgewidth=0.5, zorder=7)


def _draw_censored(axes: Axes, thresholds: pd.DataFrame, rows: Mapping[tuple[int, ...], int], view: View) -> None:
    """A mark at the edge of what was measured, pointing to where n50 is."""
    for censored, marker, edge in (("right", ">", "n_max"), ("left", "<", "n_min")):
        for _, fit in thresholds[thresholds["censored"] == censored].iterrows():
            shape = (int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"]))
            axes.plot(
                [float(fit[edge]) / view.unit(*shape[:2])], [rows[shape]], marker, color=_CONTOUR,
                markeredgecolor=_LINE, markeredgewidth=0.5, markersize=5, zorder=7, clip_on=False,
            )  # fmt: skip


def _in_view(rates: pd.DataFrame, view: View) -> set[str]:
    """Predictions that lie within the measured n of any row."""
    unit = np.array([view.unit(int(a), int(b)) for a, b in zip(rates["d_out"], rates["d_in"], strict=True)])
    low, high = (rates["n"] / unit).min() / 1.05, (rates["n"] / unit).max() * 1.05
    shapes = [tuple(map(int, row)) for row in rates[list(SHAPE)].drop_duplicates().to_numpy()]
    found = set()
    for name in PREDICTIONS:
        values = [prediction(name).value(*shape) / view.unit(*shape[:2]) for shape in shapes]
        if any(low <= value <= high for value in values):
            found.add(name)
    return found


def _legend_handles(shown: Set[str], censored: Set[str]) -> list[Line2D]:
    handles = []
    for name in (name for name in PREDICTIONS if name in shown):
        dashes, grey = PREDICTION_LINES[name]
        handles.append(Line2D([], [], color=grey, linestyle=dashes, linewidth=1.0, label=prediction(name).label))
    handles.append(Line2D([], [], color=_CONTOUR, marker="o", linewidth=1.3, label="$n_{50}$, 95 % interval"))
    for kind, marker, text in (("right", ">", "above"), ("left", "<", "below")):
        if kind in censored:
            label = f"$n_{{50}}$ is {text} what was measured"
            handles.append(Line2D([], [], color=_CONTOUR, marker=marker, linestyle="", label=label))
    handles.append(Line2D([], [], color="none", label="right: replicates per cell"))
    return handles


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    require_columns(trials, SHAPE, "needed columns")
    name = getattr(request.options, "view", "rank")
    view = VIEWS[name]
    tolerance = resolve_tolerance(trials, request.tolerance)
    by = list(dict.fromkeys([*panel_columns(trials, view), *SHAPE]))
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=request.link)
    figure = phase_diagram_figure(trials, thresholds, tolerance, view)
    settings = {"tolerance": tolerance, "link": request.link, "level": 0.95, "by": by, "view": name}
    stem = "phase_diagram" if name == "rank" else f"phase_diagram_{name}"
    paths = save_figure(figure, request.out, stem, request.origin(trials, settings))
    return [*table_lines(thresholds, by), "", *path_lines(paths)]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--view", choices=VIEWS, default="rank", help="the diagram's axes (default: n and rank)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    description = "Success over (n, rank), (n, size) or normalised axes for each method, with predictions."
    return run_command("phase_diagram", description, draw, arguments, _arguments)
