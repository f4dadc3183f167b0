"""The names that an expression may use: cell fields, what follows from them, and, for rows, the columns of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flatdist.cells.cell import FIELD_TYPES
from flatdist.cells.columns import BOOKKEEPING, HISTORY, OLDER_NULLS, STATUSES, TRIALS
from flatdist.cells.fields import Choice
from flatdist.errors import did_you_mean
from flatdist.expressions.exact import Names, show

DERIVED: Mapping[str, str] = {
    "dof": "rank*(d_out+d_in-rank), the degrees of freedom of a rank-r matrix",
    "rsum": "rank*(d_out+d_in)",
    "entries": "d_out*d_in",
    "statdim": "the statistical dimension of the nuclear norm's descent cone at the ground truth",
}
DERIVED_FROM: Mapping[str, tuple[str, ...]] = {
    name: ("d_out", "d_in") if name == "entries" else ("d_out", "d_in", "rank") for name in DERIVED
}


@dataclass(frozen=True)
class Name:
    """What a name stands for."""

    kind: str  # one of KINDS
    rounded: bool = False  # a float field of a cell, which is stored with 12 significant digits
    whole: bool = False  # a whole number
    measured: bool = False  # a number found by a run; arithmetic with it is in double precision
    word: str | None = None  # that stands for null, auto or full


def _name(type_: str, **more: Any) -> Name:
    """The name of a column, from its type in Arrow's spelling."""
    if type_.startswith(("int", "float")):
        return Name("number", whole=type_.startswith("int"), **more)
    kinds = {"string": "text", "bool": "truth", "timestamp[us, UTC]": "time", "list<int32>": "widths"}
    return Name(kinds.get(type_, "other"), **more)


CELL_NAMES: Mapping[str, Name] = {
    **{n: _name(kind.arrow, rounded=kind.arrow == "float64", word=kind.word) for n, kind in FIELD_TYPES.items()},
    **{name: Name("number") for name in DERIVED},
}
"""Names in conditions on cells."""

TRIAL_NAMES: Mapping[str, Name] = {
    **{column.name: _name(column.type, measured=True) for column in (*TRIALS, *BOOKKEEPING)},
    **CELL_NAMES,
}
"""Names in conditions on trials."""

HISTORY_NAMES: Mapping[str, Name] = {
    **{column.name: _name(column.type, measured=True) for column in HISTORY},
    **TRIAL_NAMES,
}
"""Names in conditions on history; a cell field means the cell's, also where the history has a column of that name."""

WORDS = frozenset(name.word for name in CELL_NAMES.values() if name.word)


def columns_of(names: Iterable[str]) -> set[str]:
    """The columns that decide the values of names."""
    found = {column for name in names for column in DERIVED_FROM.get(name, (name,))}
    return found | {beside for name in found if (beside := OLDER_NULLS.get(name)) is not None}


def unknown(name: str, names: Mapping[str, Name]) -> str:
    """Why a name cannot be used, with the nearest one that can."""
    if name in HISTORY_NAMES and "status" not in names:
        return f"{name} is a column of results, which only conditions on stored rows can use; this one is on cells"
    choices = (kind.options() for kind in FIELD_TYPES.values() if isinstance(kind, Choice))
    if any(name in options for options in (*choices, STATUSES)):
        return f"there is no name {name!r}; text goes in quotes: '{name}'"
    hint = did_you_mean(name, names)
    return f"there is no name {name!r}{hint or '; text goes in quotes, and the names are ' + ', '.join(names)}"


def derived(name: str, names: Names) -> Fraction | None:
    """The value of one of the ``DERIVED`` names; None if a field behind it has none, ValueError if one cannot be."""
    values = [names[field] for field in DERIVED_FROM[name]]
    if not all(isinstance(value, Fraction) for value in values):
        return None
    d_out, d_in, rank = (*values, Fraction(0))[:3]
    assert isinstance(d_out, Fraction) and isinstance(d_in, Fraction) and isinstance(rank, Fraction)  # noqa: PT018
    if name == "entries":
        return d_out * d_in
    if name == "rsum":
        return rank * (d_out + d_in)
    if name == "dof":
        return rank * (d_out + d_in - rank)
    if not 1 <= rank <= min(d_out, d_in) or any(size.denominator != 1 for size in (rank, d_out, d_in)):
        raise ValueError(f"rank {show(rank)} is not a whole number from 1 to min(d_out, d_in)")
    from flatdist.theory.statdim import statistical_dimension

    return Fraction(repr(float(statistical_dimension(int(d_out), int(d_in), int(rank)))))
