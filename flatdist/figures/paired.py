"""Methods side by side on the same problems: paired differences of success, with intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels, count_words, keys_of, points, series_handles, series_rows
from flatdist.figures.style import INK, method_label, plain_ticks
from flatdist.figures.words import shown
from flatdist.fits.grouping import matching, panel_columns, series_columns
from flatdist.fits.paired import mean_differences, paired_differences
from flatdist.fits.success import resolve_tolerance
from flatdist.fits.threshold import grouping


def paired(
    trials: pd.DataFrame,
    *,
    reference: str = "min_nuclear_norm",
    tolerance: float | None = None,
    ax: Axes | None = None,
) -> Any:
    """Success minus the reference's on the same problems, against n: one panel per problem, one colour per method.

    A replicate's problem depends only on the problem's fields and the replicate's number, so two methods' trials of one
    replicate are a pair, and variation between problems cancels in the difference.

    Args:
        trials: one row per replicate.
        reference: method that the others are compared with.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: the reference has no trials or several configurations, no other method shares its problems, or several
            panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.paired(figures.example_trials()).axes[0].get_ylabel()
        'difference in success'
    """
    differences = paired_differences(trials, reference, resolve_tolerance(trials, tolerance))
    keys = keys_of(differences, panel_columns(trials))
    series_keys = keys_of(differences, series_columns(trials))
    rest = 0.5 + 0.13 * len(series_keys)
    with Panels(keys, ax, row_height=1.3, rest=rest, most_in_column=4, sharey=True) as panels:
        for axes, key in panels:
            mine = matching(differences, key)
            panels.title(axes, key, f"{count_words(mine['pairs'])} pairs per point")
            for index, table in series_rows(mine, series_keys, "n"):
                x = table["n"].to_numpy(dtype=float) * (1.0 + 0.006 * index)
                points(axes, index, x, *(table[f"difference{end}"] for end in ("", "_low", "_high")), elinewidth=0.6)
            axes.axhline(0.0, color=INK, linewidth=0.6, zorder=1)
            axes.set_xscale("log")
            plain_ticks(axes.xaxis, float(mine["n"].min()), float(mine["n"].max()))
        panels.label("measurements $n$", "difference in success")
        title = f"minus {method_label(reference)}, same problems"
        panels.legend(series_handles(series_keys), columnspacing=2.0, title=title, title_fontsize=6.5)
    return panels.result


def make(trials: pd.DataFrame, context: Context, *, reference: str = "min_nuclear_norm", tolerance: float) -> Drawn:
    """The figure, and the differences over all n."""
    table = mean_differences(paired_differences(trials, reference, tolerance), grouping(trials))
    figure = paired(trials, reference=reference, tolerance=tolerance)
    return Drawn({"paired": figure}, {f"success minus that of {reference}": shown(table)}, {"level": 0.95})
