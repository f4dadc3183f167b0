"""Every statement of the paper against its measurements: bounds with their slack, equalities with their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels
from flatdist.figures.style import INK, PALE, color_of, log_axes, marker_of
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

_LOOKS = dict(
    zip(VERDICTS, zip("oDsvX", ("#0072B2", "#E69F00", "#BBBBBB", "#999999", "#D55E00"), strict=True), strict=True)
)  # marker and colour
_SMALLEST = 1e-17  # where an error of exactly zero is drawn on a logarithmic axis
_DELTA_1, _DELTA_2 = (f"$\\delta_{rank}$: lower bound, bar to upper" for rank in (1, 2))
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "lemma_3": (_DELTA_1, "largest $|\\mathrm{tr\\,Hess}\\,L\\,/\\,2R - 1|$"),
    "lemma_5": (_DELTA_2, "largest left side $/\\,\\|X\\|_*^2$"),
    "theorem_1_regularizer": (_DELTA_1, "$|F(M^*)/G(M^*) - 1|$"),
    "theorem_1_nuclear_norm": (
        "$\\delta_1$: lower bound; grey: vacuous", "$\\|\\hat M\\|_* \\,/\\, \\min \\|M\\|_*$"
    ),
    "theorem_2": (
        "$\\delta_2$: lower bound; grey: vacuous", "$\\|\\hat M - M^*\\|_F^2 \\,/\\, \\|M^*\\|_*^2$"
    ),
}  # fmt: skip
"""Statements that bound a value by the isometry constant -> labels of the axes."""
_CLOSED = {
    "optimised": ("optimised along geodesics", CLOSED_FORM),
    "minimiser": ("trace at the explicit minimiser", CLOSED_FORM),
    "closed_product": ("its product", CLOSED_FORM),
}
_ERRORS: Mapping[str, Mapping[str, tuple[str, float]]] = {
    "lemma_2": {"lemma2_on": ("interpolating layers", LEMMA_2), "lemma2_off": ("other layers", LEMMA_2)},
    "lemma_4": {"lemma4_excess": ("R at balanced layers", LEMMA_4), "lemma4_product": ("their product", PRODUCT)},
    "theorem_5": _CLOSED,
    "theorem_7": _CLOSED,
}
"""Statements of equality -> columns of relative errors, what they are of, and the largest allowed."""


def theorem(check: Check, trials: pd.DataFrame, *, ax: Axes | None = None) -> Any:
    """The figure of one statement.

    Args:
        check: from :func:`flatdist.fits.theorem_checks.run_checks`.
        trials: that it was made from.
        ax: axes to draw into, which are returned; by default a figure of its own.

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
        for axes, _ in panels:
            if check.name in _BOUNDS:
                _bound(axes, check.name, check.instances)
                axes.set(xlabel=_BOUNDS[check.name][0], ylabel=_BOUNDS[check.name][1])
            elif check.name in _ERRORS:
                _errors(axes, check.instances, _ERRORS[check.name])
            elif check.name == "theorem_3":
                _constants(axes, check.instances)
            elif check.name == "theorem_4":
                _law(axes, check.instances)
            else:
                _isometry(axes, problems(trials))
            axes.legend(**({"ncols": 2, "fontsize": 5} if check.name == "theorem_4" else {}))
    return panels.result


