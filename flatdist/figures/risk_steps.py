"""Relative error against the number of steps: what stopping early is worth where labels are noisy.

``python -m analysis.risk_steps SWEEP [--store S] [--out DIR]``
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flatdist.errors import FitError
from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.risk_figure import steps_figure
from flatdist.figures.style import save_figure
from flatdist.fits.grouping import name_nulls, panel_columns, series_columns
from flatdist.fits.risk import risk_table

_SHOWN = ("error", "error_low", "error_high", "misfit", "replicates", "diverged")


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


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Table, figure, and the lines to print."""
    table, series, panels = steps_table(trials)
    origin = request.origin(trials, {"level": 0.95})
    paths = save_figure(steps_figure(table, series, panels), request.out, "risk_steps", origin)
    path = paths[0].with_suffix(".csv")
    temporary = path.with_suffix(".csv.partial")
    table.to_csv(temporary, index=False, float_format="%.6g")
    temporary.replace(path)
    shown = table.assign(**name_nulls(table, [*series, "steps"]))[[*series, *panels, "steps", *_SHOWN]]
    return [*shown.to_string(index=False, float_format="{:.3g}".format).splitlines(), "", *path_lines([*paths, path])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("risk_steps", "Relative error against the number of steps.", draw, arguments)
