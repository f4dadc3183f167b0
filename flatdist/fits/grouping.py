"""Groups of trials by the values of some columns, nulls and lists included; predictions at their shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import FIELDS, NULL_NAMES, PROBLEM_FIELDS
from flatdist.methods import METHODS
from flatdist.theory import prediction

SHAPE = ("d_out", "d_in", "rank")
# These do not distinguish what is being measured: the axis itself, how often it was looked at, and how it was computed.
_NOT_CONFIGURATION = {"n", "evaluations", "dtype"}

WHOLE = {name for name, field in FIELDS.items() if field.metadata["kind"].arrow.startswith("int")}
"""Fields of whole numbers, which tables hold as float64 where they can be null."""


def as_value(value: Any) -> Any:
    """A hashable, sortable stand-in for one table entry: tuples for lists, None for every kind of null."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return tuple(value)
    return None if value is None or pd.isna(value) else value


def grouped(frame: pd.DataFrame, by: Sequence[str]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The keys of the groups in the order of their values, nulls last, and each row's group, (rows,)."""
    if not by or frame.empty:
        return [{}] if not by else [], np.zeros(len(frame), dtype=np.int64)
    ranks, values = zip(*(ranked(frame[name]) for name in by), strict=True)
    groups, index = np.unique(np.stack(ranks, axis=1), axis=0, return_inverse=True)
    keys = [{name: known[rank] for name, known, rank in zip(by, values, group, strict=True)} for group in groups]
    return keys, index.ravel()


def group_rows(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Groups with their key, as :func:`grouped` orders them; one group where ``by`` is empty."""
    keys, index = grouped(frame, by)
    groups = (group for _, group in frame.groupby(index)) if by else [frame]
    yield from zip(keys, groups, strict=True)


def ranked(column: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """Each entry's rank among the column's values, nulls last, and those values."""
    try:
        codes, uniques = pd.factorize(column, use_na_sentinel=False)
    except TypeError:  # lists
        codes, uniques = pd.factorize(column.map(as_value).astype(object), use_na_sentinel=False)
    values = [as_value(value) for value in uniques]
    ordered = sorted(dict.fromkeys(values), key=_order)
    rank = {value: place for place, value in enumerate(ordered)}
    return np.array([rank[value] for value in values], dtype=np.int64)[codes], ordered


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then words and lists, then nulls."""
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return 0, float(value), ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def configuration_columns(trials: pd.DataFrame, but: Sequence[str] = ()) -> list[str]:
    """Cell fields other than ``n`` that take several values in these trials, which a figure must distinguish.

    A null counts as a value where the row's method uses the field (see :data:`NULL_NAMES`), not where it does not.
    """
    names = [name for name in FIELDS if name in trials.columns and name not in _NOT_CONFIGURATION and name not in but]
    return [name for name in names if len(_values(trials, name)) > 1]


def uses(method: Any, name: str) -> bool:
    """Whether a field matters to a method, so that a null in its row is a value; of unknown methods, all may matter."""
    spec = METHODS.get(method) if isinstance(method, str) else None
    return name in NULL_NAMES if spec is None else name in spec.fields


def null_name(name: str, method: Any) -> str | None:
    """The word for a null of this field in a row of this method; None if the field does not apply."""
    return NULL_NAMES.get(name) if uses(method, name) else None


def name_nulls(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns for printing: nulls by their name, ``-`` where the field does not apply."""
    methods = list(table["method"]) if "method" in table else [None] * len(table)

    def entry(name: str, value: Any, method: Any) -> Any:
        if as_value(value) is None:
            return null_name(name, method) or "-"
        return int(value) if isinstance(value, float) and value.is_integer() and name in WHOLE else value

    shown = {name: [entry(name, *pair) for pair in zip(table[name], methods, strict=True)] for name in columns}
    return pd.DataFrame(shown, index=table.index, columns=list(columns), dtype=object)


def _values(trials: pd.DataFrame, name: str) -> set[Any]:
    """Distinct values of a column where it applies; hidden widths that are the default of their shape count as one."""
    if name == "batch_size" and "method" in trials:  # 1-SAM's batch of one follows from the method
        apart = trials.groupby("method")[name].nunique(dropna=False) > 1
        follows = [method for method in apart.index if not (apart[method] or uses(method, name))]
        trials = trials[~trials["method"].isin(follows)]
    values = {as_value(value) for value in distinct(trials[name])}
    if name == "width" and {"d_out", "d_in"} <= set(trials.columns):
        keys = (key.values() for key in grouped(trials, ("width", "d_out", "d_in"))[0])
        values = {"default" if set(np.atleast_1d(width)) <= {max(shape)} else width for width, *shape in keys}
    methods = trials.loc[trials[name].isna(), "method"].unique() if None in values and "method" in trials else [None]
    return values if any(uses(method, name) for method in methods) else values - {None}


def distinct(column: pd.Series) -> Iterable[Any]:
    """The values of a column, each at least once; fast where they can be hashed."""
    try:
        return column.unique()
    except TypeError:  # lists
        return column


def panel_columns(trials: pd.DataFrame) -> list[str]:
    """Columns that make a panel: the problem's fields that vary, and always the rank if there is one."""
    varying = configuration_columns(trials)
    return [name for name in PROBLEM_FIELDS if name in varying or (name == "rank" and name in trials)]


def series_columns(trials: pd.DataFrame) -> list[str]:
    """Columns that make a series within a panel: the method and every field of it that varies."""
    varying = configuration_columns(trials)
    others = [name for name in varying if name not in PROBLEM_FIELDS and name != "method"]
    return [*(["method"] if "method" in trials else []), *others]


def matching(table: pd.DataFrame, key: Mapping[Any, Any]) -> pd.DataFrame:
    """Rows of a table with this key, nulls equal to nulls."""
    chosen = np.ones(len(table), dtype=bool)
    for name, value in key.items():
        ranks, values = ranked(table[name])
        chosen &= ranks == (values.index(value) if value in values else -1)
    return table[chosen]


def predicted(name: str, table: pd.DataFrame) -> np.ndarray:
    """A prediction of :mod:`flatdist.theory`, such as ``statdim``, at each row's shape: (rows,), in measurements."""
    value = prediction(name).value
    return np.array([value(int(a), int(b), int(r)) for a, b, r in table[list(SHAPE)].itertuples(index=False)])
