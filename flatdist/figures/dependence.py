"""n50 as a function of one field of the cells, or of the tolerance that defines success.

Over a field, the line is flat if the method forgets it. Over ``init_scale`` this is the map of n50 over the initial
scale and the label noise, which distinguishes flatness from the bias of small layers. Over the tolerance, near misses
count at 1e-2, but not at 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import (
    Panels,
    arrow_handle,
    keys_of,
    points,
    prediction_handles,
    series_handles,
    series_rows,
)
from flatdist.figures.sample_complexity import draw_predictions
from flatdist.figures.style import DOWN, UP, color_of, log_axes, marker_of, plain_ticks
from flatdist.figures.words import number, shown, threshold_table, unfinished
from flatdist.fits.grouping import SHAPE, matching, panel_columns, series_columns
from flatdist.fits.ratios import BRACKETED, changes, check_field, split
from flatdist.fits.success import resolve_tolerance
from flatdist.fits.threshold import TOLERANCES, fit_over_tolerances, fit_thresholds
from flatdist.fits.threshold import grouping as grouping_over_n
from flatdist.theory import prediction


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
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

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
    if thresholds is None:
        thresholds = fit_thresholds(trials, grouping(trials, x), resolve_tolerance(trials, tolerance), link=link)
    panel_names, series_names = split(trials, x)
    keys, series_keys = keys_of(thresholds, panel_names), keys_of(thresholds, series_names)
    keys = [key for key in keys if key.get("depth", 0) is not None] or keys
    drawn: set[str] = set()
    rest = 0.5 + 0.13 * (len(series_keys) + 2)
    with Panels(keys, ax, row_height=1.6, rest=rest, most_in_column=4, sharex=True) as panels:
        for axes, key in panels:
            mine = in_panel(thresholds, key)
            axes.set_yscale("log")
            _limits(axes, mine)
            for index, fits in series_rows(mine, series_keys):
                _line(axes, fits, x, index)
            drawn |= draw_predictions(axes, in_panel(trials, key), n_axis="y", linewidth=0.8)
            plain_ticks(axes.yaxis, *axes.get_ylim())
        panels.label(x, "$n_{50}$")
        for axes in panels.flat[: len(keys)]:
            axes.set_ylabel("$n_{50}$")
        _x_axis(panels.flat[0], np.sort(thresholds[x].dropna().astype(float).unique()))
        handles = [*series_handles(series_keys), *prediction_handles(drawn)]
        if thresholds["censored"].isin(["left", "right"]).any():
            handles.append(arrow_handle("beyond what was measured"))
        panels.legend(handles, columnspacing=2.0)
    return panels.result


def grouping(trials: pd.DataFrame, x: str) -> list[str]:
    """The columns that :func:`dependence` groups trials by."""
    panels, series = split(trials, x)
    return list(dict.fromkeys([*series, *panels, x, *(name for name in SHAPE if name in trials)]))


def _with_numbers(trials: pd.DataFrame, x: str) -> pd.DataFrame:
    """The trials with the field as numbers, which a table with nulls may hold as objects.

    Raises:
        FitError: n50 cannot be drawn against the field.
    """
    if x in trials and trials[x].dtype == object:
        numbers = pd.to_numeric(trials[x], errors="coerce")
        trials = trials.assign(**{x: numbers}) if numbers.notna().sum() == trials[x].notna().sum() else trials
    check_field(trials, x)
    return trials


def in_panel(table: pd.DataFrame, key: Mapping[str, Any]) -> pd.DataFrame:
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
    if len(values) <= 7:
        axes.set_xticks(list(values), labels=[f"{value:g}" for value in values])
        axes.minorticks_off()
    elif logarithmic:
        plain_ticks(axes.xaxis, values[0], values[-1])


def _limits(axes: Axes, thresholds: pd.DataFrame) -> None:
    """Limits for every threshold, every bound of a censored one, the intervals that are not much wider, and a floor.

    The floor is the degrees of freedom, a lower bound of n50 that small layers approach, if it is near.
    """
    values = thresholds[["n50", "n50_low", "n50_high"]].to_numpy(dtype=float)
    centers, bounds = values[np.isfinite(values[:, 0]), 0], values[np.isfinite(values) & (values > 0)]
    if len(centers):
        bounds = bounds[(bounds > 0.6 * centers.min()) & (bounds < centers.max() / 0.6)]
    if not len(bounds):
        return
    low, high = bounds.min(), bounds.max()
    shapes = thresholds[[name for name in SHAPE if name in thresholds]].drop_duplicates()
    if shapes.shape == (1, len(SHAPE)):
        floor = prediction("dof").value(*(int(size) for size in shapes.iloc[0]))
        low = floor if low / 1.5 < floor < low else low
    axes.set_ylim(low / 1.05, high * 1.05)


def _line(axes: Axes, fits: pd.DataFrame, x: str, index: int) -> None:
    color = color_of(index)
    low, high = axes.get_ylim()
    for _, fit in fits[fits[x].isna() & fits["censored"].isin(BRACKETED)].iterrows():
        axes.axhspan(fit["n50_low"], fit["n50_high"], color=color, alpha=0.18, linewidth=0, zorder=0)
        axes.axhline(fit["n50"], color=color, linewidth=0.9, zorder=1)
    fits = fits[fits[x].notna()].sort_values(x)
    known = fits[fits["censored"].isin(BRACKETED)]
    ends = np.clip(known[["n50_low", "n50_high"]].to_numpy(dtype=float).T, low, high)
    points(axes, index, known[x].astype(float), known["n50"].to_numpy(dtype=float), *ends, zorder=3)
    for kind, bound, arrow in (("right", "n50_low", UP), ("left", "n50_high", DOWN)):
        for _, fit in fits[fits["censored"] == kind].iterrows():
            limit = float(fit[bound])
            if math.isfinite(limit) and limit > 0:
                at = np.clip(limit, low * 1.03, high / 1.03)
                axes.plot([float(fit[x])], [at], color=color, marker=arrow, markersize=6, zorder=3)


def tolerance(
    trials: pd.DataFrame, *, link: str = "auto", thresholds: pd.DataFrame | None = None, ax: Axes | None = None
) -> Any:
    """n50 with its band against the tolerance: a panel for each problem, a colour for each method.

    Args:
        trials: one row per replicate.
        link: of the threshold fits.
        thresholds: from :func:`flatdist.fits.threshold.fit_over_tolerances`; fitted here by default.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: missing columns, no n50 within the measured n, or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.tolerance(figures.example_trials()).axes[0].get_xlabel()
        'success: relative error below'
    """
    if thresholds is None:
        thresholds = fit_over_tolerances(trials, grouping_over_n(trials), link=link)
    keys, series_keys = keys_of(thresholds, panel_columns(trials)), keys_of(thresholds, series_columns(trials))
    if not thresholds["censored"].isin(BRACKETED).any():
        raise FitError("no n50 lies within the measured n at any tolerance; widen the range of n")
    drawn: set[str] = set()
    rest = 0.5 + 0.13 * len(series_keys)
    with Panels(keys, ax, row_height=1.4, rest=rest, most_in_column=4, sharex=True) as panels:
        for axes, key in panels:
            mine = matching(thresholds, key)
            known = mine[mine["censored"].isin(BRACKETED)]
            low, high = 0.5 * mine["n_min"].min(), 2.0 * mine["n_max"].max()  # intervals may be infinite
            for index, fits in series_rows(known, series_keys, "tolerance"):
                band = fits["n50_low"].clip(low), fits["n50_high"].clip(None, high)
                axes.fill_between(fits["tolerance"], *band, color=color_of(index), alpha=0.18, linewidth=0)
                axes.plot(fits["tolerance"], fits["n50"], color=color_of(index), marker=marker_of(index))
            around = known["n50"] if len(known) else matching(trials, key)["n"]
            axes.set_ylim(0.85 * around.min(), 1.15 * around.max())
            drawn |= draw_predictions(axes, matching(trials, key), ("rsum", "statdim"), n_axis="y", linewidth=0.8)
            log_axes(axes)
            plain_ticks(axes.yaxis, *axes.get_ylim())
        panels.label("success: relative error below", "$n_{50}$")
        panels.flat[0].invert_xaxis()
        panels.legend([*series_handles(series_keys), *prediction_handles(drawn)])
    return panels.result


def make(
    trials: pd.DataFrame, context: Context, *, x: str = "init_scale", tolerance: float, link: str = "auto"
) -> Drawn:
    """The figure, the thresholds, and how neighbouring values differ."""
    trials = _with_numbers(trials, x)
    by = grouping(trials, x)
    thresholds = fit_thresholds(trials, by, tolerance, link=link)
    tables = {"n50": threshold_table(thresholds, by)}
    tables["n50 at the higher value over that at the lower"] = shown(changes(thresholds, x, [b for b in by if b != x]))
    figures = {f"dependence_{x}": dependence(trials, x, thresholds=thresholds)}
    return Drawn(figures, tables, {"level": 0.95, "by": by}, unfinished(thresholds))


def make_tolerance(trials: pd.DataFrame, context: Context, *, link: str = "auto") -> Drawn:
    """The figure, and n50 at each tolerance."""
    by = grouping_over_n(trials)
    thresholds = fit_over_tolerances(trials, by, link=link)
    named = shown(thresholds[by]).assign(tolerance=thresholds["tolerance"], n50=thresholds["n50"].map(number))
    wide = named.pivot(index=by, columns="tolerance", values="n50") if by else named.set_index("tolerance").T
    wide = wide.reset_index().rename(columns=lambda name: f"{name:g}" if isinstance(name, float) else str(name))
    figures = {"tolerance": tolerance(trials, thresholds=thresholds)}
    return Drawn(figures, {"n50 by tolerance": wide}, {"tolerances": TOLERANCES, "level": 0.95, "by": by})
