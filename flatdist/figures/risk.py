"""Relative errors where recovery is not exact, on log axes: against n, over another method's, against the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Key, Panels, count_words, describe, keys_of
from flatdist.figures.style import (
    DASHED,
    DOTTED,
    INK,
    PAGE_WIDTH,
    color_of,
    log_axes,
    marker_of,
    method_label,
    method_rank,
    plain_ticks,
)
from flatdist.figures.words import shown
from flatdist.fits.grouping import group_rows, matching, panel_columns, series_columns
from flatdist.fits.risk import error_ratios, prediction_curves, quantile_test, ratios_by_regime, risk_table
from flatdist.threshold.median import few_words

_CURVES: Mapping[str, Mapping[str, Any]] = {
    "nuclear_norm": {"linestyle": "-", "color": INK, "label": "nuclear norm, predicted"},
    "minimum_norm": {"linestyle": DASHED, "color": INK, "label": "min-Frobenius norm, exact law"},
    "floor": {"linestyle": DOTTED, "color": INK, "label": "least error of any interpolator"},
    "tangent_fit": {"linestyle": "-", "color": "#aaaaaa", "label": "rank-$r$ fit that does not interpolate"},
    "truncation": {"linestyle": DASHED, "color": "#aaaaaa", "label": "best rank-$r$ approximation"},
}
_LINES: Sequence[Any] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)))  # series of one method, in turn
_SMALLEST = 1e-18  # exact answers are drawn here
_ERROR = ("error", "error_q25", "error_q75")
_OVER_N, _N_LABEL = "n_over_statdim", "measurements $n$ / statistical dimension"


def risk(trials: pd.DataFrame, *, ax: Axes | None = None) -> Any:
    """Median relative error, with quartiles, against n over the statistical dimension, and what theory predicts.

    Args:
        trials: one row per replicate, with the shapes; labels may be noisy and the truth may have a spectral tail.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: columns are missing, no error is finite, or one ``ax`` got several panels.

    Example:
        >>> from flatdist import figures
        >>> figures.risk(figures.example_trials()).axes[0].get_ylabel()
        'relative error'
    """
    series, panel_names = series_columns(trials), panel_columns(trials)
    table, curves = risk_table(trials), prediction_curves(trials, panel_names)
    keys = keys_of(table, series)
    present = [name for name in _CURVES if name in set(curves["curve"])]
    with _panels(table, panel_names, len(keys) + len(present), ax) as panels:
        for axes, key in panels:
            mine, theory = matching(table, key), matching(curves, key)
            unit = float((mine[_OVER_N] / mine["n"]).iloc[0])
            for name in present:
                curve = theory[theory["curve"] == name].sort_values("n")
                axes.plot(curve["n"] * unit, curve["error"], **_CURVES[name], linewidth=0.8, zorder=2)
            _series(axes, mine, _OVER_N, keys, _ERROR)
        panels.label(_N_LABEL, "relative error")
        _legend(panels, keys, present, f"median and quartiles of {count_words(table['replicates'])} problems")
    return panels.result


def risk_ratios(trials: pd.DataFrame, *, reference: str = "min_nuclear_norm", ax: Axes | None = None) -> Any:
    """Median ratio of errors to the reference's on the same problems, with its 95 % interval.

    Args:
        trials: one row per replicate.
        reference: method whose errors are the denominators.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: as for :func:`risk`; or the reference has no trials or several configurations, or nothing pairs with
            it.

    Example:
        >>> from flatdist import figures
        >>> figures.risk_ratios(figures.example_trials()).axes[0].get_ylabel()
        "error / min nuclear norm's"
    """
    ratios = error_ratios(trials, reference)
    keys = keys_of(ratios, series_columns(trials))
    with _panels(ratios, panel_columns(trials), len(keys), ax) as panels:
        for axes, key in panels:
            axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
            _series(axes, matching(ratios, key), _OVER_N, keys, ("ratio", "ratio_low", "ratio_high"))
        panels.label(_N_LABEL, f"error / {method_label(reference)}'s")
        _legend(panels, keys, (), f"median of {count_words(ratios['pairs'])} pairs, 95 % interval")
    return panels.result


def risk_steps(trials: pd.DataFrame) -> Figure:
    """Median error and the share of the noise left unfitted, against the number of steps.

    Args:
        trials: one row per replicate, of several ``steps``; methods without steps are drawn as levels.

    Raises:
        FitError: the trials have one number of steps, or as for :func:`risk`.

    Example:
        >>> import pandas as pd
        >>> from flatdist import figures
        >>> trials = figures.example_trials().query("n == 32 and method == 'label_noise_sgd'").assign(train_loss=0.1)
        >>> parts = [trials.assign(steps=steps, observation_noise_std=0.1) for steps in (1000, 4000)]
        >>> len(figures.risk_steps(pd.concat(parts)).axes)
        2
    """
    table, series, panel_names = steps_table(trials)
    keys, columns = keys_of(table, series), keys_of(table, panel_names)
    levels = {"floor": "floor", "tangent_fit": "rank_fit"}
    rows = [*((key, _ERROR, levels) for key in columns), *((key, ("misfit",), {}) for key in columns)]
    titles, rest = [*columns, *({} for _ in columns)], 0.4 + 0.14 * -(-(len(keys) + 2) // 3)
    grid: dict[str, Any] = {"columns": len(columns), "width": PAGE_WIDTH, "sharex": True, "sharey": "row"}
    with Panels(titles, row_height=1.7, rest=rest, **grid) as panels:
        for (axes, _), (key, names, curves) in zip(panels, rows, strict=True):
            mine = matching(table, key)
            for _, row in mine[mine["steps"].isna()].iterrows():
                if row[names[0]] > _SMALLEST**0.5:  # interpolation to rounding needs no line
                    axes.axhline(row[names[0]], color=color_of(method_rank(row["method"])), linewidth=0.8, zorder=1)
            _series(axes, mine[mine["steps"].notna()], "steps", keys, names)
            for name, column in curves.items():
                for value in set(mine[column].dropna()):
                    axes.axhline(value, **_CURVES[name], linewidth=0.8, zorder=1)
        panels.label("steps", "relative error")
        panels.flat[len(columns)].set_ylabel("train loss / noise variance")
        title = f"median and quartiles of {count_words(table['replicates'])} problems"
        _legend(panels, keys, ("floor", "tangent_fit"), title)
    return panels.figure


def _panels(table: pd.DataFrame, names: Sequence[str], entries: int, ax: Axes | None) -> Panels:
    """Panels with room for the legend, one column for each value of the last thing that tells them apart."""
    keys = keys_of(table, names)
    levels = table[names[-1]].nunique(dropna=False) if names else 1
    columns = levels if levels in (2, 3) and len(keys) % levels == 0 else min(2, len(keys))
    rest = 0.5 + 0.14 * -(-entries // (1 if columns == 1 else 3))
    return Panels(keys, ax, row_height=1.75, rest=rest, columns=columns)


def _looks(keys: Sequence[Key]) -> list[tuple[Key, dict[str, Any]]]:
    seen, looks = Counter[Any](), []
    for key in keys:
        index, place = method_rank(str(key.get("method"))), seen[key.get("method")]
        seen[key.get("method")] += 1
        color = color_of(index)
        look = {"color": color, "marker": marker_of(index), "linestyle": _LINES[place % len(_LINES)], "linewidth": 0.9}
        looks.append((key, {**look, "markerfacecolor": "white" if place % 2 else color, "markeredgewidth": 0.7}))
    return looks


def _series(axes: Axes, table: pd.DataFrame, x: str, keys: Sequence[Key], names: Sequence[str]) -> None:
    """A line with a bar at each point for every series, on logarithmic axes; what is infinite or unknown is left out.

    Series are shifted by a little of the axis's range, so that equal points stay visible.
    """
    values = table[x].to_numpy(dtype=float)
    extent = np.log(values.max() / values.min()) if len(values) else 0.0
    for place, (key, look) in enumerate(_looks(keys)):
        mine = matching(table, key).sort_values(x)
        mine = mine[np.isfinite(mine[names[0]].to_numpy(dtype=float))]
        where = mine[x].to_numpy(dtype=float) * np.exp(0.006 * extent * (place - 0.5 * (len(keys) - 1)))
        center, *ends = (np.maximum(mine[name].to_numpy(dtype=float), _SMALLEST) for name in names)
        axes.plot(where, center, zorder=3, **look)
        if ends:
            high = np.where(np.isfinite(ends[1]), ends[1], 10.0 * center)
            axes.vlines(where, ends[0], high, color=look["color"], linewidth=0.6, zorder=3)
    log_axes(axes)
    low, high = axes.get_ylim()
    if high / low > 1e6:
        axes.set_ylim(bottom=high / 1e6)
    if x == _OVER_N:
        plain_ticks(axes.xaxis, float(values.min()), float(values.max()), most=6)


def _legend(panels: Panels, keys: Sequence[Key], curves: Sequence[str], title: str) -> None:
    handles = [Line2D([], [], label=describe(key) or "all trials", **look) for key, look in _looks(keys)]
    handles += [Line2D([], [], linewidth=0.8, **_CURVES[name]) for name in curves]
    columns = 1 if panels.columns == 1 else 3
    panels.legend(handles, ncols=columns, handlelength=2.6, title=title, title_fontsize=6.5)


def steps_table(trials: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The typical error of each group, n and number of steps; see :func:`flatdist.fits.risk.risk_table`.

    Returns:
        The table, the columns that tell series apart, and those that tell panels apart.

    Raises:
        FitError: the trials have one number of steps, or as for the table.
    """
    if "steps" not in trials or trials["steps"].nunique() < 2:
        raise FitError("the trials have no two numbers of steps to compare; give a sweep with several `steps`")
    series = [name for name in series_columns(trials) if name != "steps"]
    panels = panel_columns(trials)
    return risk_table(trials, [*series, *panels, "steps"]), series, [*panels, "n"]


