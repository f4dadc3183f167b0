"""n50 against each law with residuals, and the collapse of the transitions onto one curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Key, arrow_handle, describe, keys_of, legend_above, series_handles, styled
from flatdist.figures.style import (
    COLUMN_WIDTH,
    INK,
    PAGE_WIDTH,
    color_of,
    despine,
    mark,
    marker_of,
    plain_ticks,
    themed,
)
from flatdist.figures.words import law_table, threshold_table
from flatdist.fits.grouping import matching
from flatdist.fits.scaling import BELOW, LAWS, RESOLVED, Fits, fit_all, master_curve, unresolved_lines, width_table
from flatdist.fits.shapes import SHAPE
from flatdist.theory import prediction

_BRACKETED = ("none", "interval")
_FINE_TICKS, _COARSE_TICKS = (0.9, 0.95, 1.0, 1.05, 1.1), (0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
LEVELS = (
    "n50 / law has a 90 % interval, whose ends are two one-sided tests at 5 % each, as equivalence needs (Schuirmann "
    "1987); all other intervals are at 95 %"
)


def scaling(
    trials: pd.DataFrame, *, tolerance: float | None = None, link: str = "auto", fits: Fits | None = None
) -> Figure:
    """Measured n50 against each law on log-log axes, and its ratio to the fitted multiple of the law below.

    Args:
        trials: one row per replicate, over several shapes or ranks.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        link: of the threshold fits.
        fits: from :func:`flatdist.fits.scaling.fit_all`; fitted here by default.

    Raises:
        FitError: missing columns, or no threshold that the data bracket.

    Example:
        >>> from flatdist import figures
        >>> len(figures.scaling(figures.example_trials(sizes=(8, 12), ranks=(1, 2))).axes)  # two for each law
        8
    """
    fits = fits or fit_all(trials, tolerance, link)
    thresholds, laws = fits.thresholds, fits.laws
    keys = keys_of(laws, fits.series)
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 3.3 + 0.13 * (len(keys) // 3)), layout="constrained")
        grid = figure.subplots(2, len(LAWS), sharex="col", sharey="row", height_ratios=(2, 1))
        for column, law in enumerate(LAWS):
            law_panel(grid[0, column], grid[1, column], law, thresholds, laws, keys)
            grid[1, column].set_xlabel(prediction(law).label)
            grid[0, column].set_title(_title(laws[laws["law"] == law]["verdict"], keys), pad=3)
        grid[0, 0].set_ylabel("measured $n_{50}$")
        grid[1, 0].set_ylabel("$n_{50}$ / fit")
        bounds = thresholds[["n50", "n50_low", "n50_high"]].to_numpy(dtype=float)
        bounds = bounds[np.isfinite(bounds) & (bounds > 0)]
        grid[0, 0].set_ylim(bounds.min() / 1.15, bounds.max() * 1.15)
        plain_ticks(grid[0, 0].yaxis, bounds.min(), bounds.max())
        ratio_ticks(grid[1, 0])
        handles = series_handles(keys, "all", linestyle="")
        handles.append(Line2D([], [], color=INK, linewidth=0.8, label="$n_{50}$ = law; dashed: fitted multiple"))
        if thresholds["censored"].isin(["left", "right"]).any():
            handles.append(arrow_handle("censored: bound"))
        legend_above(figure, handles, 3)
    return figure


def law_panel(
    upper: Axes, lower: Axes, law: str, thresholds: pd.DataFrame, laws: pd.DataFrame, keys: Sequence[Key]
) -> None:
    """One law: n50 against it above, n50 over its fitted multiple below."""
    for axes in (upper, lower):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
    despine(upper, lower)
    mine = laws[laws["law"] == law]
    for index, key in styled(keys):
        ratio = float(matching(mine, key)["ratio"].iloc[0])
        _law_points(upper, lower, matching(thresholds, key), law, ratio, index)
    single = only_value(thresholds, law)
    low, high = upper.get_xlim() if single is None else (single / 1.5, single * 1.5)
    line = np.array([low, high])
    upper.plot(line, line, color=INK, linewidth=0.8, zorder=1)
    for index, key in styled(keys) if single is None else ():
        row = matching(mine, key).iloc[0]
        upper.plot(
            line, row["ratio"] * line, "--", color=color_of(index), linewidth=0.8, zorder=1, gid=mark("law", row)
        )
    upper.set_xlim(low, high)
    if single is None:
        plain_ticks(upper.xaxis, low, high, 5)
    else:
        upper.set_xticks([single], [f"{single:.4g}"])
    lower.axhline(1.0, color=INK, linewidth=0.8, zorder=1)


def only_value(thresholds: pd.DataFrame, law: str) -> float | None:
    """The law's value where all shapes have the same."""
    value = prediction(law).value
    shapes = thresholds[list(SHAPE)].drop_duplicates().itertuples(index=False)
    values = {round(float(value(int(a), int(b), int(r))), 9) for a, b, r in shapes}
    return values.pop() if len(values) == 1 else None


