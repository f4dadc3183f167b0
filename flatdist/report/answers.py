"""The results in sentences: first what is missing, then one line per method and shape."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from flatdist.figures.panels import DELTA, TIMES
from flatdist.figures.style import method_label
from flatdist.figures.words import PREDICTION_NAMES, counted, name_of, number, percent, threshold_words
from flatdist.fits.grouping import SHAPE, group_rows, matching, predicted
from flatdist.fits.scaling import Fits
from flatdist.report.material import Material
from flatdist.threshold.interval import POOR_FIT

MOST_SERIES, MOST_LINES, MOST_BEST = 6, 6, 6
MARGIN = 0.03  # n50 and delta are called equal where the interval of their ratio lies within it


def banner(material: Material) -> list[str]:
    """Sentences on what is still missing; none if the sweep is complete."""
    if not material.sweep.cells:
        return ["The sweep has no cells yet: it chooses its first ones when it is run."]
    ids = material.cells["cell_id"]
    today = zip(material.cell_rows, material.trials["replicate"], strict=True)
    done = material.done | {(ids[row], replicate) for row, replicate in today if row >= 0}  # older numerics count
    missing, wanted = Counter[str](), 0
    for cell in material.sweep.cells:
        keys = [(cell.cell_id, replicate) for replicate in material.wanted(cell.cell_id)]
        wanted += len(keys)
        missing[cell.method] += sum(key not in done for key in keys)
    if not missing.total():
        return []
    by = ", ".join(f"{method_label(name)} {count:,}" for name, count in missing.items() if count)
    run = f"flatdist sweep {material.settings.named} --store {material.settings.store}"
    count = f"{missing.total():,} of {wanted:,} replicates are missing ({by})"
    words = [f"{count}. Every number below is preliminary; `{run}` runs the rest."]
    absent = [method_label(name) for name in missing if name not in set(material.trials["method"])]
    if absent and len(material.judged):
        words.append(
            f"The store has no results of {', '.join(absent)} yet: the tolerance {material.tolerance:g} is the one "
            "that all methods of the sweep share."
        )
    return words


def answers(material: Material) -> list[dict[str, Any]]:
    """For every series: a sentence, one line per shape, its law, and caveats; none without a transition."""
    if not material.over_n:
        return []
    rows = []
    fits = material.thresholds.assign(delta=predicted("statdim", material.thresholds))
    for index, key in enumerate(material.series_keys[:MOST_SERIES]):
        mine = matching(fits, key).sort_values(list(SHAPE))
        lines = [_line(fit, material) for fit in mine.to_dict("records")]
        rows.append(
            {
                "series": index,
                "name": name_of(key),
                "head": _head(lines),
                "lines": lines[:MOST_LINES],
                "more": len(lines) - MOST_LINES,
                "law": law_words(key, material.fits),
                "beware": _caveats(matching(material.labelled, key), mine),
            }
        )
    return rows


def _head(lines: list[dict[str, Any]]) -> str:
    ratios = [line["ratio_mid"] for line in lines if line["ratio_mid"] is not None]
    if not ratios:
        return "The measured n do not bracket n50."
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    reach = f"n50 is {low} {DELTA}" if low == high else f"n50 is {low} to {high} {DELTA}"
    rest = len(lines) - len(ratios)
    return reach + (f"; for {rest} of {len(lines)} problems the measured n do not bracket it." if rest else ".")


def _line(fit: Mapping[Any, Any], material: Material) -> dict[str, Any]:
    kind, delta = fit["censored"], float(fit["delta"])
    where = _problem({name: fit[name] for name in material.panels if name in fit})
    line: dict[str, Any] = {"where": where, "n50": threshold_words(fit), "ratio": "", "place": "", "ratio_mid": None}
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
    verdicts = {PREDICTION_NAMES[law]: verdict for law, verdict in zip(laws["law"], laws["verdict"], strict=True)}
    fitting = [name for name, verdict in verdicts.items() if verdict == "consistent"]
    excluded = [name for name, verdict in verdicts.items() if verdict.startswith("excluded")]
    parts = [f"consistent with {' and '.join(fitting)}"] if fitting else []
    parts += [f"excludes {', '.join(excluded)} at 95 %"] if excluded else []
    shapes = int(laws["n_shapes"].max())
    few = f"undecided: {counted(shapes, 'shape')} measured, and telling laws apart takes four"
    return "; ".join(parts) or (few if shapes < 4 else "undecided: no law is excluded or favoured by these thresholds")


def _caveats(trials: pd.DataFrame, fits: pd.DataFrame) -> str:
    """Remarks on diverged and unconverged replicates and on poor fits; empty if there are none."""
    counts = {"diverged": int(trials["diverged"].sum()), "did not converge": int(trials["unconverged"].sum())}
    words = [f"{count:,} of {len(trials):,} replicates {what}" for what, count in counts.items() if count]
    if "fit_p" in fits and (bad := int((pd.to_numeric(fits["fit_p"]) < POOR_FIT).sum())):
        words.append(f"the success curve fits poorly at {counted(bad, 'problem')} (p < {POOR_FIT})")
    return "; ".join(words)


def scale_of(rows: list[dict[str, Any]]) -> Callable[[float], str]:
    """Where a value of n50 / delta lies on the answers' small scales, which are 120 wide and show 1."""
    ends = [line[end] for row in rows for line in row["lines"] if line["ratio_mid"] is not None
            for end in ("ratio_low", "ratio_high") if 0 < line[end] < np.inf]  # fmt: skip
    low, high = min([0.8, *ends]), max([1.25, *ends])
    return lambda ratio: f"{4 + 112 * math.log(np.clip(ratio, low, high) / low) / math.log(high / low):.1f}"


def best(material: Material) -> list[dict[str, str]]:
    """Without a transition: the configurations that recover most often, and how closely."""
    if material.judged.empty or material.over_n:
        return []
    rows = []
    for key, group in group_rows(material.labelled, [name for name in material.varying if name in material.labelled]):
        error = pd.to_numeric(group.loc[~group["diverged"], "relative_error"]).median()
        rows.append((group["success"].mean(), np.inf if pd.isna(error) else error, key, group))
    rows.sort(key=lambda row: (-row[0], row[1]))
    return [
        {
            "name": name_of(key),
            "success": f"{int(group['success'].sum())}/{len(group)} ({percent(share)})",
            "error": number(error if np.isfinite(error) else None),
        }
        for share, error, key, group in rows[:MOST_BEST]
    ]
