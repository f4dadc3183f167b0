"""Comparison of two tables of trials on the problems they share: what changed beyond chance, and by how much.

Nothing is assumed about the distributions: a p-value is the chance of a difference at least as large if exchanging the
two answers to a problem changed nothing. What moved is decided over all comparisons together (Benjamini and Hochberg
1995), so that two tables of the same law show a change in at most ``1 - level`` of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from flatdist.cells.cell import FIELDS, PROBLEM_FIELDS
from flatdist.cells.columns import STATUSES
from flatdist.errors import FitError
from flatdist.fits.grouping import configuration_columns, group_rows
from flatdist.fits.paired import newcombe_interval
from flatdist.fits.pairing import SIDES, Matching, match_cells, pair_trials
from flatdist.fits.ratios import ratio_of
from flatdist.fits.signed_rank import shift_interval, signed_rank_test
from flatdist.fits.success import label_success, resolve_tolerance
from flatdist.fits.threshold import FitSettings, estimate_threshold

Table = dict[str, np.ndarray]

RATIOS = ("relative_error", "hessian_trace")
ERROR_FLOOR = 1e-16  # two relative errors below it are equally exact: what is left is rounding
_SMALLEST_TRACE = 1e-300


@dataclass(frozen=True)
class Comparison:
    """How two tables differ on the same cells.

    Attributes:
        matching: which cells are in both, and which in one alone.
        fields: in which the paired cells differ from each other, the columns that name a cell.
        trials: how many pairs of trials there are.
        identical: how many of them agree to the bit.
        other_problems: pairs whose problems were drawn by another version of the sampling: they share only their laws.
        cells: the matching's cells with ``trials`` and ``identical``.
        changes: see :func:`compare`.
        level: of the intervals; what moved is wrong in at most ``1 - level`` of the cases in which nothing did.
        tolerance: relative error below which a replicate counts as a success, for n50.
    """

    matching: Matching
    fields: list[str]
    trials: int
    identical: int
    other_problems: int
    cells: pd.DataFrame
    changes: pd.DataFrame
    level: float
    tolerance: float

    @property
    def moved(self) -> pd.DataFrame:
        """The changes beyond chance, the clearest first."""
        return self.changes[self.changes["moved"]]


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    across: Sequence[str] = (),
    tolerance: float | None = None,
    level: float = 0.95,
) -> Comparison:
    """Compare the trials of two tables that share a problem and replicate.

    Args:
        first, second: trials; a change is the second's minus, or over, the first's.
        across: fields in which paired cells may differ (:func:`flatdist.fits.pairing.match_cells`).
        tolerance: of a success, for n50; by default the common one of the methods present.
        level: of the intervals.

    Returns:
        A comparison, whose ``changes`` have one row for each measure of each scope, sorted by ``p_value``:

        - ``scope``: all pairs of a ``method``, a ``group`` (cells that differ in n alone) or one ``cell``; the columns
          of ``fields``, None where the scope spans several values.
        - ``measure``: ``converged``, ``budget_exhausted``, ``diverged`` (shares of the replicates), ``relative_error``,
          ``hessian_trace``, and for groups ``n50``; ``kind``: ``difference`` of shares, or ``ratio``.
        - ``pairs``: how many pairs of trials; ``first``, ``second``: the share, the geometric mean, or n50.
        - ``change``, ``low``, ``high``: the typical difference or ratio and its interval, NaN or infinite where the
          data do not bound it.
        - ``p_value``, ``p_adjusted`` (NaN where the pairs could not show any change: they agree, or are too few) and
          ``moved``.

    Raises:
        FitError: the tables share no trials, or a setting is not allowed.
    """
    if not 0.0 < level < 1.0:
        raise FitError(f"level={level!r} is not a confidence level; allowed: between 0 and 1, such as 0.95")
    matching = match_cells(first, second, across)
    pairs = pair_trials(first, second, matching.cells)
    if pairs.empty:
        raise FitError(_nothing_shared(matching))
    tolerance = max(resolve_tolerance(trials, tolerance) for trials in (first, second))
    names = _naming_fields(matching.cells)
    table = _measurements(first, second, pairs, matching.cells, tolerance)
    rows = list(_rows(table, matching.cells, names, level))
    changes = _judged(pd.DataFrame(rows), level)
    counts = pairs.groupby("pair")["identical"].agg(["size", "sum"]).reindex(range(len(matching.cells)), fill_value=0)
    cells = matching.cells.assign(trials=counts["size"].to_numpy(), identical=counts["sum"].to_numpy())
    return Comparison(
        matching, names, len(pairs), int(pairs["identical"].sum()), _other_problems(first, second, pairs), cells,
        changes, level, tolerance,
    )  # fmt: skip


def _naming_fields(cells: pd.DataFrame) -> list[str]:
    """Fields in which cells differ, but for those that only some methods use, and those with one value."""
    names = set(configuration_columns(cells))
    names |= {name for name in ("n", "evaluations", "dtype") if cells[name].dropna().nunique() > 1}
    return [name for name in FIELDS if name in names]


def _nothing_shared(matching: Matching) -> str:
    cells, alone = len(matching.cells), (len(matching.only_first), len(matching.only_second))
    if cells:
        return f"the tables share {cells} cells, but none of their replicates; run the same replicates for both"
    return (
        f"the tables share no cell: {alone[0]} are only in the first, {alone[1]} only in the second; if they differ in "
        "a field that takes several values, name it as one to compare across"
    )


def _other_problems(first: pd.DataFrame, second: pd.DataFrame, pairs: pd.DataFrame) -> int:
    if "sampling_version" not in first or "sampling_version" not in second:
        return 0
    mine = first["sampling_version"].to_numpy()[pairs["row_first"]]
    theirs = second["sampling_version"].to_numpy()[pairs["row_second"]]
    return int(np.sum(mine != theirs))


def _measurements(
    first: pd.DataFrame, second: pd.DataFrame, pairs: pd.DataFrame, cells: pd.DataFrame, tolerance: float
) -> Table:
    """The compared values of each pair of trials, ``_first`` and ``_second``, and ``unit``: the problem they share.

    Where problems are nested, those of one replicate at several n are one unit.
    """
    pair, replicate = pairs["pair"].to_numpy(), pairs["replicate"].to_numpy()
    names = [name for name in PROBLEM_FIELDS if name != "n"]
    keys = [
        (*(row[name] for name in names), None if row["nested"] else row["n"])
        for row in cells[[*names, "n"]].to_dict("records")
    ]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    problem = np.array([numbers[key] for key in keys])[pair]
    n = cells["n"].to_numpy(dtype=float)[pair]
    table = {"pair": pair, "replicate": replicate, "n": n, "unit": problem * (replicate.max() + 1) + replicate}
    for side, trials in zip(SIDES, (first, second), strict=True):
        rows = label_success(trials.iloc[pairs[f"row_{side}"]], tolerance)
        diverged = rows["diverged"].to_numpy(dtype=bool)
        table[f"success_{side}"] = rows["success"].to_numpy(dtype=float)
        table[f"diverged_{side}"] = diverged.astype(float)
        status = rows["status"].astype(object).to_numpy() if "status" in rows else np.full(len(rows), None)
        for name in ("converged", "budget_exhausted"):
            table[f"{name}_{side}"] = ((status == name) & ~diverged).astype(float)
        error = rows["relative_error"].to_numpy(dtype=float)
        table[f"relative_error_{side}"] = np.where(diverged, np.nan, np.log(np.fmax(error, ERROR_FLOOR)))
        trace = np.full(len(rows), np.nan)
        if "hessian_trace" in rows:
            trace = pd.to_numeric(rows["hessian_trace"], errors="coerce").to_numpy(dtype=float)
        usable = ~diverged & np.isfinite(trace) & (trace > _SMALLEST_TRACE)
        table[f"hessian_trace_{side}"] = np.where(usable, np.log(np.where(usable, trace, 1.0)), np.nan)
    return table


def _chosen(table: Table, pairs: Sequence[int] | pd.Series) -> Table:
    mask = np.isin(table["pair"], np.asarray(pairs))
    return {name: column[mask] for name, column in table.items()}


def _rows(table: Table, cells: pd.DataFrame, names: Sequence[str], level: float) -> Iterator[dict[str, Any]]:
    """The changes of every scope, not yet judged."""
    nothing = dict.fromkeys(names)
    numbered = cells.assign(pair=range(len(cells)))
    for key, group in group_rows(numbered, [name for name in names if name == "method"]):
        mine = _chosen(table, group["pair"])
        yield from ({"scope": "method", **nothing, **key, **row} for row in _changes(mine, level))
    for key, group in group_rows(numbered, [name for name in names if name != "n"]):
        mine = _chosen(table, group["pair"])
        if len(np.unique(mine["n"])) > 1:
            yield {"scope": "group", **nothing, **key, **_n50_change(mine, level)}
    for pair, fields in enumerate(cells[list(names)].itertuples(index=False)):
        key = dict(zip(names, fields, strict=True))
        mine = _chosen(table, [pair])
        yield from ({"scope": "cell", **key, **row} for row in _changes(mine, level))


def _changes(table: Table, level: float) -> Iterator[dict[str, Any]]:
    for name in STATUSES:
        mine, theirs = (table[f"{name}_{side}"] for side in SIDES)
        if mine.any() or theirs.any():
            yield {"measure": name, "kind": "difference", **_share_change(mine, theirs, table["unit"], level)}
    for name in RATIOS:
        mine, theirs = (table[f"{name}_{side}"] for side in SIDES)
        used = np.isfinite(mine) & np.isfinite(theirs)
        if used.any():
            mine, theirs = mine[used], theirs[used]
            differences = _per_unit(theirs - mine, table["unit"][used])
            limits = (_exp(value) for value in shift_interval(differences, level))
            row = {"pairs": len(mine), "first": math.exp(mine.mean()), "second": math.exp(theirs.mean())}
            row |= dict(zip(("change", "low", "high"), limits, strict=True))
            yield {"measure": name, "kind": "ratio", **row, **_tested(differences)}


def _share_change(mine: np.ndarray, theirs: np.ndarray, unit: np.ndarray, level: float) -> dict[str, Any]:
    differences = _per_unit(theirs - mine, unit)
    row: dict[str, Any] = {"pairs": len(mine), "first": mine.mean(), "second": theirs.mean()}
    if len(differences) == len(mine):
        counts = [
            int(np.sum(mask)) for mask in ((theirs * mine) > 0, theirs > mine, mine > theirs, (theirs + mine) == 0)
        ]
        low, high = newcombe_interval((counts[0], counts[1], counts[2], counts[3]), level)
        change = (counts[1] - counts[2]) / len(mine)
    else:  # several pairs share a problem, and are not independent
        change, count = float(differences.mean()), len(differences)
        error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
        reach = float(special.stdtrit(max(count - 1, 1), 0.5 + level / 2.0)) * error
        low, high = max(change - reach, -1.0), min(change + reach, 1.0)
    return row | {"change": change, "low": low, "high": high} | _tested(differences)


def _per_unit(differences: np.ndarray, unit: np.ndarray) -> np.ndarray:
    _, index = np.unique(unit, return_inverse=True)
    return np.asarray(np.bincount(index, differences) / np.bincount(index))


def _tested(differences: np.ndarray) -> dict[str, float]:
    outcome = signed_rank_test(differences)
    return {"p_value": outcome.p_value, "smallest": outcome.smallest}


def _n50_change(table: Table, level: float) -> dict[str, Any]:
    """The ratio of two groups' n50, its interval from theirs as if they were independent, and a test of pairs.

    The interval is too wide where the pairs agree; the test is of the successes of each problem.
    """
    fits = []
    for side in SIDES:
        columns = {"n": table["n"], "replicate": table["replicate"], "success": table[f"success_{side}"] > 0}
        labelled = pd.DataFrame(columns)
        unit = "replicate" if len(np.unique(table["unit"])) < len(labelled) else "trial"
        fits.append(estimate_threshold(labelled, FitSettings(level=level, unit=unit)))
    mine, theirs = fits
    ratio = ratio_of(theirs, mine)
    differences = _per_unit(table["success_second"] - table["success_first"], table["unit"])
    row = {"pairs": len(table["n"]), "first": mine["n50"], "second": theirs["n50"]}
    row |= {"change": ratio["ratio"], "low": ratio["ratio_low"], "high": ratio["ratio_high"]}
    return {"measure": "n50", "kind": "ratio", **row, **_tested(differences)}


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def _judged(changes: pd.DataFrame, level: float) -> pd.DataFrame:
    """What moved, over all comparisons that could have shown it, the clearest first."""
    from scipy.stats import false_discovery_control

    # Whether a test could have shown anything depends on sizes alone, not on signs, so leaving out those that could not
    # spends no error (Tarone 1990).
    able = changes["smallest"] <= 1.0 - level
    adjusted = np.full(len(changes), np.nan)
    if able.any():
        adjusted[able] = false_discovery_control(changes.loc[able, "p_value"])
    judged = changes.drop(columns="smallest").assign(p_adjusted=adjusted)
    judged["moved"] = judged["p_adjusted"] <= 1.0 - level
    return judged.sort_values(["p_adjusted", "p_value"], kind="stable", na_position="last", ignore_index=True)
