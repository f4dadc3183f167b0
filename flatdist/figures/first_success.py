"""On nested problems every replicate has its own N, the first n at which it succeeds: is E[N] = delta + 1/2?

For nuclear-norm minimisation with Gaussian measurements, conic kinematics proves this exactly, with delta the
statistical dimension; other methods' N on the same measurement streams show how far they are from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import keys_of, legend_above, series_handles, styled
from flatdist.figures.style import COLUMN_WIDTH, INK, color_of, despine, marker_of, method_label, plain_ticks, themed
from flatdist.figures.words import shown
from flatdist.fits.first_success import agreement_lines, mean_first_success, paired_first_success
from flatdist.fits.grouping import configuration_columns, matching, series_columns
from flatdist.fits.shapes import SHAPE, predicted
from flatdist.fits.success import require_columns, resolve_tolerance

_SPREAD = 0.012  # series of one shape are set side by side, by this much of log x


def first_success(
    trials: pd.DataFrame, *, reference: str = "min_nuclear_norm", tolerance: float | None = None
) -> Figure:
    """E[N] - (delta + 1/2) and the paired differences of N, in percent of delta, against delta.

    Args:
        trials: of nested problems, with the shapes.
        reference: the method that pairs are compared with.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.

    Raises:
        FitError: columns are missing, the problems are not nested, or nothing pairs with the reference.

    Example:
        >>> from flatdist import figures
        >>> trials = figures.example_trials(sizes=(8, 12)).assign(nested=True)
        >>> len(figures.first_success(trials).axes)
        2
    """
    means, pairs, series = _tables(trials, reference, tolerance)
    keys = list(styled(keys_of(means, series)))
    handles = series_handles([key for _, key in keys], "all", linestyle="")
    tables = [_percent(means.assign(**{f"difference{end}": means[f"mean{end}"] - means["predicted"] for end in _ENDS}))]
    labels = ["$E[N] - (\\delta + 1/2)$,\n% of $\\delta$"]
    if pairs is not None:
        tables.append(_percent(pairs))
        labels.append(f"$N$ minus {method_label(reference)}'s,\nsame streams, % of $\\delta$")
    with themed():
        size = (COLUMN_WIDTH, 1.6 * len(tables) + 0.5 + 0.13 * -(-len(handles) // 2))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(tables), 1, squeeze=False, sharex=True)[:, 0]
        for axes, table, label in zip(grid, tables, labels, strict=True):
            axes.axhline(0.0, color=INK, linewidth=0.6, zorder=1)
            for place, (index, key) in enumerate(keys):
                _points(axes, matching(table, key), np.exp(_SPREAD * (place - 0.5 * (len(keys) - 1))), index)
            despine(axes)
            axes.set_ylabel(label)
        x = predicted("statdim", means)
        grid[-1].set_xscale("log")
        grid[-1].set_xlim(x.min() / 1.08, x.max() * 1.08)
        plain_ticks(grid[-1].xaxis, x.min(), x.max())
        grid[-1].set_xlabel("statistical dimension $\\delta$ of the shape and rank")
        legend_above(figure, handles)
    return figure


_ENDS = ("", "_low", "_high")


def _tables(
    trials: pd.DataFrame, reference: str, tolerance: float | None
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """Means and paired differences of N, and the columns that make a series."""
    require_columns(trials, SHAPE, "needed columns")
    tolerance = resolve_tolerance(trials, tolerance)
    series = _series(trials)
    by = [*series, *SHAPE]
    means = mean_first_success(trials, by, tolerance)
    several = "method" in trials and trials["method"].nunique() > 1
    return means, paired_first_success(trials, by, reference, tolerance) if several else None, series


def _series(trials: pd.DataFrame) -> list[str]:
    problem = [name for name in configuration_columns(trials, but=SHAPE) if name in PROBLEM_FIELDS]
    return [*series_columns(trials), *problem]


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    dimension = predicted("statdim", table)
    return table.assign(x=dimension, **{f"y{end}": 100.0 * table[f"difference{end}"] / dimension for end in _ENDS})


def _points(axes: Axes, table: pd.DataFrame, shift: float, index: int) -> None:
    known = table.dropna(subset=["y"])
    axes.errorbar(
        known["x"] * shift, known["y"], yerr=[known["y"] - known["y_low"], known["y_high"] - known["y"]],
        elinewidth=0.7, markersize=3, markeredgewidth=0.2, markeredgecolor="white", zorder=3, color=color_of(index),
        marker=marker_of(index), linestyle="",
    )  # fmt: skip


def make(
    trials: pd.DataFrame, context: Context, *, reference: str = "min_nuclear_norm", tolerance: float | None = None
) -> Drawn:
    """The figure, the means and the pairs."""
    means, pairs, series = _tables(trials, reference, tolerance)
    by: Sequence[str] = [*series, *SHAPE]
    tables, table = {"first success N": shown(means)}, means
    if pairs is not None:
        tables[f"N minus that of {reference}, same replicates"] = shown(pairs)
        table = means.merge(pairs.drop(columns="standard_error"), on=by, how="left")
    settings = {"tolerance": resolve_tolerance(trials, tolerance), "level": 0.95, "by": by, "reference": reference}
    figure = first_success(trials, reference=reference, tolerance=tolerance)
    remarks = agreement_lines(means, series)
    return Drawn({"first_success": figure}, tables, settings, remarks, files={"first_success": table})
