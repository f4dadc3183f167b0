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

from flatdist.cells.cell import FIELDS, PROBLEM_FIELDS
from flatdist.cells.columns import RESULT_COLUMNS, STATUSES
from flatdist.errors import FitError, did_you_mean
from flatdist.fits.grouping import as_value, configuration_columns, group_rows, grouped
from flatdist.fits.paired import mean_interval, newcombe_interval, shift_interval, signed_rank_test
from flatdist.fits.ratios import ratio_of
from flatdist.fits.success import check_level, label_success, require_columns, resolve_tolerance
from flatdist.fits.threshold import estimate_threshold

SIDES = ("first", "second")
RATIOS = ("relative_error", "hessian_trace")
ERROR_FLOOR = 1e-16  # two relative errors below it are equally exact: what is left is rounding
_SMALLEST_TRACE = 1e-300


@dataclass(frozen=True)
class Matching:
    """Pairs of cells from two tables."""

    cells: pd.DataFrame  # a row a pair: ``cell_id_first``, ``cell_id_second``, and the fields of the first's cell
    changed: dict[str, tuple[Any, Any]]  # fields in which the cells of some pairs differ, with both values
    only_first: pd.DataFrame  # cells without a partner: ``cell_id`` and the fields
    only_second: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """How two tables differ on the same cells."""

    matching: Matching
    fields: list[str]  # in which the paired cells differ from each other, the columns that name a cell
    trials: int  # how many pairs of trials there are
    identical: int  # how many of them agree to the bit
    other_problems: int  # pairs whose problems another version of the sampling drew: they share only their laws
    cells: pd.DataFrame  # the matching's, with ``trials`` and ``identical``
    changes: pd.DataFrame  # see :func:`compare`
    level: float  # of the intervals; what moved is wrong in at most 1 - level of the cases in which nothing did
    tolerance: float  # of a success, for n50

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
        across: fields in which paired cells may differ (:func:`match_cells`).
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
    check_level(level)
    matching = match_cells(first, second, across)
    pairs = pair_trials(first, second, matching.cells)
    if pairs.empty and len(matching.cells):
        raise FitError(
            f"the tables share {len(matching.cells)} cells, but none of their replicates; run the same replicates for "
            "both"
        )
    if pairs.empty:
        raise FitError(
            f"the tables share no cell: {len(matching.only_first)} are only in the first, {len(matching.only_second)} "
            "only in the second; if they differ in a field that takes several values, name it as one to compare across"
        )
    tolerance = max(resolve_tolerance(trials, tolerance) for trials in (first, second))
    names = _naming_fields(matching.cells)
    table = _measurements(first, second, pairs, matching.cells, tolerance)
    changes = _judged(pd.DataFrame(_rows(table, matching.cells, names, level)), level)
    counts = pairs.groupby("pair")["identical"].agg(["size", "sum"]).reindex(range(len(matching.cells)), fill_value=0)
    cells = matching.cells.assign(trials=counts["size"].to_numpy(), identical=counts["sum"].to_numpy())
    drawn = [rows["sampling_version"] for rows in _aligned(first, second, pairs) if "sampling_version" in rows]
    other_problems = int((drawn[0] != drawn[1]).sum()) if len(drawn) == 2 else 0
    identical = int(pairs["identical"].sum())
    return Comparison(matching, names, len(pairs), identical, other_problems, cells, changes, level, tolerance)


def match_cells(first: pd.DataFrame, second: pd.DataFrame, across: Sequence[str] = ()) -> Matching:
    """Pair the cells of two tables.

    Cells of one configuration are a pair, whatever the version of the numerics. Remaining cells are paired if they
    agree in every field except ``across`` and fields that have one value in all remaining cells of the first table and
    another in all of the second, for example if the same sweep was run with other steps. A cell with several possible
    partners is not paired.
    """
    for name in across:
        if name not in FIELDS:
            raise FitError(
                f"{name!r} is not a field of a cell{did_you_mean(name, FIELDS)}; allowed: {', '.join(FIELDS)}"
            )
        if name in PROBLEM_FIELDS:
            raise FitError(f"cells that differ in {name} share no problem; allowed: fields of the method")
    sides = [_cells(first), _cells(second)]
    pairs = _merged(sides, "configuration")
    rest = [side[~side["configuration"].isin(pairs["configuration"])] for side in sides]
    values = {name: [set(side[name]) for side in rest] for name in FIELDS}
    free = {name for name, (a, b) in values.items() if name not in PROBLEM_FIELDS and len(a) == len(b) == 1 and a != b}
    key = [name for name in FIELDS if name not in {*free, *across}]
    keyed = []
    for side in rest:
        entries: list[Any] = [tuple(row) for row in side[key].to_numpy()]
        keyed.append(side.assign(key=entries).drop_duplicates("key", keep=False))
    ids = pd.concat([pairs, _merged(keyed, "key")])[[f"cell_id_{side}" for side in SIDES]].reset_index(drop=True)
    fields = [side.set_index("cell_id").drop(columns="configuration") for side in sides]
    mine, theirs = (table.loc[ids[f"cell_id_{side}"]] for table, side in zip(fields, SIDES, strict=True))
    varied = {}
    for name in FIELDS:
        differing = [(a, b) for a, b in zip(mine[name], theirs[name], strict=True) if a != b]
        if differing:
            varied[name] = differing[0] if len(set(differing)) == 1 else ("several", "several")
    alone = (
        table.drop(index=list(ids[f"cell_id_{side}"])).reset_index() for table, side in zip(fields, SIDES, strict=True)
    )
    return Matching(ids.join(mine.reset_index(drop=True)), varied, *alone)


