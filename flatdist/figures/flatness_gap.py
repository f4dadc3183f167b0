"""How far above the flattest trace annealed label-noise SGD ends, and the limit of that gap at learning rate 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels, describe, keys_of
from flatdist.figures.style import color_of, despine, marker_of
from flatdist.figures.words import shown
from flatdist.fits.extrapolation import DEGREES, gaps, series_of, to_zero
from flatdist.fits.grouping import group_rows, matching

_QUARTILES = (0.25, 0.5, 0.75)


def flatness_gap(trials: pd.DataFrame, *, ax: Axes | None = None) -> Any:
    """Median gap and its quartiles over the learning rate, in percent, with linear and quadratic extrapolations.

    Args:
        trials: runs of ``label_noise_sgd`` and certified ``min_hessian_trace`` trials of the same problems and layers.
        ax: axes to draw into; by default a figure of its own.

    Returns:
        The figure, or ``ax``.

    Raises:
        FitError: there is no pair, or there are too few learning rates.

    Example:
        >>> import flatdist
        >>> base = {"d_out": 4, "d_in": 4, "rank": 1, "n": 8, "depth": 2}
        >>> cells = [flatdist.Cell(**base, method="label_noise_sgd", learning_rate=rate, steps=400)
        ...          for rate in (0.02, 0.04, 0.08)]
        >>> cells.append(flatdist.Cell(**base, method="min_hessian_trace"))
        >>> trials = pd.concat([flatdist.run_cell(cell, replicates=range(2))[0] for cell in cells], ignore_index=True)
        >>> flatness_gap(trials).axes[0].get_ylabel()
        'trace above the flattest (%)'
    """
    table = gaps(trials)
    with Panels([{}], ax, row_height=2.7, rest=0.0) as panels:
        axes = panels.flat[0]
        for index, key in enumerate(keys_of(table, series_of(table))):
            group, color = matching(table, key), color_of(index)
            quartiles = group.groupby("learning_rate")["gap"].quantile(np.array(_QUARTILES)).unstack() * 100
            middle = quartiles[0.5]
            bars = np.array([middle - quartiles[0.25], quartiles[0.75] - middle])
            axes.errorbar(middle.index, middle, bars, fmt=marker_of(index), color=color, capsize=2, label=describe(key))
            grid = np.linspace(0.0, float(middle.index.max()), 50)
            for style, degree in zip((":", "-"), DEGREES, strict=True):
                fitted = to_zero(group, "gap", degree)
                axes.plot(grid, 100 * np.polyval(fitted.coefficients, grid), style, color=color, linewidth=0.8)
        axes.axhline(1.0, color="#bbbbbb", linewidth=0.8, linestyle="--", zorder=0)
        axes.axhline(0.0, color="#bbbbbb", linewidth=0.6, zorder=0)
        panels.label("learning rate; dotted: linear, solid: quadratic fit", "trace above the flattest (%)")
        axes.legend()
        despine(axes)
    return panels.result


def make(trials: pd.DataFrame, context: Context) -> Drawn:
    """The figure, the gaps at each learning rate, and their limits."""
    table = gaps(trials)
    series = series_of(table)
    rows, remarks = [], []
    for key, group in group_rows(table, series):
        for rate, runs in group.groupby("learning_rate"):
            low, middle, high = np.quantile(runs["gap"], _QUARTILES) * 100
            percent = {"gap, %": middle, "gap, %_low": low, "gap, %_high": high}
            counts = {"replicates": len(runs), "steps": int(runs["steps"].iloc[0])}
            rows.append({**key, "learning_rate": rate, **counts, **percent})
        for degree in DEGREES:
            limit = to_zero(group, "gap", degree)
            value = f"{100 * limit.value:.3f} +- {100 * limit.error:.3f} %"
            remarks.append(f"{describe(key)}, learning rate 0, degree {degree}: {value}")
    settings = {"bars": "quartiles over replicates", "degrees": list(DEGREES), "by": series}
    tables = {"trace above the flattest, median and quartiles": shown(pd.DataFrame(rows))}
    return Drawn({"flatness_gap": flatness_gap(trials)}, tables, settings, remarks)
