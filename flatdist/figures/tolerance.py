"""n50 as a function of the tolerance that defines success: near misses count at 1e-2, but not at 1e-6."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels, describe, keys_of, prediction_handles, series_handles, styled
from flatdist.figures.sample_complexity import draw_predictions
from flatdist.figures.style import color_of, despine, marker_of, plain_ticks
from flatdist.figures.words import number, shown
from flatdist.fits.grouping import matching, panel_columns, series_columns
from flatdist.fits.threshold import TOLERANCES, fit_over_tolerances, grouping

PREDICTIONS = ("rsum", "statdim")
_BRACKETED = ("none", "interval")


def tolerance(
    trials: pd.DataFrame, *, link: str = "auto", thresholds: pd.DataFrame | None = None, ax: Axes | None = None
) -> Any:
    """n50 with its band against the tolerance: a panel for each problem, a colour for each method.

    Args:
        trials: one row per replicate.
        link: of the threshold fits.
        thresholds: from :func:`flatdist.fits.threshold.fit_over_tolerances`; fitted here by default.
        ax: axes for a single panel; by default a new figure with all panels.

    Returns:
        The figure, or ``ax``.

    Raises:
        FitError: missing columns, no n50 within the measured n, or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.tolerance(figures.example_trials()).axes[0].get_xlabel()
        'success: relative error below'
    """
    if thresholds is None:
        thresholds = fit_over_tolerances(trials, grouping(trials), link=link)
    keys, series_keys = keys_of(thresholds, panel_columns(trials)), keys_of(thresholds, series_columns(trials))
    if not thresholds["censored"].isin(_BRACKETED).any():
        raise FitError("no n50 lies within the measured n at any tolerance; widen the range of n")
    drawn: set[str] = set()
    rest = 0.5 + 0.13 * len(series_keys)
    with Panels(keys, ax, row_height=1.4, rest=rest, most_in_column=4, sharex=True) as panels:
        for axes, key in panels:
            mine = matching(thresholds, key)
            known = mine[mine["censored"].isin(_BRACKETED)]
            low, high = 0.5 * mine["n_min"].min(), 2.0 * mine["n_max"].max()  # intervals may be infinite
            for index, name in styled(series_keys):
                fits, color = matching(known, name).sort_values("tolerance"), color_of(index)
                band = fits["n50_low"].clip(low), fits["n50_high"].clip(None, high)
                axes.fill_between(fits["tolerance"], *band, color=color, alpha=0.18, linewidth=0)
                axes.plot(fits["tolerance"], fits["n50"], color=color, marker=marker_of(index))
            around = known["n50"] if len(known) else matching(trials, key)["n"]
            axes.set_ylim(0.85 * around.min(), 1.15 * around.max())
            drawn |= draw_predictions(axes, matching(trials, key), PREDICTIONS, n_axis="y", linewidth=0.8)
            axes.set_xscale("log")
            axes.set_yscale("log")
            plain_ticks(axes.yaxis, *axes.get_ylim())
            panels.title(axes, describe(key))
            despine(axes)
        panels.label("success: relative error below", "$n_{50}$")
        panels.flat[0].invert_xaxis()
        panels.legend([*series_handles(series_keys), *prediction_handles([p for p in PREDICTIONS if p in drawn])])
    return panels.result


def make(trials: pd.DataFrame, context: Context, *, link: str = "auto") -> Drawn:
    """The figure, and n50 at each tolerance."""
    by = grouping(trials)
    thresholds = fit_over_tolerances(trials, by, link=link)
    named = shown(thresholds[by]).assign(tolerance=thresholds["tolerance"], n50=thresholds["n50"].map(number))
    wide = named.pivot(index=by, columns="tolerance", values="n50") if by else named.set_index("tolerance").T
    wide = wide.reset_index().rename(columns=lambda name: f"{name:g}" if isinstance(name, float) else str(name))
    settings = {"tolerances": TOLERANCES, "link": link, "level": 0.95, "by": by}
    return Drawn({"tolerance": tolerance(trials, thresholds=thresholds)}, {"n50 by tolerance": wide}, settings)