def _bound(axes: Axes, name: str, rows: pd.DataFrame) -> None:
    """Measured values over the isometry constant and the bound as a line; bars end at the constant's upper bound."""
    rows = rows.assign(measured=rows["measured"].clip(lower=EXACT)) if name == "theorem_2" else rows
    bounds: dict[str, Callable[[float], float]] = {"the bound": float}
    if name == "theorem_1_nuclear_norm":
        depths = sorted(set(rows["depth"].astype(int)))
        bounds = {f"the bound, depth {depth}": partial(nuclear_norm_ratio_bound, depth=depth) for depth in depths}
    elif name == "theorem_2":
        bounds = {"the bound, depth 2": partial(flattest_risk_bound, nuclear_norm=1.0)}
    known = rows[rows["upper"] < 1.0]
    axes.hlines(known["measured"], known["lower"], known["upper"], color=PALE, linewidth=0.5)
    for verdict, group in rows.groupby("verdict"):
        marker, color = _LOOKS[str(verdict)]
        axes.plot(group["lower"], group["measured"], marker, color=color, markersize=2.6, label=str(verdict))
    reach = min(0.98, float(rows["upper"].max()))
    grid = np.linspace(min(0.02, reach / 2), reach, 200)
    for style, (label, bound) in zip(("-", "--", ":"), bounds.items(), strict=False):
        axes.plot(grid, [bound(delta) for delta in grid], style, color=INK, linewidth=0.9, label=label)
    axes.axvspan(1.0, max(1.05, 1.05 * float(rows["lower"].max())), color="#eeeeee", linewidth=0, zorder=0)
    log_axes(axes)


def _errors(axes: Axes, rows: pd.DataFrame, columns: Mapping[str, tuple[str, float]]) -> None:
    for index, (column, (label, tolerance)) in enumerate(columns.items()):
        values = np.sort(rows[column].dropna().abs().to_numpy(dtype=float))
        share = (np.arange(len(values)) + 0.5) / max(len(values), 1)
        color = color_of(index)
        axes.plot(np.maximum(values, _SMALLEST), share, marker_of(index), color=color, markersize=2.4, label=label)
        axes.axvline(tolerance, color=color, linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.set(xlabel="relative error; dashed: the largest allowed", ylabel="share of instances")


def _constants(axes: Axes, rows: pd.DataFrame) -> None:
    for index, (size, group) in enumerate(rows.groupby("size")):
        measured = np.maximum(group["measured"].to_numpy(dtype=float), EXACT)
        label = f"$d + d' = {size:g}$"
        axes.plot(group["n"], measured, marker_of(index), color=color_of(index), markersize=2.6, label=label)
    axes.set_yscale("log")
    axes.set(xlabel="number of measurements $n$", ylabel="$C$ needed; bottom: exact recovery")


def _law(axes: Axes, rows: pd.DataFrame) -> None:
    from scipy.stats import kstwo

    for index, row in enumerate(rows.to_dict("records")):
        uniform = (np.arange(len(row["ranks"])) + 0.5) / len(row["ranks"])
        label = f"{row['d_out']} x {row['d_in']}, n = {row['n']}"
        axes.plot(uniform, row["ranks"] - uniform, color=color_of(index), linewidth=0.7, label=label)
    limit = kstwo.ppf(1.0 - SIGNIFICANCE / (2 * len(rows)), int(rows["replicates"].min()))
    for side in (-limit, limit):
        axes.axhline(side, color=INK, linestyle="--", linewidth=0.8)
    axes.set(xlabel="quantile; dashed: beyond is a violation", ylabel="Beta law at the error $-$ quantile")
    axes.set_ylim(-1.3 * limit, 2.4 * limit)


def _isometry(axes: Axes, rows: pd.DataFrame) -> None:
    for index, rank in enumerate((1, 2)):
        load, color = rank * (rows["d_out"] + rows["d_in"]) / rows["n"], color_of(index)
        for side, word, filling in (("lower", "below", color), ("upper", "above", "none")):
            axes.plot(
                1.0 / load, rows[f"delta_{rank}_{side}"], marker_of(index), color=color, markersize=2.4,
                markerfacecolor=filling, markeredgewidth=0.5, label=f"$\\delta_{rank}$ from {word}",
            )  # fmt: skip
    grid = np.geomspace(float(rows["n"].min()) / 60, float(rows["n"].max()) / 5, 50)
    axes.plot(grid, 2.0 / np.sqrt(grid), color=INK, linewidth=0.8, label="exponent $-1/2$")
    axes.axhline(1.0, color=PALE, linewidth=0.6, zorder=0)
    log_axes(axes)
    axes.set(xlabel="$n \\,/\\, r(d + d')$", ylabel="isometry constant $\\delta_r$")


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
