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
from flatdist.figures.panels import Key, Panels, describe, keys_of
from flatdist.figures.style import FAINT, INK, PAGE_WIDTH, color_of, log_axes, plain_ticks
from flatdist.fits.grouping import as_value, configuration_columns, matching
from flatdist.methods import takes_steps
from flatdist.theory import flattest_trace

MEASURES: Mapping[str, str] = {
    "train_loss": "train loss",
    "population_loss": "test loss",
    "nuclear_norm": "nuclear norm",
    "hessian_trace": "tr Hess $L$",
}
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
    size: dict[str, Any] = {"row_height": 1.35, "rest": 0.7, "width": PAGE_WIDTH, "columns": len(depths)}
    with Panels([{}] * (len(MEASURES) * len(depths)), sharex="col", **size) as panels:
        for place, depth in enumerate(depths):
            column = panels.flat[place :: len(depths)]
            for axes, measure in zip(column, MEASURES, strict=True):
                _panel(axes, matching(curves, depth), measure, keys)
                mine = levels[(levels["depth"] == depth["depth"]) & (levels["measure"] == measure)]
                for level, line in zip(mine["level"], mine["line"], strict=True):
                    axes.axhline(level, color=INK, linestyle=line, linewidth=0.9, zorder=1)
                low, high = axes.get_ylim()
                if low > 0 and high < 100.0 * low:
                    plain_ticks(axes.yaxis, low * 1.03, high / 1.03, 6)
                    axes.set_ylim(low, high)
            column[0].set_title(describe(depth), loc="left")
            column[-1].set_xlabel("step")
        for axes, label in zip(panels.flat[:: len(depths)], MEASURES.values(), strict=True):
            axes.set_ylabel(label)
        lines = dict(zip(levels["label"], levels["line"], strict=True))
        handles = [Line2D([], [], color=color_of(index), label=describe(key)) for index, key in enumerate(keys)]
        spikes = "largest mini-batch loss between evaluations"
        handles.append(Line2D([], [], color=FAINT, linewidth=0.5, label=spikes))
        handles += [
            Line2D([], [], linestyle=line, label=label, color=INK, linewidth=0.9) for label, line in lines.items()
        ]
        panels.legend(handles)
    return panels.figure


def _panel(axes: Axes, curves: pd.DataFrame, measure: str, keys: Sequence[Key]) -> None:
    """Medians and quartiles; thin, the largest mini-batch loss since the last evaluation: where training is rough."""
    for index, key in enumerate(keys):
        line = matching(curves, {"measure": measure, **key})
        line = line[line["step"] > 0]  # logarithmic axis
        steps = line["step"].to_numpy(dtype=float)
        axes.fill_between(steps, line["low"], line["high"], color=color_of(index), alpha=0.2, linewidth=0)
        axes.plot(steps, line["median"], color=color_of(index))
    log_axes(axes)
    for index, key in enumerate(keys if measure == "train_loss" else ()):
        line = matching(curves, {"measure": "train_loss_max", **key})
        axes.plot(line["step"], line["median"], color=color_of(index), linewidth=0.5, alpha=0.7)


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
    """Quartiles over replicates, for each group, measure and step: ``low``, ``median``, ``high`` and ``replicates``.

    The last counts those that have a value there; diverged replicates have none after they diverged.
    """
    named = history.assign(**{name: history[name].map(as_value) for name in by})
    long = named.melt([*by, "step"], [*MEASURES, "train_loss_max"], "measure").dropna(subset=["value"])
    values = long.groupby([*by, "measure", "step"], dropna=False)["value"]
    table = values.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    table = table.rename(columns={0.25: "low", 0.5: "median", 0.75: "high"})
    return table.assign(replicates=values.count()).reset_index()


def reference_levels(trials: pd.DataFrame) -> pd.DataFrame:
    """Horizontal lines: ``depth``, ``measure``, ``level``, ``label``, ``line`` and ``problems`` (how many)."""
    depths = sorted(trials.loc[trials["method"].map(takes_steps), "depth"].dropna().astype(int).unique())
    smallest = trials[trials["method"] == "min_nuclear_norm"]
    rows: list[tuple[Any, ...]] = []
    for depth in depths:
        if len(smallest):
            norms = smallest["nuclear_norm"].to_numpy(dtype=float)
            problems = zip(norms.tolist(), smallest["d_out"], smallest["d_in"], strict=True)
            traces = [flattest_trace(norm, int(d_out), int(d_in), depth) for norm, d_out, d_in in problems]
            rows.append((depth, "nuclear_norm", np.median(norms), "minimum nuclear norm", "--", len(norms)))
            label = "Lemma 4 at the minimum nuclear norm"
            rows.append((depth, "hessian_trace", np.median(traces), label, "-.", len(traces)))
        flattest = trials[(trials["method"] == "min_hessian_trace") & (trials["depth"] == depth)]
        if len(flattest):
            level = np.median(flattest["hessian_trace"].to_numpy(dtype=float))
            rows.append((depth, "hessian_trace", level, "flattest interpolator", ":", len(flattest)))
    return pd.DataFrame(rows, columns=["depth", "measure", "level", "label", "line", "problems"])


def series_columns(trained: pd.DataFrame) -> list[str]:
    """Columns that identify the curves of one depth: the method, and its fields that vary within a depth."""
    varying = {name for _, group in trained.groupby("depth") for name in configuration_columns(group)}
    return ["method", *(name for name in FIELDS if name in varying - {"method", "depth"})]


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
