"""Which cells and trials of two tables ask the same question, so that their answers can be compared in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import FIELDS, PROBLEM_FIELDS
from flatdist.cells.columns import RESULT_COLUMNS
from flatdist.errors import FitError, did_you_mean
from flatdist.fits.grouping import as_value
from flatdist.fits.success import require_columns

SIDES = ("first", "second")


@dataclass(frozen=True)
class Matching:
    """Pairs of cells from two tables.

    Attributes:
        cells: a row for each pair: ``cell_id_first``, ``cell_id_second``, and the fields of the first's cell.
        changed: fields in which the cells of some pairs differ, with the first's and the second's value.
        only_first, only_second: cells without a partner: ``cell_id`` and the fields.
    """

    cells: pd.DataFrame
    changed: dict[str, tuple[Any, Any]]
    only_first: pd.DataFrame
    only_second: pd.DataFrame


def match_cells(first: pd.DataFrame, second: pd.DataFrame, across: Sequence[str] = ()) -> Matching:
    """Pair the cells of two tables.

    Cells of one configuration are a pair, whatever the version of the numerics. Remaining cells are paired if they
    agree in every field except ``across`` and fields that have one value in all remaining cells of the first table and
    another in all of the second, for example if the same sweep was run with other steps. A cell with several possible
    partners is not paired.

    Args:
        first, second: trials.
        across: fields in which partners may differ, however many values they have.

    Raises:
        FitError: ``across`` names no field, or a field of the problem, so that no problem is shared.
    """
    for name in across:
        if name not in FIELDS:
            raise FitError(
                f"{name!r} is not a field of a cell{did_you_mean(name, FIELDS)}; allowed: {', '.join(FIELDS)}"
            )
        if name in PROBLEM_FIELDS:
            raise FitError(f"cells that differ in {name} share no problem; allowed: fields of the method")
    left, right = _cells(first), _cells(second)
    same = left.reset_index().merge(right.reset_index(), on="configuration", suffixes=("_first", "_second"))
    pairs = list(zip(same["cell_id_first"], same["cell_id_second"], strict=True))
    left_rest = left[~left["configuration"].isin(same["configuration"])]
    right_rest = right[~right["configuration"].isin(same["configuration"])]
    constant = _constants(left_rest, right_rest)
    key = [name for name in FIELDS if name not in constant and name not in across]
    if len(left_rest) and len(right_rest):
        pairs += _unique_pairs(left_rest, right_rest, key)
    found = pd.DataFrame(pairs, columns=["cell_id_first", "cell_id_second"]).astype(object)
    fields = left.drop(columns="configuration")
    cells = found.join(fields, on="cell_id_first")
    partners = right.reindex(found["cell_id_second"])
    varied = {}
    for name in FIELDS:
        values = [(a, b) for a, b in zip(cells[name], partners[name], strict=True) if a != b]
        if values:
            varied[name] = values[0] if len(set(values)) == 1 else ("several", "several")
    only_first = fields[~fields.index.isin(found["cell_id_first"])].reset_index()
    only_second = right.drop(columns="configuration")
    only_second = only_second[~only_second.index.isin(found["cell_id_second"])].reset_index()
    return Matching(cells, varied, only_first, only_second)


def pair_trials(first: pd.DataFrame, second: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Trials of paired cells with the same replicate number, and so the same problem.

    Args:
        first, second: trials, each (cell_id, replicate) once.
        cells: from :func:`match_cells`.

    Returns:
        ``pair`` (the row of ``cells``), ``replicate``, ``row_first`` and ``row_second`` (positions in the tables), and
        ``identical``: every measured column agrees to the bit.
    """
    sides = []
    for side, trials in zip(SIDES, (first, second), strict=True):
        require_columns(trials, ("cell_id", "replicate"), "needed columns")
        if trials.duplicated(["cell_id", "replicate"]).any():
            raise FitError(f"the {side} table has several rows for one replicate of a cell; keep one of them")
        pair = dict(zip(cells[f"cell_id_{side}"], range(len(cells)), strict=True))
        rows = pd.DataFrame(
            {"pair": trials["cell_id"].map(pair).to_numpy(), "replicate": trials["replicate"].to_numpy()}
        )
        sides.append(rows.assign(**{f"row_{side}": np.arange(len(trials))}).dropna(subset="pair").astype(int))
    pairs = sides[0].merge(sides[1], on=["pair", "replicate"]).sort_values(["pair", "replicate"], ignore_index=True)
    columns = [name for name in RESULT_COLUMNS if name in first and name in second]
    same = np.ones(len(pairs), dtype=bool)
    for name in columns:
        mine = first[name].to_numpy()[pairs["row_first"]]
        theirs = second[name].to_numpy()[pairs["row_second"]]
        same &= _equal(mine, theirs)
    return pairs.assign(identical=same)


def _cells(trials: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, by cell_id: the fields as comparable values, and the configuration."""
    require_columns(trials, ("cell_id",), "needed columns")
    rows = trials.drop_duplicates("cell_id").set_index("cell_id")
    columns = {
        name: [as_value(value) for value in rows[name]] if name in rows else [None] * len(rows) for name in FIELDS
    }
    # As objects: pandas would make a column of text of its own, in which no value is NaN, which differs from itself.
    table = pd.DataFrame(columns, index=rows.index, dtype=object)
    configuration = (
        rows["configuration_id"] if "configuration_id" in rows else pd.Series(None, rows.index, dtype=object)
    )
    return table.assign(configuration=configuration.where(configuration.notna(), rows.index.to_series()))


def _constants(left: pd.DataFrame, right: pd.DataFrame) -> list[str]:
    """Fields of the method that have one value on each side, and not the same."""
    names = []
    for name in FIELDS:
        mine, theirs = set(left[name]), set(right[name])
        if name not in PROBLEM_FIELDS and len(mine) == len(theirs) == 1 and mine != theirs:
            names.append(name)
    return names


def _unique_pairs(left: pd.DataFrame, right: pd.DataFrame, key: Sequence[str]) -> list[tuple[Any, Any]]:
    """Cells that agree in the key, if it is unique on each side."""
    single = []
    for table in (left, right):
        entries = [tuple(row) for row in table[list(key)].to_numpy()]
        count = Counter(entries)
        single.append({entry: cell for entry, cell in zip(entries, table.index, strict=True) if count[entry] == 1})
    return [(cell, single[1][entry]) for entry, cell in single[0].items() if entry in single[1]]


def _equal(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Row for row whether two columns agree to the bit, missing values equal to missing values."""
    if object not in (mine.dtype, theirs.dtype):
        return np.asarray((mine == theirs) | ((mine != mine) & (theirs != theirs)))  # noqa: PLR0124
    return np.fromiter((_same(a, b) for a, b in zip(mine, theirs, strict=True)), dtype=bool, count=len(mine))


def _same(mine: Any, theirs: Any) -> bool:
    mine, theirs = (_plain(value) for value in (mine, theirs))
    return bool(mine == theirs)


def _plain(value: Any) -> Any:
    """Nested values with one kind of missing entry, None, so that equality is that of bits."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return [_plain(entry) for entry in value]
    return as_value(value)
