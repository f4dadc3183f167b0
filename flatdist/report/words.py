"""Numbers and names as a page shows them: plain text, and no more digits than mean something."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from flatdist.figures.layout import describe

ABSENT = "-"
TIMES, PRIME = "\N{MULTIPLICATION SIGN}", "\N{PRIME}"
PREDICTIONS: Mapping[str, str] = {
    "dof": f"degrees of freedom r(d + d{PRIME} - r)",
    "rsum": f"r(d + d{PRIME})",
    "statdim": "statistical dimension",
    "entries": f"all entries d d{PRIME}",
}
"""What a page calls the predictions, and laws, that figures draw."""


def plain(text: str) -> str:
    """Mathtext as plain text: ``$d' = 3$`` becomes d′ = 3."""
    return re.sub(r"\$([^$]*)\$", lambda found: _without_markup(found[1]), text)


def _without_markup(math_text: str) -> str:
    text = math_text.replace("\\times", TIMES).replace("\\,", " ").replace("'", PRIME)
    return re.sub(r"[{}_\\]", "", text)


def name_of(key: Mapping[str, Any]) -> str:
    """A group's key in words, n among them where it has one."""
    words = plain(describe({name: value for name, value in key.items() if name != "n"}))
    return ", ".join(part for part in (words, f"n = {number(key['n'])}" if "n" in key else "") if part) or "all trials"


def number(value: Any, digits: int = 3) -> str:
    """A number with so many digits that count; whole numbers whole."""
    if value is None or pd.isna(value):
        return ABSENT
    value = float(value)
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == math.floor(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    if 10.0**digits <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def with_limits(value: Any, low: Any, high: Any, digits: int = 3) -> str:
    """An estimate and its interval."""
    return ABSENT if pd.isna(value) else f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def percent(share: float) -> str:
    """A share of one."""
    return ABSENT if pd.isna(share) else f"{100.0 * share:.0f} %"


def counted(count: int, noun: str) -> str:
    """A number of things: 1 cell, 2 cells."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if pd.isna(seconds):
        return ABSENT
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2.0 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"


def moment(when: Any) -> str:
    """A time as the store keeps it, to the second, in UTC."""
    return ABSENT if when is None or pd.isna(when) else f"{pd.Timestamp(when):%Y-%m-%d %H:%M:%S} UTC"


def threshold_words(fit: Mapping[str, Any] | pd.Series) -> str:
    """What is known of n50 in one group."""
    kind = fit["censored"]
    if kind == "right":
        return f"above {number(fit['n_max'])}"
    if kind == "left":
        return f"below {number(fit['n_min'])}"
    if kind == "unresolved":
        return "unresolved"
    return with_limits(fit["n50"], fit["n50_low"], fit["n50_high"])
