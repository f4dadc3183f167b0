"""Label-noise SGD against the flow that it follows as the learning rate tends to 0 (Li, Wang, Arora 2021).

On the left the trace of the Hessian over flow time, means over replicates: runs at several learning rates and the flow
itself, from the same problems and the same start, with no free parameter. On the right the mean difference over the
later part of the path at each learning rate, and its extrapolation to learning rate 0.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flatdist.figures.command import Context, Drawn
from flatdist.figures.style import INK, PAGE_WIDTH, color_of, despine, marker_of, themed
from flatdist.fits.extrapolation import DEGREES, START, differences, paths, to_zero

COLUMNS = ("cell_id", "replicate", "step", "flow_time", "hessian_trace")
"""Columns of the history that the figure needs."""


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
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 2.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        shown = path[path["flow_time"] > 0]
        finest = shown[shown["learning_rate"] == shown["learning_rate"].min()]
        flow = finest.groupby(_clock(finest))["flow"].mean()
        for index, (rate, group) in enumerate(shown.groupby("learning_rate")):
            mean = group.groupby(_clock(group))["hessian_trace"].mean()
            left.plot(mean.index, mean, color=color_of(index), linewidth=0.8, label=f"rate {rate:.3g}")
        left.plot(flow.index, flow, color="#000000", linewidth=1.4, label="flow")
        left.set_xlabel("flow time")
        left.set_ylabel("tr Hess $L$, mean over replicates")
        left.legend()
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
        right.axhline(0.0, color="#bbbbbb", linewidth=0.6, zorder=0)
        right.set_xlabel("learning rate; bars: two standard errors")
        right.set_ylabel("(SGD $-$ flow) $/$ the flow's drop")
        right.legend()
        despine(left, right)
    return figure


def _clock(path: pd.DataFrame) -> pd.Series:
    """Flow times without the rounding errors of their sums, which differ between replicates."""
    return path["flow_time"].round(9)


def make(trials: pd.DataFrame, context: Context) -> Drawn:
    """The figure, and the differences at each learning rate."""
    history = context.history(COLUMNS)
    table = differences(paths(trials, history))
    drop = f"{table['drop'].mean():.4g}, mean of {table['replicate'].nunique()} replicates"
    remarks = [f"flow: the trace falls by {drop}"]
    for _, group in table.groupby("learning_rate"):
        values = group["relative"].to_numpy(dtype=float)
        mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
        rate = float(group["learning_rate"].mean())
        remarks.append(f"learning rate {rate:.4g}: SGD - flow = {mean:+.4f} +- {error:.4f} of that fall")
    for degree in DEGREES:
        limit = to_zero(table, "relative", degree)
        remarks.append(f"learning rate 0, degree {degree}: {limit.value:+.4f} +- {limit.error:.4f} of that fall")
    return Drawn({"flow_limit": flow_limit(trials, history)}, {}, {"start": START, "degrees": list(DEGREES)}, remarks)
