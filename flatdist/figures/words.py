"""Numbers, names and tables as people read them, in the terminal and on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flatdist.figures.panels import DELTA, PRIME, describe, plain
from flatdist.fits.grouping import SHAPE, as_value, group_rows, name_nulls, predicted
from flatdist.fits.threshold import threshold_remark
from flatdist.methods import takes_steps

ABSENT = "-"
MANY_UNCONVERGED = 0.1  # share of a method's replicates
PREDICTION_NAMES: Mapping[str, str] = {
    "dof": f"degrees of freedom r(d + d{PRIME} - r)",
    "rsum": f"r(d + d{PRIME})",
    "statdim": "statistical dimension",
    "entries": f"all entries d d{PRIME}",
}
"""What text calls the predictions that figures draw."""


def name_of(key: Mapping[Any, Any]) -> str:
    """A group's key in words, n among them where it has one.

    >>> name_of({"method": "min_nuclear_norm", "rank": 2, "n": 40})
    'min nuclear norm, r = 2, n = 40'
    """
    words = [plain(describe({name: value for name, value in key.items() if name != "n"}))]
    words += [f"n = {number(key['n'])}"] if "n" in key else []
    return ", ".join(filter(None, words)) or "all trials"


def number(value: Any, digits: int = 3) -> str:
    """Format with ``digits`` significant digits; whole numbers unchanged.

    >>> number(0.012345), number(144.0), number(float("inf"))
    ('0.0123', '144', '∞')
    """
    if value is None or pd.isna(value):
        return ABSENT
    value = float(value)
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 1e6 and (value == math.floor(value) or abs(value) >= 10.0**digits):
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def with_limits(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    """An estimate and its interval."""
    if pd.isna(value) and not (pd.notna(low) and pd.notna(high) and (low > 0 or math.isfinite(high))):
        return ABSENT
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def percent(share: float) -> str:
    """A share of one, in percent."""
    return ABSENT if pd.isna(share) else f"{100.0 * share:.0f} %"


def counted(count: int, noun: str) -> str:
    """A number of things: 1 cell, 2 cells."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """A time span in the largest unit that gives at least 2."""
    if pd.isna(seconds):
        return ABSENT
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2.0 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"


def moment(when: Any) -> str:
    """A time to the second, in UTC."""
    return ABSENT if when is None or pd.isna(when) else f"{pd.Timestamp(when):%Y-%m-%d %H:%M:%S} UTC"


def threshold_words(fit: Mapping[Any, Any] | pd.Series) -> str:
    """n50 of one group in words."""
    kind = fit["censored"]
    if kind == "right":
        return f"above {number(fit['n_max'])}"
    if kind == "left":
        return f"below {number(fit['n_min'])}"
    return "unresolved" if kind == "unresolved" else with_limits(fit["n50"], fit["n50_low"], fit["n50_high"])


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text with three digits: estimate and limits in one column, nulls as the words they stand for.

    >>> shown(pd.DataFrame({"rank": [1], "n50": [41.26], "n50_low": [37.8], "n50_high": [44.61]})).to_dict("records")
    [{'rank': '1', 'n50': '41.3 [37.8, 44.6]'}]
    """
    names = name_nulls(table, [str(name) for name in table])
    columns: dict[str, list[str]] = {}
    for name in map(str, table):
        if re.sub("_(low|high)$", "", name) not in names.columns.drop(name):
            limits = {f"{name}_low", f"{name}_high"} <= set(table)
            columns[name] = intervals(table, name) if limits else [cell_text(value) for value in names[name]]
    return pd.DataFrame(columns, index=table.index)


def intervals(table: pd.DataFrame, name: str) -> list[str]:
    """A column of estimates with the limits beside it."""
    return [with_limits(*row) for row in table[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)]


def cell_text(value: Any) -> str:
    """One entry of a table."""
    value = as_value(value)
    if isinstance(value, bool) or value is None:
        return ABSENT if value is None else "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return number(value, 4) if isinstance(value, (int, float)) or hasattr(value, "item") else str(value)


def threshold_table(thresholds: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The thresholds as text: n50 with its interval, over the statistical dimension, the transition's width, counts."""
    table = shown(thresholds[list(by)])
    table["n50 [95 %]"] = [threshold_words(fit) for fit in thresholds.to_dict("records")]
    if set(SHAPE) <= set(thresholds):
        table[f"n50 / {DELTA}"] = [number(value) for value in thresholds["n50"] / predicted("statdim", thresholds)]
    table["censored"] = thresholds["censored"]
    widths = thresholds[["transition", "transition_low", "transition_high", "n_spacing"]].to_numpy(dtype=float)
    table["10-90 % width"] = [
        f"< {number(spacing)}" if np.isfinite(spacing) and not width >= spacing else with_limits(width, low, high)
        for width, low, high, spacing in widths
    ]
    for name, title in (("n_replicates", "trials"), ("n_diverged", "diverged"), ("n_unconverged", "not converged")):
        table[title] = thresholds[name].map(number)
    remarks = [threshold_remark(fit) for fit in thresholds.to_dict("records")]
    return table.assign(remark=remarks) if any(remarks) else table


def unfinished(thresholds: pd.DataFrame) -> list[str]:
    """A remark for each method with many replicates that ran out of steps before they converged."""
    lines = []
    for key, group in group_rows(thresholds, ["method"] if "method" in thresholds else []):
        unconverged, total = int(group["n_unconverged"].sum()), int(group["n_replicates"].sum())
        if takes_steps(key.get("method", "")) and unconverged > MANY_UNCONVERGED * total:
            lines.append(
                f"{key['method']}: {unconverged} of {total} replicates ended before they converged (budget_exhausted), "
                "so n50 is that of the budget: raise `steps`"
            )
    return lines


def law_table(laws: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The laws as text: multiple of the law, scatter, exponent, equivalence, verdict."""
    table = shown(laws[[*by, "law"]])
    table["n50 / law [90 %]"] = intervals(laws, "ratio")
    table["scatter"] = [ABSENT if pd.isna(value) else f"{100 * value:.1f} %" for value in laws["ratio_discrepancy"]]
    table["exponent [95 %]"] = intervals(laws, "exponent")
    table["n50 = law"] = [cell_text(value) for value in laws["equivalence"]]
    table["AICc - best"] = [number(value) for value in laws["aicc_difference"]]
    table["shapes"] = [number(value) for value in laws["n_shapes"]]
    table["verdict"] = laws["verdict"]
    return table


def text_lines(table: pd.DataFrame) -> list[str]:
    """A table of text as aligned lines: numbers to the right, words to the left."""
    heads, rows = list(map(str, table)), [list(map(str, row)) for row in table.itertuples(index=False)]
    numeric = [all(re.match(r"^[<>]? ?-?(\d|∞|-$)", row[i]) for row in rows) for i in range(len(heads))]
    widths = [max(len(line[i]) for line in [heads, *rows]) for i in range(len(heads))]

    def line(cells: Iterable[str]) -> str:
        parts = zip(cells, widths, numeric, strict=True)
        return "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in parts).rstrip()

    return [line(heads), *map(line, rows)] if rows else []
