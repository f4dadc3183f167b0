"""Training curves in few bytes: logarithms as 12-bit integers, their differences deflated, in base64.

A curve is read by eye, on a logarithmic axis: a step of 1/4094 of the range of a measure's logarithms is finer than
any screen. If that is still too much, evaluations are thinned first, then replicates.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from flatdist.report.material import MEASURES

MOST_VALUES = 500_000
FEWEST_STEPS = 16
_MISSING, _LARGEST = 0, 4095


@dataclass(frozen=True)
class Packed:
    """The curves of a sweep.

    Attributes:
        index: for each cell None, or where its values begin, how many replicates it has, and the number of its steps.
            Its values are (measure, replicate, step): 0 is missing, 1 ... 4095 run from ``low`` to ``high``.
        steps: lists of steps.
        low, high: decadic logarithms, one for each measure.
        size: values in all.
        deflated: differences between neighbouring steps modulo 65536, all low bytes before all high bytes, deflated.
        thinned: what was left out, in words; empty where nothing was.
    """

    index: list[tuple[int, int, int] | None]
    steps: list[list[int]]
    low: list[float]
    high: list[float]
    size: int
    deflated: str
    thinned: str


def pack(history: pd.DataFrame, cell_rows: Sequence[int], cells: int) -> Packed:
    """Pack the curves of every cell.

    Args:
        history: with ``replicate``, ``step`` and the :data:`flatdist.report.material.MEASURES`.
        cell_rows: for each row of it, the number of its cell; -1 for none.
        cells: how many cells there are.
    """
    rows = history.assign(cell_row=np.asarray(cell_rows, dtype=int))
    rows = rows[rows["cell_row"] >= 0].groupby(["cell_row", "replicate", "step"])[list(MEASURES)].last()
    quantised = (_quantised(rows[measure].to_numpy(dtype=float)) for measure in MEASURES)
    columns, low, high = zip(*quantised, strict=True)
    codes = np.stack(columns)  # (measure, row), by cell, replicate and step
    cell, replicate, step = (np.asarray(rows.index.get_level_values(level)) for level in range(3))
    numbers, starts = np.unique(cell, return_index=True)
    parts = [slice(*ends) for ends in pairwise((*starts.tolist(), len(cell)))]
    grids = [(np.unique(replicate[part]), np.unique(step[part])) for part in parts]
    keep_steps, keep_replicates, thinned = _budget([(len(b), len(a)) for a, b in grids])
    known: dict[tuple[int, ...], int] = {}
    index: list[tuple[int, int, int] | None] = [None] * cells
    blocks, size = [np.zeros(0, dtype="<u2")], 0
    for number, part, (all_replicates, all_steps) in zip(numbers.tolist(), parts, grids, strict=True):
        places = np.linspace(0, len(all_steps) - 1, min(keep_steps, len(all_steps))).round().astype(int)
        replicates, steps = all_replicates[:keep_replicates], all_steps[np.unique(places)]
        if not len(replicates):
            continue
        index[number] = (size, len(replicates), known.setdefault(tuple(steps.tolist()), len(known)))
        kept = np.isin(step[part], steps) & np.isin(replicate[part], replicates)
        place = np.searchsorted(replicates, replicate[part][kept]), np.searchsorted(steps, step[part][kept])
        table = np.zeros((len(MEASURES), len(replicates), len(steps)), dtype=np.int64)
        table[:, *place] = codes[:, part][:, kept]
        blocks.append((np.diff(table, axis=2, prepend=0) % 65536).astype("<u2").ravel())
        size += table.size
    flat = np.concatenate(blocks)
    planes = np.concatenate([(flat & 255).astype("u1"), (flat >> 8).astype("u1")]).tobytes()
    deflated = base64.b64encode(zlib.compress(planes, 9)).decode()
    return Packed(index, [list(steps) for steps in known], list(low), list(high), size, deflated, thinned)


def _quantised(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Integers for values, and the logarithms that their ends stand for; what is not positive is at the bottom."""
    finite = np.isfinite(values)
    usable = np.log10(values[finite & (values > 0)])
    low, high = (round(float(usable.min()), 4), round(float(usable.max()), 4)) if len(usable) else (0.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (np.log10(np.maximum(values, 0.0)) - low) / max(high - low, 1e-9)
    codes = 1 + np.rint(np.clip(share, 0.0, 1.0) * (_LARGEST - 1))
    return np.where(finite, codes, _MISSING).astype(np.int64), low, high


def _budget(sizes: Sequence[tuple[int, int]]) -> tuple[int, int, str]:
    """How many steps and replicates of each cell to keep, from the numbers it has; a sentence if that is not all."""
    most_steps, most_replicates = (max((size[i] for size in sizes), default=1) for i in (0, 1))

    def total(steps: int, replicates: int) -> int:
        return len(MEASURES) * sum(min(steps, s) * min(replicates, r) for s, r in sizes)

    steps, replicates = most_steps, most_replicates
    while total(steps, replicates) > MOST_VALUES and steps > FEWEST_STEPS:
        steps = max(FEWEST_STEPS, steps // 2)
    while total(steps, replicates) > MOST_VALUES and replicates > 0:
        replicates -= 1
    words = [f"{steps} of up to {most_steps} evaluations"] if steps < most_steps else []
    words += [f"{replicates} of up to {most_replicates} replicates"] if replicates < most_replicates else []
    return steps, replicates, f"To keep the page small, curves show {' and '.join(words)}." if words else ""
