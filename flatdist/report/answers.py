"""The results in sentences: first what is missing, then one line per method and shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from flatdist.figures.panels import DELTA, TIMES
from flatdist.figures.style import method_label
from flatdist.figures.words import PREDICTION_NAMES, counted, name_of, number, percent, threshold_words
from flatdist.fits.grouping import group_rows, matching
from flatdist.fits.scaling import Fits
from flatdist.fits.shapes import SHAPE, predicted
from flatdist.report.material import Material, wanted_replicates
from flatdist.threshold.interval import POOR_FIT

MOST_SERIES, MOST_LINES, MOST_BEST = 6, 6, 6
MARGIN = 0.03  # n50 and delta are called equal where the interval of their ratio lies within it


def banner(material: Material) -> list[str]:
    """Sentences on what is still missing; none if the sweep is complete."""
    done = set(zip(material.trials["cell_id"], material.trials["replicate"], strict=True))
    done |= {  # rows of older numerics count for the cell of today
        (material.cells["cell_id"][row], replicate)
        for row, replicate in zip(material.cell_rows, material.trials["replicate"], strict=True) if row >= 0
    }  # fmt: skip
    missing: dict[str, int] = {}
    wanted = 0
    for cell in material.sweep.cells:
        keys = [(cell.cell_id, replicate) for replicate in wanted_replicates(material.sweep, cell.cell_id)]
        wanted += len(keys)
        missing[cell.method] = missing.get(cell.method, 0) + sum(key not in done for key in keys)
    if not material.sweep.cells:
        return ["The sweep has no cells yet: it chooses its first ones when it is run."]
    if not sum(missing.values()):
        return []
    by = ", ".join(f"{method_label(name)} {count:,}" for name, count in missing.items() if count)
    run = f"flatdist sweep {material.settings.named} --store {material.settings.store}"
    count = f"{sum(missing.values()):,} of {wanted:,} replicates are missing ({by})"
    words = [f"{count}. Every number below is preliminary; `{run}` runs the rest."]
    absent = [method_label(name) for name in missing if name not in set(material.trials["method"])]
    if absent and len(material.judged):
        words.append(
            f"The store has no results of {', '.join(absent)} yet: the tolerance {material.tolerance:g} is the one "
            "that all methods of the sweep share."
        )
    return words


def answers(material: Material) -> list[dict[str, Any]]:
    """For every series: a sentence, one line per shape, its law, and caveats."""
    rows = []
    fits = material.thresholds.assign(delta=predicted("statdim", material.thresholds))
    for index, key in enumerate(material.series_keys[:MOST_SERIES]):
        mine = matching(fits, key).sort_values(list(SHAPE))
        lines = [_line(fit, material) for fit in mine.to_dict("records")]
        ratios = [line["ratio_mid"] for line in lines if line["ratio_mid"] is not None]
        rows.append(
            {
                "series": index,
                "name": name_of(key),
                "head": _head(ratios, len(lines), material),
                "lines": lines[:MOST_LINES],
                "more": len(lines) - MOST_LINES,
                "law": law_words(key, material.fits),
                "beware": _caveats(matching(material.labelled, key), mine),
            }
        )
    return rows


def _head(ratios: list[float], shapes: int, material: Material) -> str:
    if not ratios:
        return "The measured n do not bracket n50."
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    reach = f"n50 is {low} {DELTA}" if low == high else f"n50 is {low} to {high} {DELTA}"
    rest = shapes - len(ratios)
    return reach + (f"; for {rest} of {shapes} problems the measured n do not bracket it." if rest else ".")


def _line(fit: Mapping[Any, Any], material: Material) -> dict[str, Any]:
    kind, delta = fit["censored"], float(fit["delta"])
    line: dict[str, Any] = {
        "where": _problem({name: fit[name] for name in material.panels if name in fit}),
        "n50": threshold_words(fit),
        "delta": number(delta),
        "ratio": "",
        "place": "",
        "ratio_mid": None,
    }
    if kind in ("none", "interval"):
        low, mid, high = (float(fit[name]) / delta for name in ("n50_low", "n50", "n50_high"))
        line |= {"ratio": f"{mid:.2f} [{low:.2f}, {high:.2f}]", "place": place_words(low, high)}
        line |= {"ratio_low": low, "ratio_mid": mid, "ratio_high": high}
    elif kind in ("left", "right"):
        sign, bound = ("<", fit["n_min"]) if kind == "left" else (">", fit["n_max"])
        line["ratio"] = f"{sign} {bound / delta:.2f}"
    return line


def _problem(key: dict[str, Any]) -> str:
    """A problem's name, short where both sizes are in it: 8 × 24, r = 1."""
    if not {"d_out", "d_in"} <= set(key):
        return name_of(key)
    size = f"{key.pop('d_out')} {TIMES} {key.pop('d_in')}"
    return f"{size}, {name_of(key)}" if key else size


