"""How far above the flattest trace annealed label-noise SGD ends, and where that tends at learning rate 0.

``python -m analysis.flatness_gap SWEEP [--store S] [--out DIR]``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.command import Request, path_lines, run_command
from analysis.extrapolation import Limit, to_zero
from analysis.style import COLUMN_WIDTH, color_of, marker_of, save_figure, themed
from flatdist.cell import PROBLEM_FIELDS
from flatdist.errors import FitError

DEGREES = (1, 2)


def gaps(trials: pd.DataFrame) -> pd.DataFrame:
    """Relative excess of each run's final trace over the flattest interpolator's, paired by problem and depth.

    Returns:
        ``depth``, ``learning_rate``, ``steps``, ``replicate``, ``gap``. Diverged runs and uncertified solutions have
        none.

    Raises:
        FitError: no pair.
    """
    key = [*PROBLEM_FIELDS, "depth", "replicate"]
    flattest = trials[(trials["method"] == "min_hessian_trace") & (trials["status"] == "converged")]
    least = flattest[[*key, "hessian_trace"]].rename(columns={"hessian_trace": "least"})
    runs = trials[(trials["method"] == "label_noise_sgd") & (trials["status"] != "diverged")]
    rows = runs.merge(least, on=key)
    if rows.empty:
        raise FitError(
            "no run of label_noise_sgd has a certified min_hessian_trace trial of the same problem and depth; see "
            "sweeps/theorems/flatness_gap.yaml"
        )
    rows = rows.assign(gap=rows["hessian_trace"] / rows["least"] - 1.0, learning_rate=rows["learning_rate_final"])
    return rows[["depth", "learning_rate", "steps", "replicate", "gap"]].astype({"depth": int})


def gap_figure(table: pd.DataFrame, limits: Mapping[int, Sequence[Limit]]) -> Figure:
    """Draw the median gap and its quartiles over the learning rate, with the extrapolations."""
    with themed():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.7), layout="constrained")
        axes = figure.subplots()
        for index, (depth, group) in enumerate(table.groupby("depth")):
            quartiles = group.groupby("learning_rate")["gap"].quantile(np.array([0.25, 0.5, 0.75])).unstack() * 100
            middle = quartiles[0.5]
            bars = np.array([middle - quartiles[0.25], quartiles[0.75] - middle])
            color = color_of(index)
            axes.errorbar(
                middle.index, middle, bars, fmt=marker_of(index), color=color, capsize=2, label=f"depth {depth}"
            )
            grid = np.linspace(0.0, float(middle.index.max()), 50)
            for style, limit in zip((":", "-"), limits[int(str(depth))], strict=True):
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
    lines, limits = [], {}
    for depth, group in table.groupby("depth"):
        limits[int(str(depth))] = fitted = [to_zero(group, "gap", degree) for degree in DEGREES]
        for rate, runs in group.groupby("learning_rate"):
            low, middle, high = np.quantile(runs["gap"], (0.25, 0.5, 0.75)) * 100
            steps = int(runs["steps"].iloc[0])
            lines.append(
                f"depth {depth}, learning rate {rate:.4g}, {steps} steps: median {middle:.3f} % above the flattest "
                f"(quartiles {low:.3f} .. {high:.3f}, {len(runs)} replicates)"
            )
        lines += [
            f"depth {depth}, learning rate 0, degree {limit.degree}: {100 * limit.value:.3f} +- "
            f"{100 * limit.error:.3f} %"
            for limit in fitted
        ]
    figure = gap_figure(table, limits)
    origin = request.origin(trials, {"bars": "quartiles over replicates", "degrees": list(DEGREES)})
    return [*lines, *path_lines(save_figure(figure, request.out, "flatness_gap", origin))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("flatness_gap", "Annealed label-noise SGD above the flattest interpolator.", draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
