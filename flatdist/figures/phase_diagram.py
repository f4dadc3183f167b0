"""Heat maps of success for each method, with theory's predictions and the 50 % contour drawn over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels, count_words, keys_of, prediction_handles, tiles
from flatdist.figures.style import (
    EDGE_OVER_HEAT,
    N50,
    OVER_HEAT,
    PREDICTION_LINES,
    PREDICTIONS,
    UNMEASURED,
    edges,
    mark,
    plain_ticks,
)
from flatdist.figures.words import threshold_table, unfinished
from flatdist.fits.grouping import SHAPE, configuration_columns, matching, series_columns
from flatdist.fits.ratios import BRACKETED
from flatdist.fits.success import require_columns, resolve_tolerance, success_rates
from flatdist.fits.threshold import fit_thresholds
from flatdist.theory import prediction

_BEYOND = {"right": (">", "n_max", "above"), "left": ("<", "n_min", "below")}
_MARKER: dict[str, Any] = {"color": N50, "markeredgecolor": OVER_HEAT, "markeredgewidth": 0.5, "zorder": 7}

Shape = tuple[int, int, int]
Band = tuple[float, float]


@dataclass(frozen=True)
class View:
    """The two axes of the diagram; each row is one shape and rank.

    Attributes:
        y_label: of the axis.
        shared: fields of the shape in which rows may differ; the others get separate panels.
        height: (d_out, d_in, rank) -> place on the y axis, in the order of the rows.
        name: (d_out, d_in, rank) -> label of a row.
        normalised: whether y is drawn to scale, rather than one row after another, and x a part of all entries.
    """

    y_label: str
    shared: tuple[str, ...]
    height: Callable[[int, int, int], float]
    name: Callable[[int, int, int], str]
    normalised: bool = False

    @property
    def x_label(self) -> str:
        """Label of the x axis."""
        return "$n / (d\\,d')$" if self.normalised else "measurements $n$"

    def unit(self, shape: Shape) -> float:
        """The number of measurements that is 1 on the x axis."""
        return float(shape[0] * shape[1]) if self.normalised else 1.0


VIEWS: Mapping[str, View] = {
    "rank": View("rank $r$", ("rank",), lambda a, b, r: r, lambda a, b, r: f"{r}"),
    "size": View(
        "size $d' \\times d$",
        ("d_out", "d_in"),
        lambda a, b, r: a * b,
        lambda a, b, r: f"{a}" if a == b else f"{a}x{b}",
    ),
    "normalised": View("$r / \\min(d, d')$", SHAPE, lambda a, b, r: r / min(a, b), lambda a, b, r: "", normalised=True),
    "shape": View("$d' \\times d$, rank $r$", SHAPE, prediction("statdim").value, lambda a, b, r: f"{a}x{b}, {r}"),
}


def phase_diagram(
    trials: pd.DataFrame,
    *,
    tolerance: float | None = None,
    link: str = "auto",
    view: str = "auto",
    thresholds: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Any:
    """Success over n for each rank or size: a panel for each method, with n50 and its 95 % interval.

    Args:
        trials: one row per replicate, with ``n``, ``replicate``, ``relative_error``, ``rank``, ``d_out``, ``d_in``.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        link: success curve of the threshold fits; ``auto`` chooses by evidence.
        view: ``rank`` (n and rank), ``size`` (n and size), ``shape`` (n, and size and rank in the order of the
            statistical dimension), ``normalised`` (n / d d' and rank / min(d, d')); ``auto`` chooses among the first
            three by what varies.
        thresholds: fitted already, grouped by what makes panels and the shape; fitted here by default.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: missing columns, an unknown view, or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.phase_diagram(figures.example_trials(ranks=(1, 2))).axes[0].get_title(loc="left")
        'label-noise SGD'
    """
    by = diagram_columns(trials, view)
    chosen = view_named(view, trials)
    tolerance = resolve_tolerance(trials, tolerance)
    rates = success_rates(trials, by, tolerance)
    if thresholds is None:
        thresholds = fit_thresholds(trials, by, tolerance, link=link)
    keys = keys_of(rates, panel_columns(trials, chosen))
    most = max(len(matching(rates, key)[list(SHAPE)].drop_duplicates()) for key in keys)
    height = 0.34 + (1.6 if chosen.normalised else 0.21 * min(max(most, 3), 14))
    span = n_span(rates, chosen)
    with Panels(keys, ax, row_height=height, rest=0.95, sharex=True) as panels:
        for axes, key in panels:
            diagram_panel(axes, matching(rates, key), matching(thresholds, key), chosen, span)
        if ax is None:
            plain_ticks(panels.flat[0].xaxis, *span)
        panels.label(chosen.x_label, chosen.y_label)
        shrink = 0.9 if -(-len(keys) // panels.columns) < 3 else 0.5
        panels.color_bar(Normalize(0, 1), f"success probability (relative error < {tolerance:g})", shrink=shrink)
        shapes, censored = set(map(shape_of, rates.to_dict("records"))), set(thresholds["censored"])
        in_view = [
            name for name in PREDICTIONS
            if any(span[0] / 1.05 <= prediction(name).value(*s) / chosen.unit(s) <= span[1] * 1.05 for s in shapes)
        ]  # fmt: skip
        handles = prediction_handles(in_view, linewidth=1.0)
        handles.append(Line2D([], [], color=N50, marker="o", linewidth=1.3, label="$n_{50}$, 95 % interval"))
        handles += [
            Line2D([], [], color=N50, marker=marker, linestyle="", label=f"$n_{{50}}$ is {text} what was measured")
            for kind, (marker, _, text) in _BEYOND.items() if kind in censored
        ]  # fmt: skip
        handles.append(Line2D([], [], color="none", label="right: replicates per cell"))
        panels.legend(handles, columnspacing=1.0, handlelength=2.4)
    return panels.result


def view_named(name: str, trials: pd.DataFrame) -> View:
    """A view by name; ``auto`` is the one whose rows are the shapes that vary in the trials.

    Raises:
        FitError: no view has this name.
    """
    if name == "auto":
        sizes, ranks = len(trials[["d_out", "d_in"]].drop_duplicates()), trials["rank"].nunique()
        name = "rank" if sizes == 1 else "size" if ranks == 1 else "shape"
    if name not in VIEWS:
        raise FitError(f"no view of the phase diagram is named {name!r}; allowed: auto, {', '.join(VIEWS)}")
    return VIEWS[name]


def panel_columns(trials: pd.DataFrame, view: View = VIEWS["rank"]) -> list[str]:
    """Columns that make a panel: everything that varies except n and the fields of the rows."""
    varying = configuration_columns(trials, but=(*view.shared, "method"))
    return [*series_columns(trials), *(name for name in varying if name in PROBLEM_FIELDS)]


def diagram_columns(trials: pd.DataFrame, view: View | str = "auto") -> list[str]:
    """Columns that identify rows of tiles: those of the panels and the shape."""
    require_columns(trials, SHAPE, "needed columns")
    view = view_named(view, trials) if isinstance(view, str) else view
    return list(dict.fromkeys([*panel_columns(trials, view), *SHAPE]))


def shape_of(row: Mapping[Any, Any]) -> Shape:
    """(d_out, d_in, rank) of a row."""
    return int(row["d_out"]), int(row["d_in"]), int(row["rank"])


def n_span(rates: pd.DataFrame, view: View) -> tuple[float, float]:
    """Smallest and largest n, in the view's unit."""
    shown = rates["n"] / [view.unit(shape_of(row)) for row in rates.to_dict("records")]
    return float(shown.min()), float(shown.max())


