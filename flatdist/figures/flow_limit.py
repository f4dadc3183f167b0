"""Label-noise SGD against the flow that it follows as the learning rate tends to 0 (Li, Wang, Arora 2021).

``python -m analysis.flow_limit SWEEP [--store S] [--out DIR]``

On the left the trace of the Hessian over flow time, means over replicates: runs at several learning rates and the flow
itself, from the same problems and the same start, with no free parameter. On the right the mean difference over the
later part of the path at each learning rate, and its extrapolation to learning rate 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.style import PAGE_WIDTH, color_of, marker_of, save_figure, themed
from flatdist.fits.extrapolation import (
    START,
    Limit,
    differences,
    paths,
    to_zero,
)

DEGREES = (1, 2)
# A run and a flow that agree in these follow the same path: the problem and the layers that both start from.


def flow_figure(path: pd.DataFrame, table: pd.DataFrame, limits: Sequence[Limit]) -> Figure:
    """Draw the paths, and the differences with their extrapolations."""
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
        mean, error = grouped.mean(), grouped.sem()
        right.errorbar(mean.index, mean, yerror(error), fmt=marker_of(0), color=color_of(0), capsize=2)
        grid = np.linspace(0.0, float(mean.index.max()), 50)
        for style, limit in zip(("-", "--"), limits, strict=False):
            right.plot(grid, np.polyval(limit.coefficients, grid), style, color="#222222", linewidth=0.8)
            right.errorbar(
                [0.0], [limit.value], [2 * limit.error], fmt=marker_of(limit.degree), color="#222222", capsize=2,
                label=f"degree {limit.degree}: {limit}",
            )  # fmt: skip
        right.axhline(0.0, color="#bbbbbb", linewidth=0.6, zorder=0)
        right.set_xlabel("learning rate; bars: two standard errors")
        right.set_ylabel("(SGD $-$ flow) $/$ the flow's drop")
        right.legend()
        sns.despine(figure)
    return figure


def _clock(path: pd.DataFrame) -> pd.Series:
    """Flow times without the rounding errors of their sums, which differ between replicates."""
    return path["flow_time"].round(9)


def yerror(error: pd.Series) -> np.ndarray:
    """Two standard errors, as bars."""
    return 2.0 * error.to_numpy(dtype=float)


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Draw and save; returns the lines to print."""
    import flatdist

    columns = ["cell_id", "replicate", "step", "flow_time", "hessian_trace"]
    path = paths(trials, flatdist.load_history(request.store, request.sweep, columns=columns))
    table = differences(path)
    limits = [to_zero(table, "relative", degree) for degree in DEGREES]
    lines = [f"flow: the trace falls by {table['drop'].mean():.4g}, mean of {table['replicate'].nunique()} replicates"]
    for _, group in table.groupby("learning_rate"):
        rate = float(group["learning_rate"].mean())
        values = group["relative"].to_numpy(dtype=float)
        mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
        lines.append(f"learning rate {rate:.4g}: SGD - flow = {mean:+.4f} +- {error:.4f} of that fall")
    lines += [
        f"learning rate 0, degree {limit.degree}: {limit.value:+.4f} +- {limit.error:.4f} of that fall"
        for limit in limits
    ]
    figure = flow_figure(path, table, limits)
    origin = request.origin(trials, {"start": START, "degrees": list(DEGREES)})
    return [*lines, *path_lines(save_figure(figure, request.out, "flow_limit", origin))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("flow_limit", "Label-noise SGD against its limit at small learning rates.", draw, arguments)
