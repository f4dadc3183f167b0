"""Losses, nuclear norm and flatness along the training: the paper's Figures 1 and 2.

Each line is the median over replicates, each band the interquartile range. Horizontal lines show where theory says the
flattest solution lies: the minimum nuclear norm, from the sweep's ``min_nuclear_norm`` trials, and Lemma 4's value of
the Hessian's trace at that norm, 2 L (d_in d_out)^(1/L) ||M||_*^(2(L-1)/L); where the sweep has ``min_hessian_trace``
trials, the trace they reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.cells.cell import FIELDS, PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Key, describe, keys_of, legend_above
from flatdist.figures.style import FAINT, INK, PAGE_WIDTH, color_of, despine, plain_ticks, themed
from flatdist.fits.grouping import configuration_columns, matching
from flatdist.methods import takes_steps
from flatdist.theory import flattest_trace

MEASURES: Mapping[str, str] = {
    "train_loss": "train loss",
    "population_loss": "test loss",
    "nuclear_norm": "nuclear norm",
    "hessian_trace": "tr Hess $L$",
}
_QUARTILES = (0.25, 0.5, 0.75)
COLUMNS = ("cell_id", "replicate", "step", *MEASURES, "train_loss_max")
"""Columns of the history that the figure needs."""


def training_curves(trials: pd.DataFrame, history: pd.DataFrame) -> Figure:
    """Medians and quartiles over the steps: one row per measure, one column per depth, one colour per method.

    Args:
        trials: rows of one problem, from :func:`flatdist.load_trials`.
        history: with :data:`COLUMNS`, from :func:`flatdist.load_history`.

    Raises:
        FitError: no trial trains step by step, the trials hold several problems, or there is no history.

    Example:
        >>> import pandas as pd
        >>> from flatdist import figures
        >>> trials = figures.example_trials().query("n == 32 and method == 'label_noise_sgd'").assign(depth=3)
        >>> values = dict.fromkeys(figures.CURVE_COLUMNS[3:], [1.0, 0.5, 0.1])
        >>> steps = pd.DataFrame({"step": [1, 10, 100], **values})
        >>> history = trials[["cell_id", "replicate"]].merge(steps, how="cross")
        >>> [axes.get_ylabel() for axes in figures.training_curves(trials, history).axes]
        ['train loss', 'test loss', 'nuclear norm', 'tr Hess $L$']
    """
    trained = trained_trials(trials)
    series = series_columns(trained)
    # From the trials: the history's own learning rate and label noise are those of each step.
    rows = history.merge(trained[["cell_id", "replicate", "depth", *series]], on=["cell_id", "replicate"])
    curves = quartiles(rows, ["depth", *series])
    if curves.empty:
        raise FitError("the store has no history of these trials, or all of them diverged")
    levels = reference_levels(trials)
    depths, keys = keys_of(curves, ["depth"]), keys_of(curves, series)
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 1.35 * len(MEASURES) + 0.7), layout="constrained")
        grid = figure.subplots(len(MEASURES), len(depths), squeeze=False, sharex="col")
        for column, depth in zip(grid.T, depths, strict=True):
            at_depth = matching(curves, depth)
            for axes, (measure, label) in zip(column, MEASURES.items(), strict=True):
                _panel(axes, matching(at_depth, {"measure": measure}), keys)
                if measure == "train_loss":
                    _spikes(axes, matching(at_depth, {"measure": "train_loss_max"}), keys)
                if len(levels):
                    _references(axes, levels[(levels["depth"] == depth["depth"]) & (levels["measure"] == measure)])
                _plain_where_short(axes)
                if column is grid.T[0] or axes in grid[:, 0]:
                    axes.set_ylabel(label)
            column[0].set_title(describe(depth), loc="left")
            column[-1].set_xlabel("step")
        legend_above(figure, _handles(keys, levels))
    return figure


def trained_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that have curves.

    Raises:
        FitError: there are none, or the trials are of more than one problem.
    """
    trained = trials[trials["method"].map(takes_steps)]
    if trained.empty:
        raise FitError("there are no trials of a method that trains step by step, so there is nothing to draw")
    problems = [name for name in PROBLEM_FIELDS if name in trials and trials[name].nunique(dropna=False) > 1]
    if problems:
        values = {name: trained[name].astype(object).iloc[0] for name in problems}
        example = " and ".join(f"{name} == {value!r}" for name, value in values.items())
        raise FitError(
            f"these trials differ in {', '.join(problems)}; training curves show one problem: choose it with "
            f"--where, such as --where {example!r}"
        )
    return trained