def agreement(table: pd.DataFrame) -> list[str]:
    """How far measured medians are from predictions, one line per method that has predictions."""
    known = table[np.isfinite(table["predicted"]) & (table["predicted"] > 0) & np.isfinite(table["error"])]
    lines = []
    for key, group in group_rows(known, ["method"]):
        ratio = (group["error"] / group["predicted"]).to_numpy(dtype=float)
        inside = ((group["error_low"] <= group["predicted"]) & (group["predicted"] <= group["error_high"])).mean()
        spread = " .. ".join(f"{value:.2f}" for value in np.quantile(ratio, [0.05, 0.95]))
        lines.append(
            f"{key['method']}: measured over predicted error {np.median(ratio):.3f} (5-95 %: {spread}), the prediction "
            f"within the median's interval at {inside:.0%} of {len(group)} points"
        )
    return lines


def make(trials: pd.DataFrame, context: Context, *, reference: str = "min_nuclear_norm") -> Drawn:
    """Both figures over n, the ratios by regime, and every table as a file."""
    files = {
        "risk": risk_table(trials),
        "risk_ratios": error_ratios(trials, reference),
        "risk_ratios_by_regime": ratios_by_regime(trials, reference),
    }
    figures = {"risk": risk(trials), "risk_ratios": risk_ratios(trials, reference=reference)}
    remarks = [*quantile_test(trials), *agreement(files["risk"]), *few_words(files["risk"]["replicates"])]
    tables = {f"error over that of {reference}": shown(files["risk_ratios_by_regime"])}
    return Drawn(figures, tables, {"level": 0.95}, remarks, files)


def make_risk_steps(trials: pd.DataFrame, context: Context) -> Drawn:
    """The figure over the steps, and its table."""
    table, series, panel_names = steps_table(trials)
    names = ("error", "error_low", "error_high", "misfit", "replicates", "diverged")
    text = shown(table[[*series, *panel_names, "steps", *names]])
    figures, remarks = {"risk_steps": risk_steps(trials)}, few_words(table["replicates"])
    return Drawn(figures, {"relative error": text}, {"level": 0.95}, remarks, {"risk_steps": table})
