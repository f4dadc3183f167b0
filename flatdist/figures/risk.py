"""Relative errors where recovery is not exact, on log axes: against n, over another method's, against the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Key, Panels, count_words, describe, keys_of
from flatdist.figures.style import INK, color_of, despine, marker_of, method_label, method_rank, plain_ticks
from flatdist.figures.words import shown
from flatdist.fits.grouping import group_rows, matching, panel_columns, series_columns
from flatdist.fits.risk import error_ratios, prediction_curves, quantile_test, ratios_by_regime, risk_table
from flatdist.threshold.median import few_words

CURVE_LINES: Mapping[str, tuple[Any, str, str]] = {
    "nuclear_norm": ("-", INK, "nuclear norm, predicted"),
    "minimum_norm": ((0, (5, 2)), INK, "min-Frobenius norm, exact law"),
    "floor": ((0, (1, 1.5)), INK, "least error of any interpolator"),
    "tangent_fit": ("-", "#aaaaaa", "rank-$r$ fit that does not interpolate"),
    "truncation": ((0, (5, 2)), "#aaaaaa", "best rank-$r$ approximation"),
}
LINES: Sequence[Any] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.5, 1, 1.5)))  # series of one method, in turn
_SPREAD = 0.006  # series are shifted by this much of the log axis's range, so that equal points stay visible
_DECADES_SHOWN = 6.0
_SMALLEST = 1e-18  # exact answers are drawn here
_ERROR = ("error", "error_q25", "error_q75")


def risk(trials: pd.DataFrame, *, ax: Axes | None = None) -> Any:
    """Median relative error, with quartiles, against n over the statistical dimension, and what theory predicts.

    Args:
        trials: one row per replicate, with the shapes; labels may be noisy and the truth may have a spectral tail.
        ax: axes for a single panel; by default a new figure with all panels.

    Returns:
        The figure, or ``ax``.

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
    present = [name for name in CURVE_LINES if name in set(curves["curve"])]
    lines = _curve_handles(present)
    with _panels(table, panel_names, len(keys) + len(lines), ax) as panels:
        for axes, key in panels:
            mine, theory = matching(table, key), matching(curves, key)
            unit = float((mine["n_over_statdim"] / mine["n"]).iloc[0])
            for name in present:
                dashes, grey, _ = CURVE_LINES[name]
                curve = theory[theory["curve"] == name].sort_values("n")
                axes.plot(curve["n"] * unit, curve["error"], linestyle=dashes, color=grey, linewidth=0.8, zorder=2)
            _series(axes, mine, "n_over_statdim", keys, _ERROR)
            _finish(panels, axes, mine, key)
        panels.label("measurements $n$ / statistical dimension", "relative error")
        _legend(
            panels, [*_handles(keys), *lines], f"median and quartiles of {count_words(table['replicates'])} problems"
        )
    return panels.result


