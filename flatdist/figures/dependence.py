"""n50 as a function of one field of the cells, with one line per value of the others.

The line is flat if the method forgets the field. Over ``init_scale`` this figure is the map of n50 over the initial
scale and the label noise, which distinguishes flatness from the bias of small layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import (
    Key,
    Panels,
    arrow_handle,
    describe,
    keys_of,
    prediction_handles,
    series_handles,
    styled,
)
from flatdist.figures.sample_complexity import draw_predictions
from flatdist.figures.style import PREDICTIONS, color_of, despine, marker_of, plain_ticks
from flatdist.figures.words import shown, threshold_table, unfinished
from flatdist.fits.grouping import matching
from flatdist.fits.ratios import BRACKETED, changes, check_field, split
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import resolve_tolerance
from flatdist.fits.threshold import fit_thresholds
from flatdist.theory import prediction

_MOST_TICKS = 7


def dependence(
    trials: pd.DataFrame,
    x: str,
    *,
    tolerance: float | None = None,
    link: str = "auto",
    thresholds: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Any:
    """n50 against a numeric field: a panel per problem, a colour per method; methods without the field are bands.

    Args:
        trials: one row per replicate.
        x: the field.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        link: of the threshold fits.
        thresholds: fitted already, grouped by :func:`grouping`; fitted here by default.
        ax: axes for a single panel; by default a new figure with all panels.

    Returns:
        The figure, or ``ax``.

    Raises:
        FitError: the column does not exist, is not numeric or has a single value, or one ``ax`` got several panels.

    Example:
        >>> import pandas as pd
        >>> from flatdist import figures
        >>> parts = [figures.example_trials().assign(init_scale=scale) for scale in (0.5, 1.0)]
        >>> figures.dependence(pd.concat(parts), "init_scale").axes[0].get_xlabel()
        'init_scale'
    """
    trials = _with_numbers(trials, x)
    check_field(trials, x)
    if thresholds is None:
        thresholds = fit_thresholds(trials, grouping(trials, x), resolve_tolerance(trials, tolerance), link=link)
    panel_names, series_names = split(trials, x)
    keys, series_keys = keys_of(thresholds, panel_names), keys_of(thresholds, series_names)
    keys = [key for key in keys if key.get("depth", 0) is not None] or keys
    values = np.sort(thresholds[x].dropna().astype(float).unique())
    drawn: set[str] = set()
    rest = 0.5 + 0.13 * (len(series_keys) + 2)
    with Panels(keys, ax, row_height=1.6, rest=rest, most_in_column=4, sharex=True) as panels:
        for axes, key in panels:
            mine = in_panel(thresholds, key)
            axes.set_yscale("log")
            _limits(axes, mine)
            for index, name in styled(series_keys):
                _line(axes, matching(mine, name), x, index)
            drawn |= draw_predictions(axes, in_panel(trials, key), PREDICTIONS, n_axis="y", linewidth=0.8)
            plain_ticks(axes.yaxis, *axes.get_ylim())
            panels.title(axes, describe(key))
            despine(axes)
        panels.label(x, "$n_{50}$")
        for axes, _ in panels:
            axes.set_ylabel("$n_{50}$")
        _x_axis(panels.flat[0], values)
        handles = [*series_handles(series_keys), *prediction_handles([name for name in PREDICTIONS if name in drawn])]
        if thresholds["censored"].isin(["left", "right"]).any():
            handles.append(arrow_handle("beyond what was measured"))
        panels.legend(handles, columnspacing=2.0)
    return panels.result


def grouping(trials: pd.DataFrame, x: str) -> list[str]:
    """The columns that this figure groups trials by."""
    panels, series = split(trials, x)
    return list(dict.fromkeys([*series, *panels, x, *(name for name in SHAPE if name in trials)]))


def _with_numbers(trials: pd.DataFrame, x: str) -> pd.DataFrame:
    """The trials with the field as numbers, which a table with nulls may hold as objects."""
    if x not in trials or trials[x].dtype != object:
        return trials
    numbers = pd.to_numeric(trials[x], errors="coerce")
    return trials.assign(**{x: numbers}) if numbers.notna().sum() == trials[x].notna().sum() else trials


def in_panel(table: pd.DataFrame, key: Key) -> pd.DataFrame:
    """Rows of a panel; those of methods without a depth are in the panels of every depth."""
    found = matching(table, {name: value for name, value in key.items() if name != "depth"})
    return found[found["depth"].isna() | (found["depth"] == key["depth"])] if "depth" in key else found


def _x_axis(axes: Axes, values: np.ndarray) -> None:
    """Use the measured values as ticks if they are few; logarithmic if they spread widely."""
    logarithmic = bool(values[0] > 0 and values[-1] / values[0] > 3)
    if logarithmic:
        margin = (values[-1] / values[0]) ** 0.06
        axes.set_xscale("log")
        axes.set_xlim(values[0] / margin, values[-1] * margin)
    if len(values) <= _MOST_TICKS:
        axes.set_xticks(list(values), labels=[f"{value:g}" for value in values])
        axes.minorticks_off()
    elif logarithmic:
        plain_ticks(axes.xaxis, values[0], values[-1])


def _limits(axes: Axes, thresholds: pd.DataFrame) -> None:
    """Limits for every threshold, every bound of a censored one, and the intervals that are not much wider."""
    values = thresholds[["n50", "n50_low", "n50_high"]].to_numpy(dtype=float)
    centers, bounds = values[np.isfinite(values[:, 0]), 0], values[np.isfinite(values) & (values > 0)]
    if len(centers):
        bounds = bounds[(bounds > 0.6 * centers.min()) & (bounds < centers.max() / 0.6)]
    ends = [*bounds, *_floor(thresholds, bounds)]
    if ends:
        axes.set_ylim(min(ends) / 1.05, max(ends) * 1.05)


def _floor(thresholds: pd.DataFrame, bounds: np.ndarray) -> list[float]:
    """The degrees of freedom, a lower bound of n50 that small layers approach, if they are in view."""
    shapes = thresholds[[name for name in SHAPE if name in thresholds]].drop_duplicates()
    if shapes.shape != (1, len(SHAPE)) or not len(bounds):
        return []
    value = prediction("dof").value(*(int(size) for size in shapes.iloc[0]))
    return [value] if bounds.min() / 1.5 < value < bounds.min() else []


def _line(axes: Axes, fits: pd.DataFrame, x: str, index: int) -> None:
    color, marker = color_of(index), marker_of(index)
    low, high = axes.get_ylim()
    for _, fit in fits[fits[x].isna() & fits["censored"].isin(BRACKETED)].iterrows():
        axes.axhspan(fit["n50_low"], fit["n50_high"], color=color, alpha=0.18, linewidth=0, zorder=0)
        axes.axhline(fit["n50"], color=color, linewidth=0.9, zorder=1)
    fits = fits[fits[x].notna()].sort_values(x)
    known = fits[fits["censored"].isin(BRACKETED)]
    ends = np.clip(known[["n50_low", "n50_high"]].to_numpy(dtype=float).T, low, high)
    center = known["n50"].to_numpy(dtype=float)
    bars = [center - ends[0], ends[1] - center]
    axes.errorbar(known[x].astype(float), center, yerr=bars, elinewidth=0.7, zorder=3, color=color, marker=marker)
    for kind, bound, arrow in (("right", "n50_low", "$\\uparrow$"), ("left", "n50_high", "$\\downarrow$")):
        for _, fit in fits[fits["censored"] == kind].iterrows():
            limit = float(fit[bound])
            if math.isfinite(limit) and limit > 0:
                at = np.clip(limit, low * 1.03, high / 1.03)
                axes.plot([float(fit[x])], [at], color=color, marker=arrow, markersize=6, zorder=3)


def make(
    trials: pd.DataFrame,
    context: Context,
    *,
    x: str = "init_scale",
    tolerance: float | None = None,
    link: str = "auto",
) -> Drawn:
    """The figure, the thresholds, and how neighbouring values differ."""
    trials = _with_numbers(trials, x)
    check_field(trials, x)
    tolerance = resolve_tolerance(trials, tolerance)
    by = grouping(trials, x)
    thresholds = fit_thresholds(trials, by, tolerance, link=link)
    figure = dependence(trials, x, thresholds=thresholds)
    settings = {"tolerance": tolerance, "link": link, "level": 0.95, "by": by, "x": x}
    tables = {"n50": threshold_table(thresholds, by)}
    tables["n50 at the higher value over that at the lower"] = shown(changes(thresholds, x, [b for b in by if b != x]))
    return Drawn({f"dependence_{x}": figure}, tables, settings, unfinished(thresholds))
