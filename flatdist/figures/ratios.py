"""Thresholds over a prediction or over another method's, shape by shape: how far is n50 from where it should be?

``python -m analysis.ratios SWEEP [--over statdim|METHOD] [--margin M] [--store S] [--out DIR] [--tolerance E]``

Over a prediction the interval is n50's own. Over a method both thresholds are uncertain; their intervals are combined
as if independent, which is too careful where the methods were run on the same problems.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

from flatdist.errors import FitError
from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.layout import keys_of
from flatdist.figures.origin import file_stem
from flatdist.figures.style import save_figure
from flatdist.fits.grouping import matching, name_nulls
from flatdist.fits.ratios import MARGIN, ratios, series_of, summarise
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import require_columns, resolve_tolerance
from flatdist.fits.threshold import fit_thresholds


def panels_of(table: pd.DataFrame) -> list[tuple[int | None, pd.DataFrame]]:
    """A part of the table for each depth, with the methods that have none in every part."""
    depths = [key["depth"] for key in keys_of(table, ["depth"])] if "depth" in table else []
    known = [depth for depth in depths if depth is not None]
    if not known:
        return [(None, table)]
    without = matching(table, {"depth": None})
    return [(int(depth), pd.concat([without, matching(table, {"depth": depth})])) for depth in known]


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Fit, draw and save; returns the lines to print."""
    from flatdist.figures.ratios_figure import ratios_figure

    require_columns(trials, SHAPE, "needed columns")
    over, margin = request.options.over, request.options.margin
    if not 0.0 < margin < 1.0:
        raise FitError(f"margin={margin!r} is not a relative distance; allowed: between 0 and 1, such as {MARGIN}")
    tolerance = resolve_tolerance(trials, request.tolerance)
    series = series_of(trials)
    by = list(dict.fromkeys([*series, *SHAPE]))
    thresholds = fit_thresholds(trials, by=by, tolerance=tolerance, link=request.link)
    table = ratios(thresholds, over)
    settings = {"tolerance": tolerance, "link": request.link, "level": 0.95, "by": by, "over": over, "margin": margin}
    paths = save_figure(
        ratios_figure(table, series, margin), request.out, f"ratios_{over}", request.origin(trials, settings)
    )
    path = request.out / f"{file_stem(f'ratios_{over}', request.where)}.csv"
    table.to_csv(path, index=False, float_format="%.6g")
    return [*_lines(table, series, margin), "", *path_lines([*paths, path])]


def _lines(table: pd.DataFrame, series: Sequence[str], margin: float) -> list[str]:
    summary = summarise(table, series, margin)
    shown = pd.concat([name_nulls(summary, series), summary.drop(columns=list(series))], axis=1)
    shown = shown.rename(columns={"within": f"within {100 * margin:g} %"})
    return shown.to_string(index=False, float_format="{:.3f}".format).splitlines()


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--over", default="statdim", help="a prediction's name, or a method (default: statdim)")
    parser.add_argument("--margin", type=float, default=MARGIN, help="relative distance that is counted (default: 0.1)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("ratios", "n50 over a prediction or another method's n50.", draw, arguments, _arguments)