def diagram_panel(
    axes: Axes, rates: pd.DataFrame, thresholds: pd.DataFrame, view: View, span: tuple[float, float]
) -> None:
    """Tiles, predictions and n50 of one panel, from its success rates and thresholds; ``span`` of n is all panels'."""
    shapes = sorted(set(map(shape_of, rates.to_dict("records"))), key=lambda s: (view.height(*s), s[0] * s[1]))
    rows = {shape: (row - 0.5, row + 0.5) for row, shape in enumerate(shapes)}
    if view.normalised:  # around its value; rows of one value share its height
        levels = sorted({view.height(*shape) for shape in shapes})
        for level, band in zip(levels, itertools.pairwise(edges(np.array(levels))), strict=True):
            equal = [shape for shape in shapes if view.height(*shape) == level]
            rows |= zip(equal, itertools.pairwise(np.linspace(*band, len(equal) + 1).tolist()), strict=True)
    axes.set_xscale("log")
    axes.set_xlim(span[0] / 1.05, span[1] * 1.05)
    axes.set_facecolor(UNMEASURED)
    for shape, band in rows.items():
        mine = matching(rates, dict(zip(SHAPE, shape, strict=True))).sort_values("n")
        n = edges(mine["n"].to_numpy(dtype=float) / view.unit(shape), logarithmic=True)
        gid = mark("tile", mine.iloc[0], mine["n"])
        tiles(axes, n, np.array(band), mine["rate"].to_numpy(dtype=float), Normalize(0, 1), gid)
        axes.annotate(
            count_words(mine["count"]), (1.0, sum(band) / 2), xycoords=("axes fraction", "data"), xytext=(1.5, 0),
            textcoords="offset points", va="center", fontsize=5.5,
        )  # fmt: skip
    _predictions(axes, rows, view)
    _contour(axes, thresholds, rows, view)
    axes.set_ylim(min(bottom for bottom, _ in rows.values()), max(top for _, top in rows.values()))
    if not view.normalised:
        axes.set_yticks(range(len(rows)), [view.name(*shape) for shape in shapes])
    axes.minorticks_off()


