"""Training curves in few bytes: logarithms as 16-bit integers, in base64.

A curve is read by eye, on a logarithmic axis: a step of 1/65534 of the range of a measure's logarithms is finer than
any screen. Where even so there is too much, evaluations are thinned first, then replicates.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MOST_VALUES = 500_000  # 1 MB, 1.3 MB in base64
FEWEST_STEPS = 16
_MISSING, _LARGEST = 0, 65535


@dataclass(frozen=True)
class Packed:
    """The curves of a sweep.

    Attributes:
        curves: for each cell its curves, None where it has none: ``steps`` (number of one of the lists below),
            ``replicates`` (how many) and ``values``, (measure, replicate, step) little-endian 16-bit integers in
            base64; 0 is missing, 1 ... 65535 run from ``low`` to ``high``.
        steps: lists of steps.
        low, high: decadic logarithms, one for each measure.
        thinned: what was left out, in words; empty where nothing was.
    """

    curves: list[dict[str, Any] | None]
    steps: list[list[int]]
    low: list[float]
    high: list[float]
    thinned: str


def pack(history: pd.DataFrame, cell_rows: Sequence[int], cells: int, measures: Sequence[str]) -> Packed:
    """Pack the curves of every cell.

    Args:
        history: with ``replicate``, ``step`` and the measures.
        cell_rows: for each row of it, the number of its cell; -1 for none.
        cells: how many cells there are.
        measures: columns to pack.
    """
    rows = history.assign(cell_row=np.asarray(cell_rows, dtype=int))
    rows = rows[rows["cell_row"] >= 0]
    low, high = _ranges(rows, measures)
    groups = {int(str(cell)): group for cell, group in rows.groupby("cell_row")}
    keep_steps, keep_replicates, thinned = _budget(groups, len(measures))
    known: dict[tuple[int, ...], int] = {}
    curves: list[dict[str, Any] | None] = [None] * cells
    for cell, group in groups.items():
        steps = _thin(sorted(group["step"].unique()), keep_steps)
        replicates = sorted(group["replicate"].unique())[:keep_replicates]
        if not replicates:
            continue
        layers = []
        for measure, at, top in zip(measures, low, high, strict=True):
            table = group.pivot_table(index="replicate", columns="step", values=measure, aggfunc="last", dropna=False)
            layers.append(_quantised(table.reindex(index=replicates, columns=steps).to_numpy(dtype=float), at, top))
        packed = base64.b64encode(np.stack(layers).astype("<u2").tobytes()).decode()
        number = known.setdefault(tuple(steps), len(known))
        curves[cell] = {"steps": number, "replicates": len(replicates), "values": packed}
    return Packed(curves, [list(steps) for steps in known], low, high, thinned)


def _ranges(rows: pd.DataFrame, measures: Sequence[str]) -> tuple[list[float], list[float]]:
    low, high = [], []
    for measure in measures:
        values = rows[measure].to_numpy(dtype=float)
        logs = np.log10(values[np.isfinite(values) & (values > 0)])
        low.append(round(float(logs.min()), 4) if len(logs) else 0.0)
        high.append(round(float(logs.max()), 4) if len(logs) else 1.0)
    return low, high


def _quantised(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Integers for values, 0 where there is none; what is not positive is drawn at the bottom."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (np.log10(np.maximum(values, 0.0)) - low) / max(high - low, 1e-9)
    codes = 1 + np.rint(np.clip(share, 0.0, 1.0) * (_LARGEST - 1))
    return np.asarray(np.where(np.isfinite(values), codes, _MISSING))


def _budget(groups: Mapping[int, pd.DataFrame], measures: int) -> tuple[int, int, str]:
    """How many steps and replicates to keep of each cell, and a sentence where that is not all."""
    sizes = [(group["step"].nunique(), group["replicate"].nunique()) for group in groups.values()]
    most_steps, most_replicates = (max((size[i] for size in sizes), default=1) for i in (0, 1))

    def total(steps: int, replicates: int) -> int:
        return measures * sum(min(steps, s) * min(replicates, r) for s, r in sizes)

    steps, replicates = most_steps, most_replicates
    while total(steps, replicates) > MOST_VALUES and steps > FEWEST_STEPS:
        steps = max(FEWEST_STEPS, steps // 2)
    while total(steps, replicates) > MOST_VALUES and replicates > 0:
        replicates -= 1
    words = []
    if steps < most_steps:
        words.append(f"{steps} of up to {most_steps} evaluations")
    if replicates < most_replicates:
        words.append(f"{replicates} of up to {most_replicates} replicates")
    return steps, replicates, f"To keep the page small, curves show {' and '.join(words)}." if words else ""


def _thin(steps: Sequence[Any], keep: int) -> list[int]:
    """So many steps, evenly spread, the first and the last among them."""
    places = np.unique(np.linspace(0, len(steps) - 1, min(keep, len(steps))).round().astype(int))
    return [int(steps[place]) for place in places]
