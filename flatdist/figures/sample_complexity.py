"""Success probability against the number of measurements, with n50 and theory's predictions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Key, Panels, count_words, keys_of, prediction_handles, series_handles, styled
from flatdist.figures.style import FAINT, PREDICTION_LINES, PREDICTIONS, color_of, mark, marker_of, plain_ticks
from flatdist.figures.words import threshold_table, unfinished
from flatdist.fits.grouping import SHAPE, matching, panel_columns, series_columns
from flatdist.fits.ratios import BRACKETED
from flatdist.fits.success import resolve_tolerance, success_rates
from flatdist.fits.threshold import fit_thresholds, grouping
from flatdist.theory import first_success, prediction
from flatdist.theory.statdim import LARGEST_SAMPLED
from flatdist.threshold.curves import curve

LAW: Mapping[str, Any] = {"color": FAINT, "linestyle": (0, (4, 1.5)), "linewidth": 0.7}


def sample_complexity(
    trials: pd.DataFrame,
    *,
    tolerance: float | None = None,
    link: str = "auto",
    thresholds: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Any:
    """Success against n with its fitted curve: a panel for each problem, a colour for each method.

    Args:
        trials: one row per replicate, with ``n``, ``replicate``, ``relative_error`` and whatever varies.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        link: success curve of the threshold fits; ``auto`` chooses by evidence.
        thresholds: fitted already, grouped by :func:`grouping`; fitted here by default.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: missing columns, or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.sample_complexity(figures.example_trials()).axes[0].get_xlabel()
        'measurements $n$'
    """
    tolerance = resolve_tolerance(trials, tolerance)
    panel_names, series_names = panel_columns(trials), series_columns(trials)
    rates = success_rates(trials, [*panel_names, *series_names], tolerance)
    if thresholds is None:
        thresholds = fit_thresholds(trials, grouping(trials), tolerance, link=link)
    panel_keys, series_keys = keys_of(rates, panel_names), keys_of(rates, series_names)
    legend_height = 0.13 * (1 + max(len(series_keys), len(PREDICTIONS) + 1)) + 0.12
    shown: set[str] = set()
    with Panels(panel_keys, ax, row_height=1.25, rest=legend_height + 0.4, sharey=True) as panels:
        for axes, key in panels:
            mine = matching(rates, key)
            panels.title(axes, key, f"{count_words(mine['count'])} replicates per point")
            success_panel(axes, mine, matching(thresholds, key), series_keys)
            shown |= draw_predictions(axes, matching(trials, key))
        panels.label("measurements $n$", "success")
        laws = prediction_handles(shown, linewidth=0.8)
        laws += [Line2D([], [], label="theory of the nuclear norm, not fitted", **LAW)] if "law" in shown else []
        laws.append(Line2D([], [], color=FAINT, alpha=0.3, linewidth=6, label="$n_{50}$, 95 % interval"))
        blank = Line2D([], [], color="none", label=" ")
        rows = itertools.zip_longest(series_handles(series_keys), laws, fillvalue=blank)  # a column for each
        handles = [handle for column in zip(*rows, strict=True) for handle in column]
        panels.legend(handles, handlelength=2.2, title=f"success: relative error < {tolerance:g}", title_fontsize=6.5)
    return panels.result


def success_panel(axes: Axes, rates: pd.DataFrame, thresholds: pd.DataFrame, series_keys: Sequence[Key]) -> None:
    """Points and fitted curves of one problem, with the success rates and thresholds of it.

    ``series_keys`` are those of all panels, so that colours agree.
    """
    low, high = float(rates["n"].min()), float(rates["n"].max())
    margin = (high / low) ** 0.04 if high > low else 1.2
    dense = np.geomspace(low, high, 300)
    for place, (index, series) in enumerate(styled(series_keys)):
        points, fits = matching(rates, series), matching(thresholds, series)
        shift = (high / low) ** (0.004 * (place - 0.5 * (len(series_keys) - 1)))  # equal points stay visible
        if len(points):
            axes.scatter(
                points["n"].to_numpy(dtype=float) * shift, points["rate"], color=color_of(index), s=11,
                marker=marker_of(index), linewidth=0.2, edgecolors="w", zorder=3, clip_on=False,
                gid=mark("point", points.iloc[0], points["n"]),
            )  # fmt: skip
        for fit in fits.to_dict("records"):
            _fit(axes, fit, dense, color_of(index))
    axes.set_xscale("log")
    axes.set(xlim=(low / margin, high * margin), ylim=(-0.04, 1.04), yticks=[0, 0.5, 1])
    plain_ticks(axes.xaxis, low, high)


def _fit(axes: Axes, fit: Key, dense: np.ndarray, color: str) -> None:
    n50, limits, kind = fit["n50"], (fit["n50_low"], fit["n50_high"]), fit["censored"]
    if kind in BRACKETED:
        low, high = np.clip(limits, 0.5 * dense[0], 2.0 * dense[-1])  # they may be infinite
        axes.axvspan(low, high, color=color, alpha=0.18, linewidth=0, zorder=0, gid=mark("band", fit))
        axes.plot([n50], [0.5], marker="|", color=color, markersize=7, markeredgewidth=1.2, zorder=4)
    if kind == "none":
        rate = curve(fit["link"], dense, n50, fit["scale"], fit["lapse"])
        axes.plot(dense, rate, color=color, zorder=2, gid=mark("curve", fit))
    elif kind == "interval":
        steps = [dense[0], *limits, dense[-1]]
        axes.plot(steps, [0, 0, 1, 1], color=color, linewidth=0.8, zorder=2, gid=mark("curve", fit))


def draw_predictions(
    axes: Axes,
    trials: pd.DataFrame,
    names: Sequence[str] = PREDICTIONS,
    *,
    n_axis: Literal["x", "y"] = "x",
    linewidth: float = 0.9,
) -> set[str]:
    """A line for each predicted n that is in view, if the panel's trials have one shape and rank.

    Over an axis of n, also the nuclear norm's whole success curve, Phi((n - delta) / sigma), which involves no fit.

    Returns:
        Names of the predictions that were drawn, and ``law`` for the curve.
    """
    shown: set[str] = set()
    shapes = trials[[name for name in SHAPE if name in trials]].drop_duplicates()
    if shapes.shape != (1, len(SHAPE)):
        return shown
    shape = [int(size) for size in shapes.iloc[0]]
    low, high = axes.get_xlim() if n_axis == "x" else axes.get_ylim()
    line = axes.axvline if n_axis == "x" else axes.axhline
    for name in names:
        value = prediction(name).value(*shape)
        dashes, grey = PREDICTION_LINES[name]
        if low <= value <= high:
            gid = mark("prediction", {"name": name})
            line(value, linestyle=dashes, color=grey, linewidth=linewidth, zorder=1, gid=gid)
            shown.add(name)
    # Theory has the curve of exact labels, exact rank and Gaussian measurements, of sizes that are not huge.
    plain = {"ensemble": "gaussian", "observation_noise_std": 0.0, "spectral_tail": 0.0}
    has_law = all((trials[name] == value).all() for name, value in plain.items() if name in trials)
    if n_axis == "x" and has_law and shape[0] * shape[1] <= LARGEST_SAMPLED:
        dense = np.geomspace(low, high, 200)
        axes.plot(dense, first_success(*shape).success(dense), zorder=1, **LAW)
        shown.add("law")
    return shown


def make(trials: pd.DataFrame, context: Context, *, tolerance: float, link: str = "auto") -> Drawn:
    """The figure, and the thresholds in it."""
    by = grouping(trials)
    thresholds = fit_thresholds(trials, by, tolerance, link=link)
    figures = {"sample_complexity": sample_complexity(trials, tolerance=tolerance, thresholds=thresholds)}
    tables = {"n50": threshold_table(thresholds, by)}
    return Drawn(figures, tables, {"level": 0.95, "by": by}, unfinished(thresholds))