def _predictions(axes: Axes, rows: Mapping[Shape, Band], view: View) -> None:
    bottoms, tops = zip(*rows.values(), strict=True)
    y = np.array([min(bottoms), *(sum(band) / 2 for band in rows.values()), max(tops)])
    for name in PREDICTIONS:
        logs = np.log([prediction(name).value(*shape) / view.unit(shape) for shape in rows])
        first, last = (logs[1] - logs[0], logs[-1] - logs[-2]) if len(logs) > 1 else (0.0, 0.0)
        x = np.exp(np.concatenate(([logs[0] - 0.5 * first], logs, [logs[-1] + 0.5 * last])))
        axes.plot(x, y, color=EDGE_OVER_HEAT, linewidth=2.2, alpha=0.6, zorder=3, solid_capstyle="butt")
        axes.plot(
            x, y, color=OVER_HEAT, linewidth=1.2, linestyle=PREDICTION_LINES[name][0], zorder=4,
            gid=mark("prediction", {"name": name}),
        )  # fmt: skip


def _contour(axes: Axes, thresholds: pd.DataFrame, rows: Mapping[Shape, Band], view: View) -> None:
    """The 50 % contour through n50 of neighbouring rows, its band, each row's interval, arrows where censored."""
    left, right = axes.get_xlim()
    found: dict[float, list[float]] = {}
    for fit in thresholds.to_dict("records"):
        shape, kind, gid = shape_of(fit), fit["censored"], mark("n50", fit)
        unit, y = view.unit(shape), sum(rows[shape]) / 2
        if kind in BRACKETED:
            low, middle, high = found[y] = [float(fit[name]) / unit for name in ("n50_low", "n50", "n50_high")]
            for color, width in ((OVER_HEAT, 2.4), (N50, 1.3)):
                axes.plot([max(low, left), min(high, right)], [y, y], color=color, linewidth=width, zorder=6)
            axes.plot([middle], [y], "o", gid=gid, **_MARKER)
        elif kind in _BEYOND:
            marker, edge, _ = _BEYOND[kind]
            axes.plot([float(fit[edge]) / unit], [y], marker, markersize=5, clip_on=False, gid=gid, **_MARKER)
    for y, next_y in itertools.pairwise(sorted(sum(band) / 2 for band in rows.values())):
        if y in found and next_y in found:
            low, middle, high = np.array([found[y], found[next_y]]).T
            ends = np.clip(low, left, right), np.clip(high, left, right)
            axes.fill_betweenx([y, next_y], *ends, color=N50, alpha=0.35, linewidth=0, zorder=5)
            axes.plot(middle, [y, next_y], color=N50, linewidth=0.9, zorder=5)


def make(trials: pd.DataFrame, context: Context, *, tolerance: float, link: str = "auto", view: str = "auto") -> Drawn:
    """The figure, and the thresholds in it."""
    by = diagram_columns(trials, view)
    thresholds = fit_thresholds(trials, by, tolerance, link=link)
    stem = "phase_diagram" if view in ("auto", "rank") else f"phase_diagram_{view}"
    figures = {stem: phase_diagram(trials, tolerance=tolerance, view=view, thresholds=thresholds)}
    return Drawn(figures, {"n50": threshold_table(thresholds, by)}, {"level": 0.95, "by": by}, unfinished(thresholds))
