"""Groups of trials: by the values of some columns, nulls and lists included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from flatdist.cell import FIELDS

# These do not distinguish what is being measured: the axis itself, how often it was looked at, and how it was computed.
_NOT_CONFIGURATION = {"n", "evaluations", "dtype"}


def as_value(value: Any) -> Any:
    """A hashable, sortable stand-in for one table entry: tuples for lists, None for every kind of null."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return tuple(value)
    return None if value is None or pd.isna(value) else value


def group_rows(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Groups with their key, in the order of their values, nulls last; one group where ``by`` is empty."""
    if not by:
        yield {}, frame
        return
    keys = [tuple(row) for row in zip(*(frame[name].map(as_value) for name in by), strict=True)]
    positions: dict[tuple[Any, ...], list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(tuple(as_value(part) for part in key), []).append(position)
    for key in sorted(positions, key=lambda parts: [_order(part) for part in parts]):
        yield dict(zip(by, key, strict=True)), frame.iloc[positions[key]]


def _order(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 0, float(value), ""
    return (0, float(value), "") if hasattr(value, "item") and not isinstance(value, str) else (1, 0.0, str(value))


def varying_fields(group: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """Cell fields that take several values within a group although they are not among ``by``.

    Fields that do not matter to a method are null in its rows; a null beside one value is no variation.
    """
    return configuration_columns(group, but=by)


def configuration_columns(trials: pd.DataFrame, but: Sequence[str] = ()) -> list[str]:
    """Cell fields other than ``n`` that take several values in these trials: what a figure must tell apart."""
    names = [name for name in FIELDS if name in trials.columns and name not in _NOT_CONFIGURATION and name not in but]
    return [name for name in names if len(_values(trials, name) - {None}) > 1]


def _values(trials: pd.DataFrame, name: str) -> set[Any]:
    """Distinct values of a column; hidden widths that are the default of their shape count as one."""
    if name != "width" or not {"d_out", "d_in"} <= set(trials.columns):
        return {as_value(value) for value in trials[name]}
    rows = zip(trials["width"], trials["d_out"], trials["d_in"], strict=True)
    values = {(as_value(width), max(d_out, d_in)) for width, d_out, d_in in rows}
    return {"default" if width in (largest, (largest,) * _length(width)) else width for width, largest in values}


def _length(width: Any) -> int:
    return len(width) if isinstance(width, tuple) else 0
