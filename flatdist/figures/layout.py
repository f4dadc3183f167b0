"""Which panel and which colour a group of trials gets, and what these are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flatdist.figures.style import method_label, method_rank
from flatdist.fits.grouping import as_value, null_name

_NAMES = {
    "d_out": "$d'$",
    "d_in": "$d$",
    "rank": "$r$",
    "depth": "depth",
    "init_scale": "init",
    "label_noise_std": "noise",
    "learning_rate": "rate",
    "observation_noise_std": "observation noise",
    "spectral_tail": "spectral tail",
    "batch_size": "batch",
}


def describe(key: Mapping[str, Any]) -> str:
    """A group's key as figures print it, ``method`` by its label; nulls of fields that do not apply are left out."""
    parts = []
    for name, entry in key.items():
        value = as_value(entry)
        if name == "method":
            parts.append(method_label(value))
            continue
        if value is None:
            value = null_name(name, key.get("method"))
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            known = _NAMES.get(name)
            parts.append(f"{known} {shown}" if known and not known.startswith("$") else _equation(known, name, shown))
    return ", ".join(parts)


def _equation(known: str | None, name: str, shown: str) -> str:
    if known:
        return f"{known[:-1]} = {shown}$"
    return shown if name in ("ensemble", "ground_truth") else f"{name} {shown}"


def keys_of(table: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Distinct keys in a table, in the order figures show them: methods as styled, the rest by value."""
    found = {tuple(as_value(value) for value in row): None for row in table[list(columns)].itertuples(index=False)}
    keys = [dict(zip(columns, values, strict=True)) for values in found]
    return sorted(keys, key=lambda key: [_place(name, value) for name, value in key.items()])


def legend_columns(handles: Sequence[Any], width: int = 54) -> int:
    """Columns of a legend over a figure of one column: two where the longest labels fit side by side.

    Args:
        handles: with labels.
        width: characters that fit, with room for the marks.
    """
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    return 2 if 2 * longest <= width else 1


def styled(keys: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """Keys with the number of their colour and marker: a method's own where no method occurs twice, else in order."""
    methods = [key.get("method") for key in keys]
    own = [method_rank(method) for method in methods if isinstance(method, str)]
    numbers = own if len(set(own)) == len(keys) else range(len(keys))
    return list(zip(numbers, keys, strict=True))


def _place(name: str, value: Any) -> tuple[int, float, str]:
    if name == "method":
        return method_rank(value), 0.0, str(value)
    if value is None:
        return 2, 0.0, ""
    number = isinstance(value, (int, float)) or hasattr(value, "item")
    return (0, float(value), "") if number and not isinstance(value, str) else (1, 0.0, str(value))
