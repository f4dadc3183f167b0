"""Heat maps of success for each method, with theory's predictions and the 50 % contour drawn over them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
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
from flatdist.figures.panels import Panels, count_words, describe, keys_of, prediction_handles
from flatdist.figures.style import (
    EDGE_OVER_HEAT,
    HEAT,
    N50,
    OVER_HEAT,
    PREDICTION_LINES,
    PREDICTIONS,
    UNMEASURED,
    despine,
    mark,
    plain_ticks,
)
from flatdist.figures.words import threshold_table, unfinished
from flatdist.fits.grouping import configuration_columns, matching, series_columns
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import require_columns, resolve_tolerance, success_rates
from flatdist.fits.threshold import fit_thresholds
from flatdist.theory import prediction

_ROW_HEIGHT = 0.21  # inches

Shape = tuple[int, int, int]
Band = tuple[float, float]


@dataclass(frozen=True)
class View:
    """The two axes of the diagram; each row is one shape and rank.

    Attributes:
        x_label, y_label: of the axes.
        shared: fields of the shape in which rows may differ; the others get separate panels.
        height: (d_out, d_in, rank) -> place on the y axis, in the order of the rows.
        name: (d_out, d_in, rank) -> label of a row.
        unit: (d_out, d_in) -> number of measurements that is 1 on the x axis.
        to_scale: whether y is a number drawn to scale, rather than one row after another.
    """

    x_label: str
    y_label: str
    shared: tuple[str, ...]
    height: Callable[[int, int, int], float]
    name: Callable[[int, int, int], str]
    unit: Callable[[int, int], float]
    to_scale: bool = False


VIEWS: Mapping[str, View] = {
    "rank": View(
        "measurements $n$", "rank $r$", ("rank",), lambda a, b, r: r, lambda a, b, r: str(r), lambda a, b: 1.0
    ),
    "size": View(
        "measurements $n$", "size $d' \\times d$", ("d_out", "d_in"), lambda a, b, r: a * b,
        lambda a, b, r: f"{a}" if a == b else f"{a}x{b}", lambda a, b: 1.0,
    ),
    "normalised": View(
        "$n / (d\\,d')$", "$r / \\min(d, d')$", SHAPE, lambda a, b, r: r / min(a, b),
        lambda a, b, r: f"{r / min(a, b):.2g}", lambda a, b: float(a * b), to_scale=True,
    ),
    "shape": View(
        "measurements $n$", "$d' \\times d$, rank $r$", SHAPE, lambda a, b, r: prediction("statdim").value(a, b, r),
        lambda a, b, r: f"{a}x{b}, {r}", lambda a, b: 1.0,
    ),
}  # fmt: skip


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
        ax: axes for a single panel; by default a new figure with all panels.

    Returns:
        The figure, or ``ax``.

    Raises:
        FitError: missing columns, an unknown view, or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.phase_diagram(figures.example_trials(ranks=(1, 2))).axes[0].get_title(loc="left")
        'label-noise SGD'
    """
    require_columns(trials, SHAPE, "needed columns")
    chosen = view_named(view, trials)
    tolerance = resolve_tolerance(trials, tolerance)
    by = diagram_columns(trials, chosen)
    rates = success_rates(trials, by, tolerance)
    if thresholds is None:
        thresholds = fit_thresholds(trials, by, tolerance, link=link)
    keys = keys_of(rates, panel_columns(trials, chosen))
    most = max(len(matching(rates, key)[list(SHAPE)].drop_duplicates()) for key in keys)
    height = 0.34 + (1.6 if chosen.to_scale else _ROW_HEIGHT * min(max(most, 3), 14))
    span = n_span(rates, chosen)
    with Panels(keys, ax, row_height=height, rest=0.95, sharex=True) as panels:
        for axes, key in panels:
            diagram_panel(axes, matching(rates, key), matching(thresholds, key), chosen, span)
            panels.title(axes, describe(key))
        if ax is None:
            plain_ticks(panels.flat[0].xaxis, *span)
        panels.label(chosen.x_label, chosen.y_label)
        shrink = 0.9 if -(-len(keys) // panels.columns) < 3 else 0.5
        panels.color_bar(Normalize(0, 1), f"success probability (relative error < {tolerance:g})", shrink=shrink)
        handles = _handles(_in_view(rates, chosen, span), set(thresholds["censored"]))
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


def n_span(rates: pd.DataFrame, view: View) -> tuple[float, float]:
    """Smallest and largest n, in the view's unit."""
    shown = rates["n"] / [view.unit(int(a), int(b)) for a, b in zip(rates["d_out"], rates["d_in"], strict=True)]
    return float(shown.min()), float(shown.max())


def diagram_panel(
    axes: Axes, rates: pd.DataFrame, thresholds: pd.DataFrame, view: View, span: tuple[float, float]
) -> None:
    """Tiles, predictions and n50 of one panel.

    Args:
        axes: to draw into.
        rates: of the panel, from :func:`flatdist.fits.success.success_rates`.
        thresholds: of the panel.
        view: what the axes are.
        span: of n, in the view's unit; the same for all panels.
    """
    shapes = sorted({shape_of(row) for row in rates.to_dict("records")}, key=lambda s: (view.height(*s), s[0] * s[1]))
    rows = _places(shapes, view)
    axes.set_xscale("log")
    axes.set_xlim(span[0] / 1.05, span[1] * 1.05)
    axes.set_facecolor(UNMEASURED)
    for shape, (bottom, top) in rows.items():
        mine = matching(rates, dict(zip(SHAPE, shape, strict=True))).sort_values("n")
        axes.pcolormesh(
            log_edges(mine["n"].to_numpy(dtype=float) / view.unit(*shape[:2])), np.array([bottom, top]),
            mine["rate"].to_numpy(dtype=float)[None, :], norm=Normalize(0, 1), cmap=HEAT, edgecolors=OVER_HEAT,
            linewidth=0.15, gid=mark("tile", mine.iloc[0], mine["n"]),
        )  # fmt: skip
        axes.annotate(
            count_words(mine["count"]), (1.0, (bottom + top) / 2), xycoords=("axes fraction", "data"), xytext=(1.5, 0),
            textcoords="offset points", va="center", fontsize=5.5,
        )  # fmt: skip
    _predictions(axes, rows, view)
    _contour(axes, thresholds, rows, view)
    axes.set_ylim(min(bottom for bottom, _ in rows.values()), max(top for _, top in rows.values()))
    if not view.to_scale:
        axes.set_yticks(range(len(rows)), [view.name(*shape) for shape in shapes])
    axes.minorticks_off()
    despine(axes)


def _places(shapes: Sequence[Shape], view: View) -> dict[Shape, Band]:
    """Bottom and top of each row: one after another, or around its value; rows of one value share its height."""
    if not view.to_scale:
        return {shape: (row - 0.5, row + 0.5) for row, shape in enumerate(shapes)}
    levels = sorted({view.height(*shape) for shape in shapes})
    ends = edges(np.array(levels))
    places: dict[Shape, Band] = {}
    for level, low, high in zip(levels, ends, ends[1:], strict=False):
        mine = [shape for shape in shapes if view.height(*shape) == level]
        cuts = np.linspace(low, high, len(mine) + 1).tolist()
        places |= dict(zip(mine, itertools.pairwise(cuts), strict=True))
    return places


def shape_of(row: Mapping[Any, Any]) -> Shape:
    """(d_out, d_in, rank) of a row."""
    return int(row["d_out"]), int(row["d_in"]), int(row["rank"])


def log_edges(n: np.ndarray) -> np.ndarray:
    """Edges of cells around increasing values, at the geometric means of neighbours, (k + 1,)."""
    return np.array([n[0] / 1.05, n[0] * 1.05]) if len(n) == 1 else np.exp(edges(np.log(n)))


def edges(values: np.ndarray) -> np.ndarray:
    """Edges of cells around increasing values, halfway between neighbours, (k + 1,)."""
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middles = (values[1:] + values[:-1]) / 2
    return np.concatenate(([2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]))


def _predictions(axes: Axes, rows: Mapping[Shape, Band], view: View) -> None:
    y = np.array([(bottom + top) / 2 for bottom, top in rows.values()])
    bottom, top = min(band[0] for band in rows.values()), max(band[1] for band in rows.values())
    for name in PREDICTIONS:
        logs = np.log([prediction(name).value(*shape) / view.unit(*shape[:2]) for shape in rows])
        first, last = (logs[1] - logs[0], logs[-1] - logs[-2]) if len(logs) > 1 else (0.0, 0.0)
        x = np.exp(np.concatenate(([logs[0] - 0.5 * first], logs, [logs[-1] + 0.5 * last])))
        ends = np.concatenate(([bottom], y, [top]))
        axes.plot(x, ends, color=EDGE_OVER_HEAT, linewidth=2.2, alpha=0.6, zorder=3, solid_capstyle="butt")
        axes.plot(
            x, ends, color=OVER_HEAT, linewidth=1.2, linestyle=PREDICTION_LINES[name][0], zorder=4,
            gid=mark("prediction", {"name": name}),
        )  # fmt: skip


def _contour(axes: Axes, thresholds: pd.DataFrame, rows: Mapping[Shape, Band], view: View) -> None:
    """The 50 % contour through n50 of neighbouring rows, its band, each row's interval, arrows where censored."""
    left, right = axes.get_xlim()
    found: dict[float, tuple[float, ...]] = {}
    for fit in thresholds.to_dict("records"):
        shape = shape_of(fit)
        unit, y = view.unit(*shape[:2]), sum(rows[shape]) / 2
        gid = mark("n50", fit)
        if fit["censored"] in ("none", "interval"):
            low, middle, high = (float(fit[name]) / unit for name in ("n50_low", "n50", "n50_high"))
            found[y] = low, middle, high
            for color, width in ((OVER_HEAT, 2.4), (N50, 1.3)):
                axes.plot([max(low, left), min(high, right)], [y, y], color=color, linewidth=width, zorder=6)
            axes.plot([middle], [y], "o", color=N50, markeredgecolor=OVER_HEAT, markeredgewidth=0.5, zorder=7, gid=gid)
        elif fit["censored"] in ("left", "right"):
            marker, edge = (">", "n_max") if fit["censored"] == "right" else ("<", "n_min")
            axes.plot(
                [float(fit[edge]) / unit], [y], marker, color=N50, markeredgecolor=OVER_HEAT, markeredgewidth=0.5,
                markersize=5, zorder=7, clip_on=False, gid=gid,
            )  # fmt: skip
    for y, next_y in itertools.pairwise(sorted(sum(band) / 2 for band in rows.values())):
        if y in found and next_y in found:
            low, middle, high = np.array([found[y], found[next_y]]).T
            band = np.clip(low, left, right), np.clip(high, left, right)
            axes.fill_betweenx([y, next_y], *band, color=N50, alpha=0.35, linewidth=0, zorder=5)
            axes.plot(middle, [y, next_y], color=N50, linewidth=0.9, zorder=5)


def _in_view(rates: pd.DataFrame, view: View, span: tuple[float, float]) -> list[str]:
    """Predictions that lie within the measured n of any row."""
    shapes = {shape_of(row) for row in rates.to_dict("records")}
    return [
        name for name in PREDICTIONS
        if any(span[0] / 1.05 <= prediction(name).value(*s) / view.unit(*s[:2]) <= span[1] * 1.05 for s in shapes)
    ]  # fmt: skip


def _handles(shown: list[str], censored: set[str]) -> list[Line2D]:
    handles = prediction_handles(shown, linewidth=1.0)
    handles.append(Line2D([], [], color=N50, marker="o", linewidth=1.3, label="$n_{50}$, 95 % interval"))
    for kind, marker, text in (("right", ">", "above"), ("left", "<", "below")):
        if kind in censored:
            label = f"$n_{{50}}$ is {text} what was measured"
            handles.append(Line2D([], [], color=N50, marker=marker, linestyle="", label=label))
    handles.append(Line2D([], [], color="none", label="right: replicates per cell"))
    return handles


def make(
    trials: pd.DataFrame, context: Context, *, tolerance: float | None = None, link: str = "auto", view: str = "auto"
) -> Drawn:
    """The figure, and the thresholds in it."""
    tolerance = resolve_tolerance(trials, tolerance)
    by = diagram_columns(trials, view)
    thresholds = fit_thresholds(trials, by, tolerance, link=link)
    stem = "phase_diagram" if view in ("auto", "rank") else f"phase_diagram_{view}"
    settings = {"tolerance": tolerance, "link": link, "level": 0.95, "by": by, "view": view}
    figure = phase_diagram(trials, tolerance=tolerance, view=view, thresholds=thresholds)
    return Drawn({stem: figure}, {"n50": threshold_table(thresholds, by)}, settings, unfinished(thresholds))
