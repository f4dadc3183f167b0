"""Methods side by side on the same problems: paired differences of success, with intervals.

``python -m analysis.paired SWEEP [--reference min_nuclear_norm] [--store S] [--out DIR] [--tolerance E]``

A replicate's problem depends on the problem's fields and the replicate's number only, so two methods' trials of one
replicate are a pair, and what the problems share cancels in the difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.layout import describe, keys_of, styled
from flatdist.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    color_of,
    marker_of,
    method_label,
    plain_ticks,
    save_figure,
    themed,
)
from flatdist.fits.grouping import (
    matching,
    name_nulls,
    panel_columns,
    series_columns,
)
from flatdist.fits.paired import (
    mean_differences,
    paired_differences,
)
from flatdist.fits.success import resolve_tolerance

_PANELS_IN_ONE_COLUMN = 4


def paired_figure(differences: pd.DataFrame, series: Sequence[str], panels: Sequence[str], reference: str) -> Figure:
    """The difference against n: a panel for each problem, a colour for each method."""
    panel_keys, series_keys = keys_of(differences, panels), keys_of(differences, series)
    columns = 1 if len(panel_keys) <= _PANELS_IN_ONE_COLUMN else 2
    rows = -(-len(panel_keys) // columns)
    with themed():
        size = (COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, 1.3 * rows + 0.5 + 0.13 * len(series_keys))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, key in zip(grid.flat, panel_keys, strict=False):
            mine = matching(differences, key)
            for index, name in styled(series_keys):
                table = matching(mine, name).sort_values("n")
                below = table["difference"] - table["difference_low"]
                above = table["difference_high"] - table["difference"]
                axes.errorbar(
                    table["n"].to_numpy(dtype=float) * (1.0 + 0.006 * index), table["difference"],
                    yerr=[below, above], color=color_of(index), marker=marker_of(index), elinewidth=0.6,
                )  # fmt: skip
            axes.axhline(0.0, color="#222222", linewidth=0.6, zorder=1)
            axes.set_xscale("log")
            plain_ticks(axes.xaxis, float(mine["n"].min()), float(mine["n"].max()))
            pairs = sorted(set(mine["pairs"]))
            many = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]}-{pairs[-1]}"
            axes.set_title(f"{describe(key)}   ({many} pairs per point)", loc="left", pad=3)
            sns.despine(ax=axes)
        for axes in grid.flat[len(panel_keys) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("difference in success")
        for axes in grid.flat[max(len(panel_keys) - columns, 0) : len(panel_keys)]:
            axes.set_xlabel("measurements $n$")
        handles = [
            Line2D([], [], color=color_of(index), marker=marker_of(index), label=describe(name))
            for index, name in styled(series_keys)
        ]
        figure.legend(
            handles=handles,
            loc="outside upper center",
            ncols=2,
            title=f"minus {method_label(reference)}, same problems",
            title_fontsize=6.5,
        )
    return figure


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Compare, draw and save; returns the lines to print."""
    reference = request.options.reference
    tolerance = resolve_tolerance(trials, request.tolerance)
    differences = paired_differences(trials, reference, tolerance)
    series, panels = series_columns(trials), panel_columns(trials)
    figure = paired_figure(differences, series, panels, reference)
    settings = {"tolerance": tolerance, "reference": reference, "level": 0.95}
    paths = save_figure(figure, request.out, "paired", request.origin(trials, settings))
    table = mean_differences(differences, [*series, *panels])
    shown = table.assign(**name_nulls(table, [*series, *panels]))
    return [*shown.to_string(index=False, float_format="{:.3g}".format).splitlines(), "", *path_lines(paths)]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", default="min_nuclear_norm", help="method to compare with")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("paired", "Paired differences of success between methods.", draw, arguments, _arguments)