def place_words(low: float, high: float) -> str:
    """The position of an interval of n50 / delta.

    >>> [place_words(*ends) for ends in ((1.1, 1.2), (0.8, 0.9), (0.99, 1.02), (0.9, 1.2))]
    ['above δ', 'below δ', 'equals δ within 3 %', 'includes δ']
    """
    if low >= 1.0 - MARGIN and high <= 1.0 + MARGIN:
        return f"equals {DELTA} within {100 * MARGIN:g} %"
    return f"below {DELTA}" if high < 1.0 else f"above {DELTA}" if low > 1.0 else f"includes {DELTA}"


def law_words(key: Mapping[Any, Any], fits: Fits | None) -> str:
    """Which laws the thresholds of a series are consistent with, or why none can be identified."""
    laws = matching(fits.laws, key) if fits is not None else pd.DataFrame()
    if laws.empty:
        return "no law was fitted, since the measured n bracket no n50"
    fitting = [PREDICTION_NAMES[law] for law in laws.loc[laws["verdict"] == "consistent", "law"]]
    excluded = [PREDICTION_NAMES[law] for law in laws.loc[laws["verdict"].str.startswith("excluded"), "law"]]
    parts = [f"consistent with {' and '.join(fitting)}"] if fitting else []
    parts += [f"excludes {', '.join(excluded)} at 95 %"] if excluded else []
    shapes = int(laws["n_shapes"].max())
    few = f"undecided: {counted(shapes, 'shape')} measured, and telling laws apart takes four"
    return "; ".join(parts) or (few if shapes < 4 else "undecided: no law is excluded or favoured by these thresholds")


def _caveats(trials: pd.DataFrame, fits: pd.DataFrame) -> str:
    """Remarks on diverged and unconverged replicates and on poor fits; empty if there are none."""
    total = len(trials)
    counts = {"diverged": int(trials["diverged"].sum()), "did not converge": int(trials["unconverged"].sum())}
    words = [f"{count:,} of {total:,} replicates {what}" for what, count in counts.items() if count]
    if "fit_p" in fits:
        bad = int((pd.to_numeric(fits["fit_p"]) < POOR_FIT).sum())
        words += [f"the success curve fits poorly at {counted(bad, 'problem')} (p < {POOR_FIT})"] if bad else []
    return "; ".join(words)


def scale_of(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Range of n50 / delta that the answers' small scales show, 1 always within."""
    ends = [line[end] for row in rows for line in row["lines"] if line["ratio_mid"] is not None
            for end in ("ratio_low", "ratio_high") if 0 < line[end] < np.inf]  # fmt: skip
    return min([0.8, *ends]), max([1.25, *ends])


def best(material: Material) -> list[dict[str, str]]:
    """Without a transition: the configurations that recover most often, and how closely."""
    if material.judged.empty:
        return []
    names = [name for name in material.varying if name in material.labelled]
    rows = []
    for key, group in group_rows(material.labelled, names):
        error = pd.to_numeric(group.loc[~group["diverged"], "relative_error"]).median()
        rows.append((-group["success"].mean(), np.inf if pd.isna(error) else error, key, group))
    rows.sort(key=lambda row: row[:2])
    return [
        {
            "name": name_of(key),
            "success": f"{int(group['success'].sum())}/{len(group)} ({percent(-share)})",
            "error": number(error if np.isfinite(error) else None),
        }
        for share, error, key, group in rows[:MOST_BEST]
    ]
