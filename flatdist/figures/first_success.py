"""On nested problems every replicate has its own N, the first n at which it succeeds: is E[N] = delta + 1/2?

``python -m analysis.first_success SWEEP [--reference min_nuclear_norm] [--store S] [--out DIR] [--tolerance E]``

For nuclear-norm minimisation with Gaussian measurements conic kinematics says so exactly, with delta the statistical
dimension; other methods' N on the same measurement streams show by how much they miss it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.origin import file_stem
from flatdist.figures.style import save_figure
from flatdist.fits.first_success import (
    SHAPE,
    agreement_lines,
    mean_first_success,
    paired_first_success,
)
from flatdist.fits.grouping import configuration_columns, name_nulls, series_columns
from flatdist.fits.success import require_columns, resolve_tolerance


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Average, compare, draw and save; returns the lines to print."""
    from flatdist.figures.first_success_figure import first_success_figure

    require_columns(trials, SHAPE, "needed columns")
    tolerance = resolve_tolerance(trials, request.tolerance)
    problem = [name for name in configuration_columns(trials, but=SHAPE) if name in PROBLEM_FIELDS]
    series = [*series_columns(trials), *problem]
    by = [*series, *SHAPE]
    means = mean_first_success(trials, by, tolerance)
    reference = request.options.reference
    pairs = paired_first_success(trials, by, reference, tolerance) if trials["method"].nunique() > 1 else None
    settings = {"tolerance": tolerance, "level": 0.95, "by": by, "reference": reference}
    figure = first_success_figure(means, pairs, series, reference)
    paths = save_figure(figure, request.out, "first_success", request.origin(trials, settings))
    table = means if pairs is None else means.merge(pairs.drop(columns="standard_error"), on=by, how="left")
    path = request.out / f"{file_stem('first_success', request.where)}.csv"
    table.to_csv(path, index=False, float_format="%.6g")
    shown = pd.concat([name_nulls(means, by), means.drop(columns=by)], axis=1)
    lines = shown.to_string(index=False, float_format="{:.2f}".format).splitlines()
    if pairs is not None:
        paired = pd.concat([name_nulls(pairs, by), pairs.drop(columns=by)], axis=1)
        lines += ["", f"N minus that of {reference}, same replicates:"]
        lines += paired.to_string(index=False, float_format="{:.2f}".format).splitlines()
    return [*lines, "", *agreement_lines(means, series), "", *path_lines([*paths, path])]


def _arguments(parser: argparse.ArgumentParser) -> None:
    text = "method whose N the others' are compared with (default: min_nuclear_norm)"
    parser.add_argument("--reference", default="min_nuclear_norm", help=text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    description = "Each replicate's first successful n on nested problems, and its mean beside delta + 1/2."
    return run_command("first_success", description, draw, arguments, _arguments)
