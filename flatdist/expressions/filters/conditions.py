"""What a filter may be given as, and the conditions that it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatdist.errors import StoreError
from flatdist.expressions.filters.comparisons import (
    COMPARE,
    EXAMPLE,
    Condition,
    Word,
    column_of,
    comparison,
    constant_value,
    is_many,
)
from flatdist.expressions.filters.text import parse_text
from flatdist.suggestions import did_you_mean

if TYPE_CHECKING:
    import pyarrow.compute as pc

Where = Mapping[str, Any] | Sequence[tuple[str, str, Any]] | str | None

_NOT_HERE = {
    "statdim": "is for sweep files and cells only; write its value, from flatdist.theory.statistical_dimension"
}


def parse_where(where: Where, columns: Iterable[str]) -> list[Condition]:
    """Check a ``where`` and split it into conditions.

    Args:
        where: see :mod:`flatdist.expressions.filters`.
        columns: the columns that may be named.

    Raises:
        StoreError: it names a column that does not exist, or is more than comparisons of columns.
    """
    known = set(columns)
    if where is None:
        return []
    if isinstance(where, str):
        conditions = parse_text(where, known)
    elif isinstance(where, Mapping):
        conditions = [_compare(name, "in" if is_many(value) else "==", value) for name, value in where.items()]
    elif isinstance(where, Sequence) and all(isinstance(item, (tuple, list)) and len(item) == 3 for item in where):
        conditions = [_compare(*item) for item in where]
    else:
        raise StoreError(f"where={where!r} is neither text, nor a mapping, nor a list of tuples; {EXAMPLE}")
    for condition in conditions:
        for name in sorted(condition.names - known):
            if name in _NOT_HERE:
                raise StoreError(f"where: {condition.text}: {name} {_NOT_HERE[name]}")
            raise StoreError(
                f"where names a column {name!r} that does not exist{did_you_mean(name, known)}; "
                f"allowed: {', '.join(sorted(known))}"
            )
    return conditions


def conjunction(conditions: Sequence[Condition]) -> pc.Expression | None:
    """Return one Arrow expression for all conditions, None for none."""
    whole = None
    for condition in conditions:
        expression = condition.expression()
        whole = expression if whole is None else whole & expression
    return whole


def _compare(name: str, symbol: str, value: Any) -> Condition:
    text = f"{name} {symbol} {value!r}"
    if not isinstance(name, str):
        raise StoreError(f"where: {text}: the column must be a name; {EXAMPLE}")
    if symbol not in {*COMPARE, "in", "not in"}:
        raise StoreError(f"where: {text}: {symbol!r} is no operator; allowed: {', '.join(COMPARE)}, in, not in")
    if (symbol in ("in", "not in")) != is_many(value):
        raise StoreError(f"where: {text}: in and not in take a list, and other operators one value")
    constant = constant_value(value, name)
    words = any(isinstance(one, Word) for one in (constant if isinstance(constant, list) else [constant]))
    names = frozenset([name, "method"] if words else [name])
    return Condition(names, text, lambda: comparison(column_of(name), symbol, constant, name))
