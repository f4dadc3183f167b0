"""The pictures of ``analysis.scaling``: n50 against each law with residuals, and the collapse of the transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.command import Request, path_lines, run_command, table_lines
from flatdist.figures.layout import describe, keys_of, styled
from flatdist.figures.style import COLUMN_WIDTH, PAGE_WIDTH, color_of, marker_of, plain_ticks, save_figure, themed
from flatdist.fits.collapse import BELOW, RESOLVED, Fits, fit_all, master_curve, unresolved_lines, width_table
from flatdist.fits.grouping import matching, name_nulls
from flatdist.fits.scaling import LAWS
from flatdist.theory import prediction

_SHAPE = ["d_out", "d_in", "rank"]


def scaling_figure(thresholds: pd.DataFrame, laws: pd.DataFrame, series: Sequence[str]) -> Figure:
    """Measured n50 against each law on log-log axes, and its ratio to the fitted multiple of the law below.

    Args:
        thresholds: from :func:`flatdist.fits.threshold.fit_thresholds`, with the shapes.
        laws: from :func:`analysis.fit_scaling`, grouped by ``series``.
        series: columns that make a colour.
    """
    keys = keys_of(laws, series)
    with themed():
        figure = Figure(figsize=(PAGE_WIDTH, 3.3 + 0.13 * (len(keys) // 3)), layout="constrained")
        grid = figure.subplots(2, len(LAWS), sharex="col", sharey="row", height_ratios=(2, 1))
        for column, law in enumerate(LAWS):
            upper, lower = grid[:, column]
            for axes in (upper, lower):
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.minorticks_off()
                sns.despine(ax=axes)
            for index, key in styled(keys):
                fit = matching(laws[laws["law"] == law], key).iloc[0]
                _points(upper, lower, matching(thresholds, key), law, float(fit["ratio"]), index)
            single = _only_value(thresholds, law)
            low, high = upper.get_xlim() if single is None else (single / 1.5, single * 1.5)
            line = np.array([low, high])
            upper.plot(line, line, color="#222222", linewidth=0.8, zorder=1)
            for index, key in styled(keys) if single is None else ():
                ratio = float(matching(laws[laws["law"] == law], key)["ratio"].iloc[0])
                upper.plot(line, ratio * line, "--", color=color_of(index), linewidth=0.8, zorder=1)
            upper.set_xlim(low, high)
            if single is None:
                plain_ticks(upper.xaxis, low, high, 5)
            else:
                upper.set_xticks([single], [f"{single:.4g}"])
            lower.axhline(1.0, color="#222222", linewidth=0.8, zorder=1)
            lower.set_xlabel(prediction(law).label)
            verdicts = laws[laws["law"] == law]["verdict"]
            upper.set_title(_title(verdicts, keys), pad=3)
        grid[0, 0].set_ylabel("measured $n_{50}$")
        grid[1, 0].set_ylabel("$n_{50}$ / fit")
        bounds = thresholds[["n50", "n50_low", "n50_high"]].to_numpy(dtype=float)
        bounds = bounds[np.isfinite(bounds) & (bounds > 0)]
        grid[0, 0].set_ylim(bounds.min() / 1.15, bounds.max() * 1.15)
        plain_ticks(grid[0, 0].yaxis, bounds.min(), bounds.max())
        _ratio_ticks(grid[1, 0])
        handles = [
            Line2D([], [], color=color_of(i), marker=marker_of(i), linestyle="", label=describe(key) or "all")
            for i, key in styled(keys)
        ]
        handles.append(Line2D([], [], color="#222222", linewidth=0.8, label="$n_{50}$ = law; dashed: fitted multiple"))
        if thresholds["censored"].isin(["left", "right"]).any():
            handles.append(Line2D([], [], color="#777777", marker="$\\uparrow$", linestyle="", label="censored: bound"))
        figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2)
    return figure


def _only_value(thresholds: pd.DataFrame, law: str) -> float | None:
    """The law's value where all shapes have the same."""
    value = prediction(law).value
    shapes = thresholds[_SHAPE].drop_duplicates().itertuples(index=False)
    values = {round(float(value(int(a), int(b), int(r))), 9) for a, b, r in shapes}
    return values.pop() if len(values) == 1 else None


def _title(verdicts: pd.Series, keys: Sequence[Mapping[str, Any]]) -> str:
    """The verdict of one series by its name, or how many of several agree."""
    counts = verdicts.value_counts()
    if len(keys) == 1:
        return f"{describe(keys[0]) or 'all'}:\n{counts.index[0]}"
    if len(counts) == 1:
        return f"all {len(verdicts)}: {counts.index[0]}"
    return f"consistent in {int(counts.get('consistent', 0))} of {len(verdicts)}"


