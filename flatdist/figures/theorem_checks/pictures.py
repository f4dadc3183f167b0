"""The figures of the checks: bounds with their slack, equalities with their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flatdist.figures.style import COLUMN_WIDTH, color_of, marker_of, themed
from flatdist.figures.theorem_checks.check import VERDICTS

REFERENCE = "#222222"
_COLORS: Mapping[str, str] = dict(zip(VERDICTS, ("#0072B2", "#E69F00", "#999999", "#D55E00"), strict=True))
_MARKERS: Mapping[str, str] = dict(zip(VERDICTS, ("o", "D", "v", "X"), strict=True))
_SMALLEST = 1e-17  # where an error of exactly zero is drawn on a logarithmic axis


def panel(height: float = 2.5) -> tuple[Figure, Axes]:
    """One panel of a column's width."""
    with themed():
        figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        sns.despine(ax=axes)
    return figure, axes


def bound_figure(
    instances: pd.DataFrame, bounds: Mapping[str, Callable[[float], float]], x_label: str, y_label: str
) -> Figure:
    """Measured values over the isometry constant, with the bound as a line; a bar ends at the constant's upper bound.

    Args:
        instances: with ``lower``, ``upper``, ``measured`` and ``verdict``.
        bounds: label -> the bound as a function of delta.
        x_label: names the isometry constant.
        y_label: names the measured value.
    """
    figure, axes = panel()
    with themed():
        known = instances["upper"] < 1.0
        axes.hlines(
            instances["measured"][known],
            instances["lower"][known],
            instances["upper"][known],
            color="#bbbbbb",
            linewidth=0.5,
        )
        for verdict, group in instances.groupby("verdict"):
            name = str(verdict)
            axes.plot(
                group["lower"], group["measured"], _MARKERS[name], color=_COLORS[name], markersize=2.6, label=name
            )
        reach = min(0.98, float(instances["upper"].max()))
        grid = np.linspace(min(0.02, reach / 2), reach, 200)
        for style, (label, bound) in zip(("-", "--", ":"), bounds.items(), strict=False):
            values = np.array([bound(delta) for delta in grid])
            axes.plot(grid, values, style, color=REFERENCE, linewidth=0.9, label=label)
        axes.axvspan(1.0, max(1.05, 1.05 * float(instances["lower"].max())), color="#eeeeee", linewidth=0, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend()
    return figure


def error_figure(instances: pd.DataFrame, errors: Mapping[str, str], tolerances: Sequence[float]) -> Figure:
    """Relative errors of an equality, sorted, on a logarithmic axis, below the largest that is allowed.

    Args:
        instances: with one column for each error.
        errors: column -> label.
        tolerances: largest error allowed, for each column.
    """
    figure, axes = panel()
    with themed():
        for index, ((column, label), tolerance) in enumerate(zip(errors.items(), tolerances, strict=True)):
            values = np.sort(instances[column].dropna().abs().to_numpy(dtype=float))
            share = (np.arange(len(values)) + 0.5) / max(len(values), 1)
            color = color_of(index)
            axes.plot(np.maximum(values, _SMALLEST), share, marker_of(index), color=color, markersize=2.4, label=label)
            axes.axvline(tolerance, color=color, linestyle="--", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlabel("relative error; dashed: the largest allowed")
        axes.set_ylabel("share of instances")
        axes.legend()
    return figure
