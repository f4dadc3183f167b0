"""n50 against each law with residuals, and the collapse of the transitions onto one curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Key, Panels, arrow_handle, describe, keys_of, points, series_handles, styled
from flatdist.figures.style import COLUMN_WIDTH, DOWN, INK, UP, color_of, log_axes, mark, marker_of, plain_ticks
from flatdist.figures.words import law_table, threshold_table
from flatdist.fits.grouping import matching, predicted
from flatdist.fits.ratios import BRACKETED
from flatdist.fits.scaling import BELOW, LAWS, RESOLVED, Fits, fit_all, master_curve, unresolved_lines, width_table
from flatdist.theory import prediction

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
    look: dict[str, Any] = {"sharex": "col", "sharey": "row", "height_ratios": (2, 1), "columns": len(LAWS)}
    with Panels([{}] * 2 * len(LAWS), row_height=1.65, rest=0.13 * (len(keys) // 3), **look) as panels:
        first, ratio = panels.flat[0], panels.flat[len(LAWS)]
        for upper, lower, law in zip(panels.flat, panels.flat[len(LAWS) :], LAWS, strict=False):
            law_panel(upper, lower, law, thresholds, laws, keys)
            lower.set_xlabel(prediction(law).label)
            upper.set_title(_title(laws[laws["law"] == law]["verdict"], keys), pad=3)
        first.set_ylabel("measured $n_{50}$")
        ratio.set_ylabel("$n_{50}$ / fit")
        bounds = thresholds[["n50", "n50_low", "n50_high"]].to_numpy(dtype=float)
        bounds = bounds[np.isfinite(bounds) & (bounds > 0)]
        first.set_ylim(bounds.min() / 1.15, bounds.max() * 1.15)
        plain_ticks(first.yaxis, bounds.min(), bounds.max())
        ratio_ticks(ratio)
        handles = series_handles(keys, "all", linestyle="")
        handles.append(Line2D([], [], color=INK, linewidth=0.8, label="$n_{50}$ = law; dashed: fitted multiple"))
        if thresholds["censored"].isin(["left", "right"]).any():
            handles.append(arrow_handle("censored: bound"))
        panels.legend(handles, ncols=3)
    return panels.figure


def law_panel(
    upper: Axes, lower: Axes, law: str, thresholds: pd.DataFrame, laws: pd.DataFrame, keys: Sequence[Key]
) -> None:
    """One law: n50 against it above, n50 over its fitted multiple below."""
    log_axes(upper, lower)
    upper.minorticks_off()
    lower.minorticks_off()
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
        gid, color = mark("law", row), color_of(index)
        upper.plot(line, row["ratio"] * line, "--", color=color, linewidth=0.8, zorder=1, gid=gid)
    upper.set_xlim(low, high)
    if single is None:
        plain_ticks(upper.xaxis, low, high, 5)
    else:
        upper.set_xticks([single], [f"{single:.4g}"])
    lower.axhline(1.0, color=INK, linewidth=0.8, zorder=1)


def _law_points(upper: Axes, lower: Axes, thresholds: pd.DataFrame, law: str, ratio: float, index: int) -> None:
    color, bars = color_of(index), list[tuple[float, float, float]]()
    for fit, value in zip(thresholds.to_dict("records"), predicted(law, thresholds), strict=True):
        x, y, low, high = float(value), fit["n50"], fit["n50_low"], fit["n50_high"]
        if fit["censored"] in BRACKETED:
            bars.append((x, low if low > 0 else y, high if np.isfinite(high) else y))
            style: dict[str, Any] = {"marker": marker_of(index), "markeredgewidth": 0.2, "markeredgecolor": "white"}
        elif fit["censored"] in ("left", "right"):
            y, arrow = (low, UP) if fit["censored"] == "right" else (high, DOWN)
            style = {"marker": arrow, "markersize": 5}
        else:
            continue
        for axes, scale in ((upper, 1.0), (lower, ratio * x)):
            axes.plot([x], [y / scale], color=color, zorder=3, gid=mark("n50", fit), **style)
    xs, lows, highs = np.array(bars).reshape(-1, 3).T
    for axes, by in ((upper, np.ones(len(xs))), (lower, ratio * xs)):
        axes.vlines(xs, lows / by, highs / by, colors=color, linewidth=0.7, zorder=2.5)


def only_value(thresholds: pd.DataFrame, law: str) -> float | None:
    """The law's value where all shapes have the same."""
    values = set(predicted(law, thresholds).round(9).tolist())
    return values.pop() if len(values) == 1 else None


