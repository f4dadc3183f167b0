"""Every statement of the paper against its measurements: bounds with their slack, equalities with their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels
from flatdist.figures.style import INK, color_of, despine, marker_of
from flatdist.fits.theorem_checks import (
    CLOSED_FORM,
    EXACT,
    LEMMA_2,
    LEMMA_4,
    PRODUCT,
    SIGNIFICANCE,
    VERDICTS,
    VIOLATED,
    Check,
    problems,
    run_checks,
    verdict_table,
)
from flatdist.theory import flattest_risk_bound, nuclear_norm_ratio_bound

_COLORS = dict(zip(VERDICTS, ("#0072B2", "#E69F00", "#BBBBBB", "#999999", "#D55E00"), strict=True))
_MARKERS = dict(zip(VERDICTS, ("o", "D", "s", "v", "X"), strict=True))
_SMALLEST = 1e-17  # where an error of exactly zero is drawn on a logarithmic axis

Draw = Callable[[Axes, Check, pd.DataFrame], None]


def theorem(check: Check, trials: pd.DataFrame, *, ax: Axes | None = None) -> Any:
    """The figure of one statement.

    Args:
        check: from :func:`flatdist.fits.theorem_checks.run_checks`.
        trials: that it was made from.
        ax: axes to draw into; by default a figure of its own.

    Returns:
        The figure, or ``ax``.

    Example:
        >>> import flatdist
        >>> from flatdist.fits.theorem_checks import run_checks
        >>> cell = flatdist.Cell(d_out=4, d_in=4, rank=1, n=8, method="min_frobenius_norm")
        >>> trials, history = flatdist.run_cell(cell, replicates=range(8))
        >>> (check,), untested = run_checks(trials)
        >>> check.name, theorem(check, trials).axes[0].get_xlabel()
        ('theorem_4', 'quantile; dashed: beyond is a violation')
    """
    with Panels([{}], ax, row_height=2.5, rest=0.0) as panels:
        axes = panels.flat[0]
        _DRAWN[check.name](axes, check, trials)
        despine(axes)
        axes.legend(**({"ncols": 2, "fontsize": 5} if check.name == "theorem_4" else {}))
    return panels.result


def _bound(
    x_label: str, y_label: str, bounds: Callable[[pd.DataFrame], Mapping[str, Callable[[float], float]]]
) -> Draw:
    """Measured values over the isometry constant and the bound as a line; bars end at the constant's upper bound."""

    def draw(axes: Axes, check: Check, trials: pd.DataFrame) -> None:
        rows = check.instances
        rows = rows.assign(measured=rows["measured"].clip(lower=EXACT)) if check.name == "theorem_2" else rows
        known = rows[rows["upper"] < 1.0]
        axes.hlines(known["measured"], known["lower"], known["upper"], color="#bbbbbb", linewidth=0.5)
        for verdict, group in rows.groupby("verdict"):
            name = str(verdict)
            axes.plot(
                group["lower"], group["measured"], _MARKERS[name], color=_COLORS[name], markersize=2.6, label=name
            )
        reach = min(0.98, float(rows["upper"].max()))
        grid = np.linspace(min(0.02, reach / 2), reach, 200)
        for style, (label, bound) in zip(("-", "--", ":"), bounds(rows).items(), strict=False):
            axes.plot(grid, [bound(delta) for delta in grid], style, color=INK, linewidth=0.9, label=label)
        axes.axvspan(1.0, max(1.05, 1.05 * float(rows["lower"].max())), color="#eeeeee", linewidth=0, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return draw


def _errors(columns: Mapping[str, str], tolerances: Sequence[float]) -> Draw:
    def draw(axes: Axes, check: Check, trials: pd.DataFrame) -> None:
        for index, ((column, label), tolerance) in enumerate(zip(columns.items(), tolerances, strict=True)):
            values = np.sort(check.instances[column].dropna().abs().to_numpy(dtype=float))
            share = (np.arange(len(values)) + 0.5) / max(len(values), 1)
            color = color_of(index)
            axes.plot(np.maximum(values, _SMALLEST), share, marker_of(index), color=color, markersize=2.4, label=label)
            axes.axvline(tolerance, color=color, linestyle="--", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlabel("relative error; dashed: the largest allowed")
        axes.set_ylabel("share of instances")

    return draw


def _identity(rows: pd.DataFrame) -> Mapping[str, Callable[[float], float]]:
    return {"the bound": float}


def _ratio_bounds(rows: pd.DataFrame) -> Mapping[str, Callable[[float], float]]:
    def at(depth: int) -> Callable[[float], float]:
        return lambda delta: nuclear_norm_ratio_bound(delta, depth)

    return {f"the bound, depth {depth}": at(depth) for depth in sorted(set(rows["depth"].astype(int)))}


def _constants(axes: Axes, check: Check, trials: pd.DataFrame) -> None:
    for index, (size, group) in enumerate(check.instances.groupby("size")):
        measured = np.maximum(group["measured"].to_numpy(dtype=float), EXACT)
        label = f"$d + d' = {size:g}$"
        axes.plot(group["n"], measured, marker_of(index), color=color_of(index), markersize=2.6, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("number of measurements $n$")
    axes.set_ylabel("$C$ needed; bottom: exact recovery")


def _law(axes: Axes, check: Check, trials: pd.DataFrame) -> None:
    from scipy.stats import kstwo

    table = check.instances
    for index, row in enumerate(table.to_dict("records")):
        uniform = (np.arange(len(row["ranks"])) + 0.5) / len(row["ranks"])
        label = f"{row['d_out']} x {row['d_in']}, n = {row['n']}"
        axes.plot(uniform, row["ranks"] - uniform, color=color_of(index), linewidth=0.7, label=label)
    limit = kstwo.ppf(1.0 - SIGNIFICANCE / (2 * len(table)), int(table["replicates"].min()))
    for side in (-limit, limit):
        axes.axhline(side, color=INK, linestyle="--", linewidth=0.8)
    axes.set_xlabel("quantile; dashed: beyond is a violation")
    axes.set_ylabel("Beta law at the error $-$ quantile")
    axes.set_ylim(-1.3 * limit, 2.4 * limit)


def _isometry(axes: Axes, check: Check, trials: pd.DataFrame) -> None:
    rows = problems(trials)
    for index, rank in enumerate((1, 2)):
        load, color = rank * (rows["d_out"] + rows["d_in"]) / rows["n"], color_of(index)
        for side, word, filling in (("lower", "below", color), ("upper", "above", "none")):
            axes.plot(
                1.0 / load, rows[f"delta_{rank}_{side}"], marker_of(index), color=color, markersize=2.4,
                markerfacecolor=filling, markeredgewidth=0.5, label=f"$\\delta_{rank}$ from {word}",
            )  # fmt: skip
    grid = np.geomspace(float(rows["n"].min()) / 60, float(rows["n"].max()) / 5, 50)
    axes.plot(grid, 2.0 / np.sqrt(grid), color=INK, linewidth=0.8, label="exponent $-1/2$")
    axes.axhline(1.0, color="#bbbbbb", linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("$n \\,/\\, r(d + d')$")
    axes.set_ylabel("isometry constant $\\delta_r$")


_CLOSED = _errors(
    {
        "optimised": "optimised along geodesics",
        "minimiser": "trace at the explicit minimiser",
        "closed_product": "its product",
    },
    (CLOSED_FORM,) * 3,
)
_DRAWN: Mapping[str, Draw] = {
    "lemma_2": _errors({"lemma2_on": "interpolating layers", "lemma2_off": "other layers"}, (LEMMA_2, LEMMA_2)),
    "lemma_3": _bound(
        "$\\delta_1$: lower bound, bar to upper", "largest $|\\mathrm{tr\\,Hess}\\,L\\,/\\,2R - 1|$", _identity
    ),
    "lemma_4": _errors(
        {"lemma4_excess": "R at balanced layers", "lemma4_product": "their product"}, (LEMMA_4, PRODUCT)
    ),
    "lemma_5": _bound("$\\delta_2$: lower bound, bar to upper", "largest left side $/\\,\\|X\\|_*^2$", _identity),
    "theorem_1_regularizer": _bound("$\\delta_1$: lower bound, bar to upper", "$|F(M^*)/G(M^*) - 1|$", _identity),
    "theorem_1_nuclear_norm": _bound(
        "$\\delta_1$: lower bound; grey: vacuous", "$\\|\\hat M\\|_* \\,/\\, \\min \\|M\\|_*$", _ratio_bounds
    ),
    "theorem_2": _bound(
        "$\\delta_2$: lower bound; grey: vacuous", "$\\|\\hat M - M^*\\|_F^2 \\,/\\, \\|M^*\\|_*^2$",
        lambda rows: {"the bound, depth 2": lambda delta: flattest_risk_bound(delta, 1.0)},
    ),
    "theorem_3": _constants,
    "theorem_4": _law,
    "corollary_1": _isometry,
    "theorem_5": _CLOSED,
    "theorem_7": _CLOSED,
}  # fmt: skip


def make(trials: pd.DataFrame, context: Context) -> Drawn:
    """A figure for each statement that the trials test, and the verdicts."""
    checks, missing = run_checks(trials)
    if not checks:
        raise FitError("these trials test no statement of the paper; the sweeps in sweeps/theorems do")
    remarks = []
    for check in checks:
        row = check.row()
        counts = ", ".join(f"{row[name]} {name}" for name in VERDICTS if row[name])
        remarks += [
            f"{check.statement}: {check.verdict}  ({row['instances']} instances: {counts})",
            f"    predicted  {check.predicted}",
            f"    measured   {check.measured}",
            f"    worst      {check.worst}",
        ]
    remarks += [f"{name}: no trials test it" for name in missing]
    figures = {check.name: theorem(check, trials) for check in checks}
    files = {"theorems": verdict_table(checks)}
    violated = any(check.verdict == VIOLATED for check in checks)
    return Drawn(figures, {}, {"statements": [check.statement for check in checks]}, remarks, files, violated)