def _title(verdicts: pd.Series, keys: Sequence[Key]) -> str:
    """The verdict of one series by its name, or how many of several agree."""
    counts = verdicts.value_counts()
    if len(keys) == 1:
        return f"{describe(keys[0]) or 'all'}:\n{counts.index[0]}"
    if len(counts) == 1:
        return f"all {len(verdicts)}: {counts.index[0]}"
    return f"consistent in {int(counts.get('consistent', 0))} of {len(verdicts)}"


def _law_points(upper: Axes, lower: Axes, thresholds: pd.DataFrame, law: str, ratio: float, index: int) -> None:
    value, color = prediction(law).value, color_of(index)
    bars: list[tuple[float, float, float]] = []
    for fit in thresholds.to_dict("records"):
        x = float(value(int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"])))
        if fit["censored"] in _BRACKETED:
            y, low, high = fit["n50"], fit["n50_low"], fit["n50_high"]
            bars.append((x, low if low > 0 else y, high if np.isfinite(high) else y))
            style: dict[str, Any] = {"marker": marker_of(index), "markeredgewidth": 0.2, "markeredgecolor": "white"}
        elif fit["censored"] in ("left", "right"):
            right = fit["censored"] == "right"
            y = fit["n50_low"] if right else fit["n50_high"]
            style = {"marker": "$\\uparrow$" if right else "$\\downarrow$", "markersize": 5}
        else:
            continue
        for axes, scale in ((upper, 1.0), (lower, ratio * x)):
            axes.plot([x], [y / scale], color=color, zorder=3, gid=mark("n50", fit), **style)
    for axes, scaled in ((upper, False), (lower, True)):
        xs, lows, highs = np.array(bars).reshape(-1, 3).T
        by = ratio * xs if scaled else np.ones(len(xs))
        axes.vlines(xs, lows / by, highs / by, colors=color, linewidth=0.7, zorder=2.5)


def ratio_ticks(axes: Axes) -> None:
    """Round ratios on an axis around 1."""
    low, high = axes.get_ylim()
    ticks = [tick for tick in (_FINE_TICKS if high < 1.2 else _COARSE_TICKS) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def collapse(
    trials: pd.DataFrame, *, tolerance: float | None = None, link: str = "auto", fits: Fits | None = None
) -> Figure:
    """Success on each transition's own scale, and the transitions' widths against sqrt(d d').

    Arguments and errors as of :func:`scaling`.

    Example:
        >>> from flatdist import figures
        >>> len(figures.collapse(figures.example_trials(sizes=(8, 12))).axes)
        2
    """
    fits = fits or fit_all(trials, tolerance, link)
    thresholds, widths = fits.thresholds, fits.widths
    keys = keys_of(thresholds, fits.series)
    with themed():
        bounds = bool((width_table(thresholds)["width_censored"] == BELOW).any())
        figure = Figure(figsize=(COLUMN_WIDTH, 2.2 + 0.14 * (len(keys) + 1 + bounds)), layout="constrained")
        left, right = figure.subplots(1, 2)
        z = np.linspace(-2.5, 2.5, 200)
        left.plot(z, master_curve(z), color=INK, linewidth=0.8, zorder=1)
        for index, key in styled(keys):
            mine, color = matching(fits.collapsed, key), color_of(index)
            left.plot(mine["z"], mine["rate"], marker_of(index), color=color, alpha=0.55, markeredgewidth=0, zorder=2)
            _widths(right, matching(thresholds, key), index)
            fitted = matching(widths, key) if len(widths) else widths
            if len(fitted):
                size = np.geomspace(*_range(thresholds), 20)
                law = float(fitted["coefficient"].iloc[0]) * size ** (2 * float(fitted["exponent"].iloc[0]))
                right.plot(size, law, color=color, linewidth=0.8)
        left.set_xlim(-2.5, 2.5)
        left.set_xlabel("$(n - n_{50})$ / width")
        left.set_ylabel("success")
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xlabel("$\\sqrt{d\\,d'}$")
        right.set_ylabel("width, 10-90 %")
        smallest, largest = _range(thresholds)
        plain_ticks(right.xaxis, smallest, largest, 5)
        right.set_xlim(smallest / 1.2, largest * 1.2)
        if np.isfinite(right.dataLim.minposy):
            bottom, top = right.get_ylim()
            plain_ticks(right.yaxis, bottom, top, 6)
        else:
            right.set_ylim(1.0, float(thresholds["n_max"].max()))
            right.set_title("no width is known", pad=3)
        despine(left, right)
        legend_above(figure, _collapse_handles(keys, widths, bounds), 1)
    return figure


def _range(thresholds: pd.DataFrame) -> tuple[float, float]:
    size = np.sqrt(thresholds["d_out"].astype(float) * thresholds["d_in"].astype(float))
    return float(size.min()), float(size.max())


def _widths(axes: Axes, thresholds: pd.DataFrame, index: int) -> None:
    """Resolved widths with their intervals; the others as bounds with an arrow."""
    table = width_table(thresholds)
    size = np.sqrt(table["d_out"].astype(float) * table["d_in"].astype(float)) * 1.02**index
    used = table["width_censored"] == RESOLVED
    width, low, high = (table.loc[used, f"width{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    axes.errorbar(
        size[used], width, yerr=np.stack((np.where(low > 0, width - low, 0.0), high - width)), color=color_of(index),
        marker=marker_of(index), linestyle="", elinewidth=0.6, markeredgewidth=0,
    )  # fmt: skip
    below = table["width_censored"] == BELOW
    axes.plot(
        size[below], table.loc[below, "width_high"], color=color_of(index), marker="$\\downarrow$", linestyle="",
        markersize=5, alpha=0.7,
    )  # fmt: skip


def _collapse_handles(keys: Sequence[Mapping[str, Any]], widths: pd.DataFrame, bounds: bool) -> list[Line2D]:
    handles = [arrow_handle("narrower than the measured n resolve: bound", "$\\downarrow$")] if bounds else []
    for handle, (_, key) in zip(series_handles(keys, "all", linestyle=""), styled(keys), strict=True):
        fitted = matching(widths, key) if len(widths) else widths
        if len(fitted):
            row = fitted.iloc[0]
            law = f": width $\\propto (d\\,d')^{{{row['exponent']:.2f}}}$"
            handle.set_label(f"{handle.get_label()}{law} [{row['exponent_low']:.2f}, {row['exponent_high']:.2f}]")
        handles.append(handle)
    return handles


def make(trials: pd.DataFrame, context: Context, *, tolerance: float | None = None, link: str = "auto") -> Drawn:
    """Both figures, the thresholds and the laws."""
    fits = fit_all(trials, tolerance, link)
    figures = {"scaling": scaling(trials, fits=fits), "collapse": collapse(trials, fits=fits)}
    settings = {"tolerance": fits.tolerance, "link": link, "level": 0.95, "by": fits.by}
    tables = {"n50": threshold_table(fits.thresholds, fits.by), "laws": law_table(fits.laws, fits.series)}
    remarks = [*unresolved_lines(fits.thresholds), *([LEVELS] if len(fits.laws) else [])]
    return Drawn(figures, tables, settings, remarks)