def quartiles(history: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Quartiles over replicates at each step.

    Args:
        history: rows of the ``history`` table with the columns of ``by``.
        by: columns that make a curve.

    Returns:
        One row per group, measure and step: columns of ``by``, ``measure``, ``step``, ``low``, ``median``, ``high`` and
        ``replicates`` (those that have a value there; diverged replicates have none after they diverged).
    """
    rows = []
    for key in keys_of(history, by):
        group = matching(history, key)
        for measure in (*MEASURES, "train_loss_max"):
            values = group.dropna(subset=[measure]).groupby("step")[measure]
            table = values.quantile(np.array(_QUARTILES)).unstack()
            if table.empty:
                continue
            table.columns = pd.Index(["low", "median", "high"])
            repeated = {name: [value] * len(table) for name, value in key.items()}
            rows.append(table.assign(replicates=values.count(), measure=measure, **repeated))
    return pd.concat(rows).reset_index() if rows else pd.DataFrame()


def reference_levels(trials: pd.DataFrame) -> pd.DataFrame:
    """Horizontal lines: ``depth``, ``measure``, ``level``, ``label``, ``line`` and ``problems`` (how many)."""
    depths = sorted(trials.loc[trials["method"].map(takes_steps), "depth"].dropna().astype(int).unique())
    smallest = trials[trials["method"] == "min_nuclear_norm"]
    rows: list[dict[str, Any]] = []
    for depth in depths:
        if len(smallest):
            norms = smallest["nuclear_norm"].to_numpy(dtype=float)
            problems = zip(norms.tolist(), smallest["d_out"], smallest["d_in"], strict=True)
            traces = [flattest_trace(norm, int(d_out), int(d_in), depth) for norm, d_out, d_in in problems]
            rows.append(_level(depth, "nuclear_norm", norms, "minimum nuclear norm", "--"))
            rows.append(_level(depth, "hessian_trace", np.array(traces), "Lemma 4 at the minimum nuclear norm", "-."))
        flattest = trials[(trials["method"] == "min_hessian_trace") & (trials["depth"] == depth)]
        if len(flattest):
            traces = flattest["hessian_trace"].to_numpy(dtype=float)
            rows.append(_level(depth, "hessian_trace", traces, "flattest interpolator", ":"))
    return pd.DataFrame(rows)


def _level(depth: int, measure: str, values: Any, label: str, line: str) -> dict[str, Any]:
    level = float(np.median(values))
    return {"depth": depth, "measure": measure, "level": level, "label": label, "line": line, "problems": len(values)}


def series_columns(trained: pd.DataFrame) -> list[str]:
    """Columns that identify the curves of one depth: the method, and its fields that vary within a depth."""
    varying = {name for _, group in trained.groupby("depth") for name in configuration_columns(group)}
    return ["method", *(name for name in FIELDS if name in varying - {"method", "depth"})]


def _plain_where_short(axes: Axes) -> None:
    low, high = axes.get_ylim()
    if low > 0 and high < 100.0 * low:
        plain_ticks(axes.yaxis, low * 1.03, high / 1.03, 6)
        axes.set_ylim(low, high)


def _panel(axes: Axes, curves: pd.DataFrame, keys: Sequence[Key]) -> None:
    for index, key in enumerate(keys):
        line = matching(curves, key)
        line = line[line["step"] > 0]  # logarithmic axis
        steps = line["step"].to_numpy(dtype=float)
        axes.fill_between(steps, line["low"], line["high"], color=color_of(index), alpha=0.2, linewidth=0)
        axes.plot(steps, line["median"], color=color_of(index))
    axes.set_xscale("log")
    axes.set_yscale("log")
    despine(axes)


def _spikes(axes: Axes, largest: pd.DataFrame, keys: Sequence[Key]) -> None:
    """The largest mini-batch loss since the previous evaluation, as a thin line: it shows where training is rough."""
    for index, key in enumerate(keys):
        line = matching(largest, key)
        axes.plot(line["step"], line["median"], color=color_of(index), linewidth=0.5, alpha=0.7)


def _references(axes: Axes, levels: pd.DataFrame) -> None:
    for level, line in zip(levels["level"], levels["line"], strict=True):
        axes.axhline(level, color=INK, linestyle=line, linewidth=0.9, zorder=1)


def _handles(keys: Sequence[Key], levels: pd.DataFrame) -> list[Line2D]:
    handles = [Line2D([], [], color=color_of(index), label=describe(key)) for index, key in enumerate(keys)]
    handles.append(Line2D([], [], color=FAINT, linewidth=0.5, label="largest mini-batch loss between evaluations"))
    lines = dict(zip(levels["label"], levels["line"], strict=True)) if len(levels) else {}
    style: Mapping[str, Any] = {"color": INK, "linewidth": 0.9}
    return handles + [Line2D([], [], linestyle=line, label=label, **style) for label, line in lines.items()]


def make(trials: pd.DataFrame, context: Context) -> Drawn:
    """The figure, and the levels in it."""
    trained = trained_trials(trials)
    figure = training_curves(trials, context.history(COLUMNS))
    levels = reference_levels(trials)
    remarks = [
        f"{row.label}, depth {row.depth}: {row.level:.6g} (median of {row.problems})" for row in levels.itertuples()
    ]
    settings = {"band": "interquartile range over replicates", "series": series_columns(trained)}
    return Drawn({"training_curves": figure}, {}, settings, remarks)