def _title(verdicts: pd.Series, keys: Sequence[Key]) -> str:
    """The verdict of one series by its name, or how many of several agree."""
    counts = verdicts.value_counts()
    if len(keys) == 1:
        return f"{describe(keys[0]) or 'all'}:\n{counts.index[0]}"
    if len(counts) == 1:
        return f"all {len(verdicts)}: {counts.index[0]}"
    return f"consistent in {int(counts.get('consistent', 0))} of {len(verdicts)}"


def ratio_ticks(axes: Axes) -> None:
    """Round ratios on an axis around 1."""
    low, high = axes.get_ylim()
    round_values = (0.9, 0.95, 1.0, 1.05, 1.1) if high < 1.2 else (0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
    ticks = [tick for tick in round_values if low <= tick <= high]
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
    bounds = bool((width_table(thresholds)["width_censored"] == BELOW).any())
    sizes = np.sqrt(thresholds["d_out"].astype(float) * thresholds["d_in"].astype(float))
    smallest, largest = float(sizes.min()), float(sizes.max())
    rest = 0.14 * (len(keys) + 1 + bounds)
    with Panels([{}, {}], row_height=2.2, rest=rest, columns=2, width=COLUMN_WIDTH) as panels:
        left, right = panels.flat
        handles = [arrow_handle("narrower than the measured n resolve: bound", DOWN)] if bounds else []
        z = np.linspace(-2.5, 2.5, 200)
        left.plot(z, master_curve(z), color=INK, linewidth=0.8, zorder=1)
        for handle, (index, key) in zip(series_handles(keys, "all", linestyle=""), styled(keys), strict=True):
            mine, color = matching(fits.collapsed, key), color_of(index)
            left.plot(mine["z"], mine["rate"], marker_of(index), color=color, alpha=0.55, markeredgewidth=0, zorder=2)
            _widths(right, matching(thresholds, key), index)
            for row in (matching(widths, key) if len(widths) else widths).to_dict("records"):
                size = np.geomspace(smallest, largest, 20)
                law = float(row["coefficient"]) * size ** (2 * float(row["exponent"]))
                right.plot(size, law, color=color, linewidth=0.8)
                text = f": width $\\propto (d\\,d')^{{{row['exponent']:.2f}}}$"
                handle.set_label(f"{handle.get_label()}{text} [{row['exponent_low']:.2f}, {row['exponent_high']:.2f}]")
            handles.append(handle)
        left.set(xlim=(-2.5, 2.5), xlabel="$(n - n_{50})$ / width", ylabel="success")
        right.set(xlabel="$\\sqrt{d\\,d'}$", ylabel="width, 10-90 %")
        log_axes(right)
        plain_ticks(right.xaxis, smallest, largest, 5)
        right.set_xlim(smallest / 1.2, largest * 1.2)
        if np.isfinite(right.dataLim.minposy):
            plain_ticks(right.yaxis, *right.get_ylim(), 6)
        else:
            right.set_ylim(1.0, float(thresholds["n_max"].max()))
            right.set_title("no width is known", pad=3)
        panels.legend(handles, ncols=1)
    return panels.figure


def _widths(axes: Axes, thresholds: pd.DataFrame, index: int) -> None:
    """Resolved widths with their intervals; the others as bounds with an arrow."""
    table = width_table(thresholds)
    size = np.sqrt(table["d_out"].astype(float) * table["d_in"].astype(float)) * 1.02**index
    used, below = (table["width_censored"] == kind for kind in (RESOLVED, BELOW))
    width, low, high = (table.loc[used, f"width{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    low = np.where(low > 0, low, width)
    points(axes, index, size[used], width, low, high, linestyle="", elinewidth=0.6, markeredgewidth=0)
    axes.plot(
        size[below], table.loc[below, "width_high"], color=color_of(index), marker=DOWN, linestyle="", markersize=5,
        alpha=0.7,
    )  # fmt: skip


def make(trials: pd.DataFrame, context: Context, *, tolerance: float, link: str = "auto") -> Drawn:
    """Both figures, the thresholds and the laws."""
    fits = fit_all(trials, tolerance, link)
    figures = {"scaling": scaling(trials, fits=fits), "collapse": collapse(trials, fits=fits)}
    tables = {"n50": threshold_table(fits.thresholds, fits.by), "laws": law_table(fits.laws, fits.series)}
    remarks = [*unresolved_lines(fits.thresholds), *([LEVELS] if len(fits.laws) else [])]
    return Drawn(figures, tables, {"level": 0.95, "by": fits.by}, remarks)