def risk_ratios(trials: pd.DataFrame, *, reference: str = "min_nuclear_norm", ax: Axes | None = None) -> Any:
    """Median ratio of errors to the reference's on the same problems, with its 95 % interval.

    Args:
        trials: one row per replicate.
        reference: method whose errors are the denominators.
        ax: axes for a single panel; by default a new figure with all panels.

    Returns:
        The figure, or ``ax``.

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
            mine = matching(ratios, key)
            axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
            _series(axes, mine, "n_over_statdim", keys, ("ratio", "ratio_low", "ratio_high"))
            _finish(panels, axes, mine, key)
        panels.label("measurements $n$ / statistical dimension", f"error / {method_label(reference)}'s")
        _legend(panels, _handles(keys), f"median of {count_words(ratios['pairs'])} pairs, 95 % interval")
    return panels.result


def risk_steps(trials: pd.DataFrame) -> Any:
    """Median error and the share of the noise left unfitted, against the number of steps.

    Args:
        trials: one row per replicate, of several ``steps``; methods without steps are drawn as levels.

    Returns:
        The figure.

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
    rest = 0.4 + 0.14 * -(-(len(keys) + 2) // 3)
    with Panels(
        [*columns, *columns], row_height=1.7, rest=rest, columns=len(columns), sharex=True, sharey="row"
    ) as panels:
        panels.figure.set_figwidth(7.0)
        for place, (axes, key) in enumerate(panels):
            upper = place < len(columns)
            names = _ERROR if upper else ("misfit", None, None)
            mine = matching(table, key)
            trained, level = mine[mine["steps"].notna()], mine[mine["steps"].isna()]
            _series(axes, trained, "steps", keys, names)
            for _, row in level.iterrows():
                if row[names[0]] > _SMALLEST**0.5:  # interpolation to rounding needs no line
                    axes.axhline(row[names[0]], color=color_of(method_rank(row["method"])), linewidth=0.8, zorder=1)
            _finish(panels, axes, trained, key if upper else {}, "steps")
            for name, column in (("floor", "floor"), ("tangent_fit", "rank_fit")) if upper else ():
                dashes, grey, _ = CURVE_LINES[name]
                for value in set(mine[column].dropna()):
                    axes.axhline(value, linestyle=dashes, color=grey, linewidth=0.8, zorder=1)
        panels.label("steps", "relative error")
        panels.flat[len(columns)].set_ylabel("train loss / noise variance")
        title = f"median and quartiles of {count_words(table['replicates'])} problems"
        _legend(panels, [*_handles(keys), *_curve_handles(["floor", "tangent_fit"])], title)
    return panels.result


def _panels(table: pd.DataFrame, names: Sequence[str], entries: int, ax: Axes | None) -> Panels:
    """Panels with room for the legend, one column for each value of the last thing that tells them apart."""
    keys = keys_of(table, names)
    levels = table[names[-1]].nunique(dropna=False) if names else 1
    columns = levels if levels in (2, 3) and len(keys) % levels == 0 else min(2, len(keys))
    rest = 0.5 + 0.14 * -(-entries // (1 if columns == 1 else 3))
    return Panels(keys, ax, row_height=1.75, rest=rest, columns=columns)


def _looks(keys: Sequence[Key]) -> list[tuple[Key, dict[str, Any]]]:
    seen: dict[Any, int] = {}
    looks = []
    for key in keys:
        method = key.get("method")
        index = method_rank(str(method))
        place = seen[method] = seen.get(method, -1) + 1
        color = color_of(index)
        filling = color if place % 2 == 0 else "white"
        look = {"color": color, "marker": marker_of(index), "linestyle": LINES[place % len(LINES)]}
        looks.append((key, {**look, "markerfacecolor": filling, "markeredgewidth": 0.7}))
    return looks


def _series(
    axes: Axes, table: pd.DataFrame, x: str, keys: Sequence[Key], names: tuple[str, str | None, str | None]
) -> None:
    """A line with a bar at each point for every series; what is infinite or unknown is left out."""
    values = table[x].to_numpy(dtype=float)
    extent = np.log(values.max() / values.min()) if len(values) else 0.0
    middle, low, high = names
    for place, (key, look) in enumerate(_looks(keys)):
        mine = matching(table, key).sort_values(x)
        center = mine[middle].to_numpy(dtype=float)
        finite = np.isfinite(center)
        where = mine[x].to_numpy(dtype=float) * np.exp(_SPREAD * extent * (place - 0.5 * (len(keys) - 1)))
        axes.plot(where[finite], np.maximum(center[finite], _SMALLEST), linewidth=0.9, zorder=3, **look)
        if low is not None and high is not None:
            ends = [np.maximum(mine[name].to_numpy(dtype=float)[finite], _SMALLEST) for name in (low, high)]
            ends[1] = np.where(np.isfinite(ends[1]), ends[1], 10.0 * np.maximum(center[finite], _SMALLEST))
            axes.vlines(where[finite], *ends, color=look["color"], linewidth=0.6, zorder=3)


def _finish(panels: Panels, axes: Axes, table: pd.DataFrame, key: Key, x: str = "n_over_statdim") -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low > 10.0**_DECADES_SHOWN:
        axes.set_ylim(bottom=high / 10.0**_DECADES_SHOWN)
    if x == "n_over_statdim":
        plain_ticks(axes.xaxis, float(table[x].min()), float(table[x].max()), most=6)
    panels.title(axes, describe(key))
    despine(axes)


def _handles(keys: Sequence[Key]) -> list[Line2D]:
    return [Line2D([], [], label=describe(key) or "all trials", linewidth=0.9, **look) for key, look in _looks(keys)]


def _curve_handles(names: Sequence[str]) -> list[Line2D]:
    looks = [CURVE_LINES[name] for name in names]
    return [Line2D([], [], linestyle=dashes, color=grey, linewidth=0.8, label=label) for dashes, grey, label in looks]


def _legend(panels: Panels, handles: Sequence[Line2D], title: str) -> None:
    columns = 1 if panels.columns == 1 else 3
    panels.legend(handles, ncols=columns, handlelength=2.6, title=title, title_fontsize=6.5)


def steps_table(trials: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The typical error of each group, n and number of steps; see :func:`flatdist.figures.risk.risk_table`.

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
    return Drawn(figures, tables, {"level": 0.95, "reference": reference}, remarks, files)


def make_risk_steps(trials: pd.DataFrame, context: Context) -> Drawn:
    """The figure over the steps, and its table."""
    table, series, panel_names = steps_table(trials)
    names = ("error", "error_low", "error_high", "misfit", "replicates", "diverged")
    text = shown(table[[*series, *panel_names, "steps", *names]])
    figures, remarks = {"risk_steps": risk_steps(trials)}, few_words(table["replicates"])
    return Drawn(figures, {"relative error": text}, {"level": 0.95}, remarks, {"risk_steps": table})
