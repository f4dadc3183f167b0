"""Relative error against the number of measurements where recovery is not exact: noisy labels, spectral tails.

``python -m analysis.risk SWEEP [--reference min_nuclear_norm] [--store S] [--out DIR]``

The typical error is the median over problems, with the exact distribution-free interval of a median: near n = d d' the
error's mean is infinite. Methods are compared by the median over problems of the ratio of their errors. A diverged
replicate counts as an infinite error, which medians bear.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from flatdist.figures.command import Request, path_lines, run_command
from flatdist.figures.risk_figure import ratio_figure, risk_figure
from flatdist.figures.style import save_figure
from flatdist.fits.grouping import group_rows, name_nulls, panel_columns, series_columns
from flatdist.fits.risk import (
    _LEVEL,
    error_ratios,
    ratios_by_regime,
    risk_table,
)
from flatdist.fits.risk_predictions import prediction_curves, quantile_test


def draw(request: Request, trials: pd.DataFrame) -> list[str]:
    """Tables, figures, and the lines to print."""
    reference = request.options.reference
    table, ratios = risk_table(trials), error_ratios(trials, reference)
    pooled = ratios_by_regime(trials, reference)
    series, panels = series_columns(trials), panel_columns(trials)
    curves = prediction_curves(trials, panels)
    origin = request.origin(trials, {"level": _LEVEL, "reference": reference})
    paths = save_figure(risk_figure(table, curves, series, panels), request.out, "risk", origin)
    paths += save_figure(ratio_figure(ratios, series, panels, reference), request.out, "risk_ratios", origin)
    for name, frame in (("risk", table), ("risk_ratios", ratios), ("risk_ratios_by_regime", pooled)):
        path = paths[0].with_stem(paths[0].stem.replace("risk", name, 1)).with_suffix(".csv")
        temporary = path.with_suffix(".csv.partial")
        frame.to_csv(temporary, index=False, float_format="%.6g")
        temporary.replace(path)
        paths.append(path)
    shown = pooled.assign(**name_nulls(pooled, [*series, *panels]))
    lines = shown.to_string(index=False, float_format="{:.3g}".format).splitlines()
    return [
        f"error over that of {reference}",
        *lines,
        "",
        *quantile_test(trials),
        *_agreement(table),
        *path_lines(paths),
    ]


def _agreement(table: pd.DataFrame) -> list[str]:
    """How far the measured medians are from the predicted ones, a line for each method that has predictions."""
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


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", default="min_nuclear_norm", help="method to compare with")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command("risk", "Relative error against n where recovery is not exact.", draw, arguments, _arguments)
