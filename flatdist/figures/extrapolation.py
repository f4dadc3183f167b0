"""Label-noise SGD at small learning rates: against the flow it follows (Li, Wang, Arora 2021), and its final trace.

``flow_limit`` draws on the left the trace of the Hessian over flow time, means over replicates: runs at several
learning rates and the flow itself, from the same problems and the same start, with no free parameter. On the right the
mean difference over the later part of the path at each learning rate, and its extrapolation to learning rate 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels, describe, keys_of
from flatdist.figures.style import INK, PALE, color_of, marker_of
from flatdist.figures.words import shown
from flatdist.fits.extrapolation import DEGREES, START, differences, gaps, paths, series_of, to_zero
from flatdist.fits.grouping import group_rows, matching

COLUMNS = ("cell_id", "replicate", "step", "flow_time", "hessian_trace")
"""Columns of the history that ``flow_limit`` needs."""
_QUARTILES = (0.25, 0.5, 0.75)


def flow_limit(trials: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Draw the paths, and the differences with their extrapolations.

    Args:
        trials: runs of ``label_noise_sgd`` at several learning rates, and ``flow_limit`` trials of the same problem.
        history: with :data:`COLUMNS`.

    Raises:
        FitError: there are no runs or no flow, several problems or initializations, or too few learning rates.

    Example:
        >>> import flatdist
        >>> base = {"d_out": 4, "d_in": 4, "rank": 1, "n": 8, "depth": 2, "evaluations": 8}
        >>> sgd = {"method": "label_noise_sgd", "schedule": "constant"}
        >>> cells = [flatdist.Cell(**base, **sgd, learning_rate=rate, steps=steps)
        ...          for rate, steps in ((0.08, 100), (0.04, 400), (0.02, 1600))]  # the same flow time
        >>> cells.append(flatdist.Cell(**base, method="flow_limit", flow_duration=0.0064))
        >>> trials, history = map(pd.concat, zip(*(flatdist.run_cell(cell, range(2)) for cell in cells)))
        >>> [axes.get_xlabel() for axes in flow_limit(trials, history).axes]
        ['flow time', 'learning rate; bars: two standard errors']
    """
    path = paths(trials, history)
    table = differences(path)
    path = path[path["flow_time"] > 0]
    path = path.assign(flow_time=path["flow_time"].round(9))  # rounding errors of the sums differ between replicates
    means = path.groupby(["learning_rate", "flow_time"])[["hessian_trace", "flow"]].mean()
    with Panels([{}, {}], row_height=2.6, rest=0.0, columns=2) as panels:
        left, right = panels.flat
        rates = np.unique(path["learning_rate"])
        for index, rate in enumerate(rates):
            mean: Any = means.loc[rate, "hessian_trace"]
            left.plot(mean.index, mean, color=color_of(index), linewidth=0.8, label=f"rate {rate:.3g}")
        flow: Any = means.loc[rates[0], "flow"]
        left.plot(flow.index, flow, color="#000000", linewidth=1.4, label="flow")
        left.set(xlabel="flow time", ylabel="tr Hess $L$, mean over replicates")
        grouped = table.groupby("learning_rate")["relative"]
        mean, bars = grouped.mean(), 2.0 * grouped.sem().to_numpy(dtype=float)
        right.errorbar(mean.index, mean, bars, fmt=marker_of(0), color=color_of(0), capsize=2)
        grid = np.linspace(0.0, float(mean.index.max()), 50)
        for style, limit in zip(("-", "--"), (to_zero(table, "relative", degree) for degree in DEGREES), strict=True):
            right.plot(grid, np.polyval(limit.coefficients, grid), style, color=INK, linewidth=0.8)
            right.errorbar(
                [0.0], [limit.value], [2 * limit.error], fmt=marker_of(limit.degree), color=INK, capsize=2,
                label=f"degree {limit.degree}: {limit}",
            )  # fmt: skip
        right.axhline(0.0, color=PALE, linewidth=0.6, zorder=0)
        right.set(xlabel="learning rate; bars: two standard errors", ylabel="(SGD $-$ flow) $/$ the flow's drop")
        left.legend()
        right.legend()
    return panels.figure


def flatness_gap(trials: pd.DataFrame, *, ax: Axes | None = None) -> Any:
    """How far above the flattest trace annealed label-noise SGD ends, in percent, and where that tends at rate 0.

    Medians and quartiles over the learning rate, with linear and quadratic extrapolations.

    Args:
        trials: runs of ``label_noise_sgd`` and certified ``min_hessian_trace`` trials of the same problems and layers.
        ax: axes to draw into, which are returned; by default a figure of its own.

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
        for axes, _ in panels:
            for index, key in enumerate(keys_of(table, series_of(table))):
                group, color = matching(table, key), color_of(index)
                quartiles = group.groupby("learning_rate")["gap"].quantile(np.array(_QUARTILES)).unstack() * 100
                low, middle, high = (quartiles[share] for share in _QUARTILES)
                bars, label, marker = [middle - low, high - middle], describe(key), marker_of(index)
                axes.errorbar(middle.index, middle, bars, fmt=marker, color=color, capsize=2, label=label)
                grid = np.linspace(0.0, float(middle.index.max()), 50)
                for style, degree in zip((":", "-"), DEGREES, strict=True):
                    fitted = to_zero(group, "gap", degree)
                    axes.plot(grid, 100 * np.polyval(fitted.coefficients, grid), style, color=color, linewidth=0.8)
            axes.axhline(1.0, color=PALE, linewidth=0.8, linestyle="--", zorder=0)
            axes.axhline(0.0, color=PALE, linewidth=0.6, zorder=0)
            axes.legend()
        panels.label("learning rate; dotted: linear, solid: quadratic fit", "trace above the flattest (%)")
    return panels.result


def make_flow_limit(trials: pd.DataFrame, context: Context) -> Drawn:
    """The figure, and the differences at each learning rate."""
    history = context.history(COLUMNS)
    table = differences(paths(trials, history))
    drop = f"{table['drop'].mean():.4g}, mean of {table['replicate'].nunique()} replicates"
    remarks = [f"flow: the trace falls by {drop}"]
    for row in table.groupby("learning_rate")["relative"].agg(["mean", "sem"]).itertuples():
        text = f"{row.mean:+.4f} +- {row.sem:.4f} of that fall"
        remarks.append(f"learning rate {row.Index:.4g}: SGD - flow = {text}")
    for degree in DEGREES:
        limit = to_zero(table, "relative", degree)
        remarks.append(f"learning rate 0, degree {degree}: {limit.value:+.4f} +- {limit.error:.4f} of that fall")
    return Drawn({"flow_limit": flow_limit(trials, history)}, {}, {"start": START, "degrees": list(DEGREES)}, remarks)


def make_flatness_gap(trials: pd.DataFrame, context: Context) -> Drawn:
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