def _cells(trials: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: ``cell_id``, the fields as comparable values, and the configuration."""
    require_columns(trials, ("cell_id",), "needed columns")
    rows = trials.drop_duplicates("cell_id").reset_index(drop=True)
    columns = {name: [as_value(value) for value in rows[name]] if name in rows else None for name in FIELDS}
    configuration = rows["configuration_id"].fillna(rows["cell_id"]) if "configuration_id" in rows else rows["cell_id"]
    # As objects: pandas would make a column of text of its own, in which no value is NaN, which differs from itself.
    return pd.DataFrame({"cell_id": rows["cell_id"], **columns, "configuration": configuration}, dtype=object)


def _merged(sides: Sequence[pd.DataFrame], on: str) -> pd.DataFrame:
    """Cells of both sides that agree in a column."""
    first, second = (side[["cell_id", on]] for side in sides)
    return first.merge(second, on=on, suffixes=("_first", "_second"))


def pair_trials(first: pd.DataFrame, second: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Trials of paired cells with the same replicate number, and so the same problem.

    ``pair`` (the row of ``cells``), ``replicate``, ``row_first`` and ``row_second`` (positions in the tables), and
    ``identical``: every measured column agrees to the bit.
    """
    sides = []
    for side, trials in zip(SIDES, (first, second), strict=True):
        require_columns(trials, ("cell_id", "replicate"), "needed columns")
        if trials.duplicated(["cell_id", "replicate"]).any():
            raise FitError(f"the {side} table has several rows for one replicate of a cell; keep one of them")
        pair = dict(zip(cells[f"cell_id_{side}"], range(len(cells)), strict=True))
        rows = trials[["replicate"]].assign(pair=trials["cell_id"].map(pair), **{f"row_{side}": range(len(trials))})
        sides.append(rows.dropna(subset="pair").astype(int))
    pairs = sides[0].merge(sides[1], on=["pair", "replicate"]).sort_values(["pair", "replicate"], ignore_index=True)
    mine, theirs = _aligned(first, second, pairs)
    columns = [name for name in RESULT_COLUMNS if name in mine and name in theirs]
    same = [_equal(mine[name].to_numpy(), theirs[name].to_numpy()) for name in columns]
    return pairs.assign(identical=np.all(same, axis=0) if columns else True)


def _aligned(first: pd.DataFrame, second: pd.DataFrame, pairs: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of either table, a row a pair."""
    return [
        trials.iloc[pairs[f"row_{side}"]].reset_index(drop=True)
        for side, trials in zip(SIDES, (first, second), strict=True)
    ]


def _equal(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Row for row whether two columns agree to the bit, missing values equal to missing values."""
    if object not in (mine.dtype, theirs.dtype):
        return np.asarray((mine == theirs) | ((mine != mine) & (theirs != theirs)))  # noqa: PLR0124
    return np.array([bool(_plain(a) == _plain(b)) for a, b in zip(mine, theirs, strict=True)], dtype=bool)


def _plain(value: Any) -> Any:
    """Nested values with one kind of missing entry, None, so that equality is that of bits."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return [_plain(entry) for entry in value]
    return as_value(value)


def _naming_fields(cells: pd.DataFrame) -> list[str]:
    """Fields in which cells differ, but for those that only some methods use, and those with one value."""
    names = set(configuration_columns(cells))
    names |= {name for name in ("n", "evaluations", "dtype") if cells[name].dropna().nunique() > 1}
    return [name for name in FIELDS if name in names]


def _measurements(
    first: pd.DataFrame, second: pd.DataFrame, pairs: pd.DataFrame, cells: pd.DataFrame, tolerance: float
) -> pd.DataFrame:
    """The compared values of each pair of trials, ``_first`` and ``_second``, and ``unit``: the problem they share.

    Where problems are nested, those of one replicate at several n are one unit.
    """
    table = pairs[["pair", "replicate"]].assign(n=cells["n"].astype(float).to_numpy()[pairs["pair"]])
    problems = cells.assign(n=cells["n"].where(~cells["nested"].astype(bool), None))
    _, problem = grouped(problems, PROBLEM_FIELDS)
    table["unit"] = problem[pairs["pair"]] * (table["replicate"].max() + 1) + table["replicate"]
    for side, trials in zip(SIDES, _aligned(first, second, pairs), strict=True):
        rows = label_success(trials, tolerance)
        diverged = rows["diverged"]
        table[f"success_{side}"] = rows["success"].astype(float)
        table[f"converged_{side}"] = (~diverged & ("status" in rows and rows["status"] == "converged")).astype(float)
        table[f"budget_exhausted_{side}"] = rows["unconverged"].astype(float)
        table[f"diverged_{side}"] = diverged.astype(float)
        table[f"relative_error_{side}"] = np.log(rows["relative_error"].clip(lower=ERROR_FLOOR).where(~diverged))
        measured = pd.to_numeric(rows["hessian_trace"], errors="coerce") if "hessian_trace" in rows else np.nan
        trace = pd.Series(measured, rows.index, dtype=float)
        usable = ~diverged & np.isfinite(trace) & (trace > _SMALLEST_TRACE)
        table[f"hessian_trace_{side}"] = np.log(trace.where(usable))
    return table


def _rows(table: pd.DataFrame, cells: pd.DataFrame, names: Sequence[str], level: float) -> Iterator[dict[str, Any]]:
    """The changes of every scope, not yet judged."""
    nothing = dict.fromkeys(names)
    numbered = cells.assign(pair=range(len(cells)))
    for key, group in group_rows(numbered, [name for name in names if name == "method"]):
        mine = table[table["pair"].isin(group["pair"])]
        yield from ({"scope": "method", **nothing, **key, **row} for row in _changes(mine, level))
    for key, group in group_rows(numbered, [name for name in names if name != "n"]):
        mine = table[table["pair"].isin(group["pair"])]
        if mine["n"].nunique() > 1:
            yield {"scope": "group", **nothing, **key, **_n50_change(mine, level)}
    fields: dict[Any, dict[Any, Any]] = dict(enumerate(cells[list(names)].to_dict("records")))
    for pair, mine in table.groupby("pair"):
        yield from ({"scope": "cell", **fields[pair], **row} for row in _changes(mine, level))


def _changes(table: pd.DataFrame, level: float) -> Iterator[dict[str, Any]]:
    for name in STATUSES:
        mine, theirs = (table[f"{name}_{side}"].to_numpy() for side in SIDES)
        if mine.any() or theirs.any():
            yield {"measure": name, "kind": "difference", **_share_change(mine, theirs, table["unit"], level)}
    for name in RATIOS:
        used = table.dropna(subset=[f"{name}_{side}" for side in SIDES])
        if len(used):
            mine, theirs = (used[f"{name}_{side}"].to_numpy() for side in SIDES)
            differences = _per_unit(theirs - mine, used["unit"])
            row = {"pairs": len(used), "first": math.exp(mine.mean()), "second": math.exp(theirs.mean())}
            limits = (math.inf if value > 700 else math.exp(value) for value in shift_interval(differences, level))
            row |= dict(zip(("change", "low", "high"), limits, strict=True))
            yield {"measure": name, "kind": "ratio", **row, **signed_rank_test(differences)._asdict()}


def _share_change(mine: np.ndarray, theirs: np.ndarray, unit: pd.Series, level: float) -> dict[str, Any]:
    differences = _per_unit(theirs - mine, unit)
    row: dict[str, Any] = {"pairs": len(mine), "first": mine.mean(), "second": theirs.mean()}
    if len(differences) == len(mine):
        gained, lost, both = int((theirs > mine).sum()), int((theirs < mine).sum()), int((theirs * mine).sum())
        change = (gained - lost) / len(mine)
        low, high = newcombe_interval((both, gained, lost, len(mine) - both - gained - lost), level)
    else:  # several pairs share a problem, and are not independent
        change, low, high, _ = mean_interval(differences, level)
        low, high = max(low, -1.0), min(high, 1.0)
    return row | {"change": change, "low": low, "high": high} | signed_rank_test(differences)._asdict()


def _per_unit(differences: Any, unit: pd.Series) -> np.ndarray:
    return pd.Series(differences, unit.index).groupby(unit).mean().to_numpy()


def _n50_change(table: pd.DataFrame, level: float) -> dict[str, Any]:
    """The ratio of two groups' n50, its interval from theirs as if they were independent, and a test of pairs.

    The interval is too wide where the pairs agree; the test is of the successes of each problem.
    """
    unit = "trial" if table["unit"].is_unique else "replicate"
    mine, theirs = (
        estimate_threshold(table[["n", "replicate"]].assign(success=table[f"success_{side}"] > 0), unit, level=level)
        for side in SIDES
    )
    ratio = ratio_of(theirs, mine)
    row = {"pairs": len(table), "first": mine["n50"], "second": theirs["n50"]}
    row |= {"change": ratio["ratio"], "low": ratio["ratio_low"], "high": ratio["ratio_high"]}
    differences = _per_unit(table["success_second"] - table["success_first"], table["unit"])
    return {"measure": "n50", "kind": "ratio", **row, **signed_rank_test(differences)._asdict()}


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
