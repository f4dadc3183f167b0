"""One statement against its measurements: what a check consists of, and how verdicts are reached.

An isometry constant delta is known from below and, if measurements outnumber entries, also from above. A bound that
grows with delta holds if it holds at the lower value, and is violated if it fails at the upper value; in between it is
undecided. A lower value of 1 or more voids the statement's hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

HOLDS = "holds"
VIOLATED = "violated"
UNRESOLVED = "unresolved"
VACUOUS = "vacuous"
NO_POWER = "no power"  # these measurements would have looked the same had the statement been false
VERDICTS = (HOLDS, UNRESOLVED, NO_POWER, VACUOUS, VIOLATED)
ROUNDING = 1e-9  # relative; bounds that are attained exactly must not fail by it


@dataclass(frozen=True)
class Check:
    """One row of the table, and its figure.

    Attributes:
        statement: its name in the paper.
        predicted: the statement, in one line.
        measured: the finding, in one line.
        instances: one row each, with ``verdict``.
        worst: the instance that came nearest to failing, in words.
        name: of the figure's file.
    """

    statement: str
    name: str
    predicted: str
    measured: str
    instances: pd.DataFrame
    worst: str

    @property
    def verdict(self) -> str:
        """The verdict of all instances together."""
        return combined(self.instances["verdict"])

    def row(self) -> dict[str, object]:
        """The row of the table."""
        counts = self.instances["verdict"].value_counts()
        return {
            "statement": self.statement,
            "predicted": self.predicted,
            "measured": self.measured,
            "instances": len(self.instances),
            **{verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS},
            "worst": self.worst,
            "verdict": self.verdict,
        }


def combined(verdicts: Sequence[str] | pd.Series) -> str:
    """One verdict for several instances: vacuous ones count only if there are no others."""
    present = set(verdicts)
    return next((verdict for verdict in (VIOLATED, UNRESOLVED, HOLDS, NO_POWER) if verdict in present), VACUOUS)


def judge(measured: float, bound: Callable[[float], float], lower: float, upper: float) -> str:
    """Verdict on ``measured <= bound(delta)`` for a bound that grows with delta, lower <= delta <= upper."""
    if not math.isfinite(measured) or not math.isfinite(lower):
        return UNRESOLVED
    if lower >= 1.0:
        return VACUOUS
    if measured <= bound(lower) * (1.0 + ROUNDING) + ROUNDING:
        return HOLDS
    return VIOLATED if upper < 1.0 and measured > bound(upper) * (1.0 + ROUNDING) + ROUNDING else UNRESOLVED


def judge_equality(error: float, tolerance: float) -> str:
    """Verdict on an equality with this relative difference between its sides."""
    return HOLDS if error <= tolerance else VIOLATED


def largest(rows: pd.DataFrame, values: Any) -> pd.Series:
    """The row with the largest of these values, nulls left aside."""
    return rows.iloc[int(np.nanargmax(np.asarray(values, dtype=float)))]


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def where_of(row: pd.Series) -> str:
    """Which problem an instance is, in words."""
    layers = "" if pd.isna(row.get("depth")) else f", L = {int(row['depth'])}"
    size = f"{int(row['d_out'])} x {int(row['d_in'])}, r = {int(row['rank'])}, n = {int(row['n'])}"
    return f"{size}{layers}, {row['ensemble']}, replicate {int(row['replicate'])}"