def _points(upper: Axes, lower: Axes, thresholds: pd.DataFrame, law: str, ratio: float, index: int) -> None:
    """Points with their intervals; censored ones as arrows at their bound."""
    value = prediction(law).value
    for _, fit in thresholds.iterrows():
        x = value(int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"]))
        if fit["censored"] in ("none", "interval"):
            y = fit["n50"]
            low, high = fit["n50_low"], fit["n50_high"]
            low = low if low > 0 else y
            high = high if np.isfinite(high) else y
            for axes, scale in ((upper, 1.0), (lower, ratio * x)):
                axes.errorbar(
                    [x], [y / scale], yerr=[[(y - low) / scale], [(high - y) / scale]], color=color_of(index),
                    marker=marker_of(index), elinewidth=0.7, markeredgewidth=0.2, markeredgecolor="white", zorder=3,
                )  # fmt: skip
        elif fit["censored"] in ("left", "right"):
            bound = fit["n50_low"] if fit["censored"] == "right" else fit["n50_high"]
            marker = "$\\uparrow$" if fit["censored"] == "right" else "$\\downarrow$"
            for axes, scale in ((upper, 1.0), (lower, ratio * x)):
                axes.plot([x], [bound / scale], color=color_of(index), marker=marker, markersize=5, zorder=2)


def _ratio_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    fine = (0.9, 0.95, 1.0, 1.05, 1.1)
    ticks = [
        tick for tick in (fine if high < 1.2 else (0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)) if low <= tick <= high
    ]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def collapse_figure(
    collapsed: pd.DataFrame, thresholds: pd.DataFrame, widths: pd.DataFrame, series: Sequence[str]
) -> Figure:
    """Success on each transition's own scale, and the widths against sqrt(d d')."""
    keys = keys_of(thresholds, series)
    with themed():
        bounds = bool((width_table(thresholds)["width_censored"] == BELOW).any())
        figure = Figure(figsize=(COLUMN_WIDTH, 2.2 + 0.14 * (len(keys) + 1 + bounds)), layout="constrained")
        left, right = figure.subplots(1, 2)
        z = np.linspace(-2.5, 2.5, 200)
        left.plot(z, master_curve(z), color="#222222", linewidth=0.8, zorder=1)
        for index, key in styled(keys):
            mine = matching(collapsed, key)
            left.plot(
                mine["z"],
                mine["rate"],
                marker_of(index),
                color=color_of(index),
                alpha=0.55,
                markeredgewidth=0,
                zorder=2,
            )
            _widths(right, matching(thresholds, key), index)
            fitted = matching(widths, key) if len(widths) else widths
            if len(fitted):
                size = np.geomspace(*_range(thresholds), 20)
                law = float(fitted["coefficient"].iloc[0]) * size ** (2 * float(fitted["exponent"].iloc[0]))
                right.plot(size, law, color=color_of(index), linewidth=0.8)
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
        bottom, top = right.get_ylim()
        plain_ticks(right.yaxis, bottom, top, 6)
        for axes in (left, right):
            sns.despine(ax=axes)
        figure.legend(handles=_collapse_handles(keys, widths, bounds), loc="outside upper center", ncols=1)
    return figure


def _range(thresholds: pd.DataFrame) -> tuple[float, float]:
    size = np.sqrt(thresholds["d_out"].astype(float) * thresholds["d_in"].astype(float))
    return float(size.min()), float(size.max())


def _widths(axes: Axes, thresholds: pd.DataFrame, index: int) -> None:
    """Resolved widths with their intervals; of the others the bound, with an arrow."""
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
    handles = []
    if bounds:
        label = "narrower than the measured n resolve: bound"
        handles.append(Line2D([], [], color="#777777", marker="$\\downarrow$", linestyle="", label=label))
    for index, key in styled(keys):
        label = describe(key) or "all"
        fitted = matching(widths, key) if len(widths) else widths
        if len(fitted):
            row = fitted.iloc[0]
            label += f": width $\\propto (d\\,d')^{{{row['exponent']:.2f}}}$"
            label += f" [{row['exponent_low']:.2f}, {row['exponent_high']:.2f}]"
        handles.append(Line2D([], [], color=color_of(index), marker=marker_of(index), linestyle="", label=label))
    return handles


def draw_fits(request: Request, trials: pd.DataFrame, fits: Fits) -> list[Path]:
    """Draw and save both pictures; returns their paths."""
    settings = {"tolerance": fits.tolerance, "link": request.link, "level": 0.95, "by": fits.by}
    origin = request.origin(trials, settings)
    scaling = scaling_figure(fits.thresholds, fits.laws, fits.series)
    collapse = collapse_figure(fits.collapsed, fits.thresholds, fits.widths, fits.series)
    paths = save_figure(scaling, request.out, "scaling", origin)
    return paths + save_figure(collapse, request.out, "collapse", origin)


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    fits = fit_all(trials, request.tolerance, request.link)
    paths = draw_fits(request, trials, fits)
    thresholds, laws = table_lines(fits.thresholds, fits.by), _law_lines(fits.laws, fits.series)
    return [*thresholds, "", *laws, *unresolved_lines(fits.thresholds), "", *path_lines(paths)]


def _law_lines(laws: pd.DataFrame, series: Sequence[str]) -> list[str]:
    shown = name_nulls(laws, [*series, "law"])
    for name in ("exponent", "ratio"):
        shown[name] = [_with_limits(*row) for row in laws[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)]
    shown["scatter"] = laws["ratio_discrepancy"].map(lambda value: f"{100 * value:.1f} %")
    shown["equivalence"] = laws["equivalence"].fillna("-")
    shown["verdict"] = laws["verdict"]
    return shown.astype(object).where(shown.notna(), "-").to_string(index=False).splitlines()


def _with_limits(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(high) else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command(
        "scaling", "n50 against each law, with verdicts, and the transition's collapse.", draw, arguments
    )
