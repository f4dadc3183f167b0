"""How far above the flattest trace annealed label-noise SGD ends, and where that tends at learning rate 0.

``python -m analysis.flatness_gap SWEEP [--store S] [--out DIR]``
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.layout import describe, keys_of
from flatdist.figures.style import COLUMN_WIDTH, color_of, marker_of, save_figure, themed
from flatdist.fits.extrapolation import DEGREES, Limit, gaps, series_of, to_zero
from flatdist.fits.grouping import matching


def gap_figure(table: pd.DataFrame, limits: Sequence[Sequence[Limit]], series: Sequence[str] = ("depth",)) -> Figure:
    """Draw the median gap and its quartiles over the learning rate, with the extrapolations.

    Args:
        table: from :func:`gaps`.
        limits: at learning rate 0, of each series in the order of :func:`flatdist.figures.layout.keys_of`.
        series: columns that make a colour.
    """
    with themed():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.7), layout="constrained")
        axes = figure.subplots()
        for index, (key, fitted) in enumerate(zip(keys_of(table, series), limits, strict=True)):
            group = matching(table, key)
            quartiles = group.groupby("learning_rate")["gap"].quantile(np.array([0.25, 0.5, 0.75])).unstack() * 100
            middle = quartiles[0.5]
            bars = np.array([middle - quartiles[0.25], quartiles[0.75] - middle])
            color = color_of(index)
            axes.errorbar(middle.index, middle, bars, fmt=marker_of(index), color=color, capsize=2, label=describe(key))
            grid = np.linspace(0.0, float(middle.index.max()), 50)
            for style, limit in zip((":", "-"), fitted, strict=True):
                axes.plot(grid, 100 * np.polyval(limit.coefficients, grid), style, color=color, linewidth=0.8)
        axes.axhline(1.0, color="#bbbbbb", linewidth=0.8, linestyle="--", zorder=0)
        axes.axhline(0.0, color="#bbbbbb", linewidth=0.6, zorder=0)
        axes.set_xlabel("learning rate; dotted: linear, solid: quadratic fit")
        axes.set_ylabel("trace above the flattest (%)")
        axes.legend()
        sns.despine(figure)
    return figure


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Draw and save; returns the lines to print."""
    table = gaps(trials)
    series = series_of(table)
    lines, limits = [], []
    for key in keys_of(table, series):
        group, name = matching(table, key), describe(key)
        fitted = [to_zero(group, "gap", degree) for degree in DEGREES]
        limits.append(fitted)
        for rate, runs in group.groupby("learning_rate"):
            low, middle, high = np.quantile(runs["gap"], (0.25, 0.5, 0.75)) * 100
            steps = int(runs["steps"].iloc[0])
            lines.append(
                f"{name}, learning rate {rate:.4g}, {steps} steps: median {middle:.3f} % above the flattest "
                f"(quartiles {low:.3f} .. {high:.3f}, {len(runs)} replicates)"
            )
        lines += [
            f"{name}, learning rate 0, degree {limit.degree}: {100 * limit.value:.3f} +- {100 * limit.error:.3f} %"
            for limit in fitted
        ]
    figure = gap_figure(table, limits, series)
    settings = {"bars": "quartiles over replicates", "degrees": list(DEGREES), "by": series}
    origin = request.origin(trials, settings)
    return [*lines, *path_lines(save_figure(figure, request.out, "flatness_gap", origin))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("flatness_gap", "Annealed label-noise SGD above the flattest interpolator.", draw, arguments)
