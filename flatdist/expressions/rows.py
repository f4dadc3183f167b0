"""Conditions on stored rows: pushed down to Parquet as far as Arrow decides them exactly.

The exact back end decides the others once for every combination of values in the rows, so that ``n == 1.1*dof``
selects the rows of the cells that it selects in a sweep file.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flatdist.cells.cell import FIELDS, NULL_NAMES, null_word
from flatdist.cells.columns import OLDER_NULLS
from flatdist.expressions.exact import Expression, ExpressionError, Value, Word, to_value
from flatdist.expressions.grammar import Reader, is_many
from flatdist.expressions.names import DERIVED, TRIAL_NAMES, Name, columns_of, derived

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

Where = Mapping[str, Any] | Sequence[tuple[str, str, Any]] | str | None
EXAMPLE = "write it like \"rank == 2 and n > 40\", {'rank': 2} or [('n', '>', 40)]"


@dataclass(frozen=True)
class Condition:
    """One condition on rows; all of a ``where`` must hold."""

    expression: Expression
    names: frozenset[str]  # the columns that decide it
    known: Mapping[str, Name]  # what its names stand for

    @functools.cached_property
    def arrow(self) -> pc.Expression | None:
        """The condition for Arrow; None where Arrow cannot decide it exactly."""
        from flatdist.expressions.arrow import NotInArrow, filter_of

        try:
            return filter_of(self.expression, self.known)
        except NotInArrow:
            return None


def parse_where(where: Where, names: Mapping[str, Name] = TRIAL_NAMES) -> list[Condition]:
    """Check a ``where`` and split it into conditions.

    Args:
        where: text, a mapping from columns to values or lists of them, or (column, operator, value) tuples.
        names: the columns that may be named.

    Raises:
        ExpressionError: it names a column that does not exist, or compares what cannot be compared.
    """
    if where is None:
        return []
    if isinstance(where, str):
        whole = Reader(where, names).read()
        whole.require_condition()
        return [_condition(part, names) for part in (whole.parts if whole.op == "and" else (whole,))]
    if isinstance(where, Mapping):
        where = [(name, "in" if is_many(value) else "==", value) for name, value in where.items()]
    if not is_many(where) or not all(isinstance(item, (tuple, list)) and len(item) == 3 for item in where):
        raise ExpressionError(repr(where), 1, f"is neither text, nor a mapping, nor a list of tuples; {EXAMPLE}")
    return [_from_tuple(*item, names) for item in where]


def _from_tuple(name: Any, symbol: Any, value: Any, names: Mapping[str, Name]) -> Condition:
    text = f"{name} {symbol} {value!r}"
    reader = Reader(text, names)
    if not isinstance(name, str):
        raise reader.error(1, f"the column must be a name; {EXAMPLE}")
    position = len(name) + 2
    symbol = "==" if symbol == "=" else symbol
    left, right = reader.name(name, 1), reader.constant(value, position + len(str(symbol)) + 1)
    return _condition(reader.compare(symbol, left, right, position), names)


def _condition(expression: Expression, known: Mapping[str, Name]) -> Condition:
    names = columns_of(expression.names)
    if any(known[name].word for name in names):
        names.add("method")  # which says whether null stands for the word
    if "batch_size" in names:
        names.add("flatdist_version")  # SAM's null is full only since 0.2
    return Condition(expression, frozenset(names), known)


def conjunction(conditions: Sequence[Condition]) -> pc.Expression | None:
    """One Arrow expression for all conditions that Arrow can decide; None for none."""
    found = [condition.arrow for condition in conditions if condition.arrow is not None]
    return functools.reduce(operator.and_, found) if found else None


def holding(table: pa.Table, conditions: Sequence[Condition]) -> npt.NDArray[np.bool_]:
    """Which rows satisfy the conditions that Arrow cannot decide; ExpressionError where one cannot be computed."""
    mask = np.ones(len(table), bool)
    for condition in conditions:
        if condition.arrow is not None:
            continue
        names = sorted(condition.names)
        known: dict[tuple[Any, ...], bool] = {}  # each combination of values is computed once
        rows = np.flatnonzero(mask)
        values = (table.column(name).take(rows).to_pylist() for name in names)
        columns = ([tuple(one) if isinstance(one, list) else one for one in column] for column in values)
        for row, key in zip(rows, zip(*columns, strict=True), strict=True):
            if key not in known:
                known[key] = condition.expression.holds(Row(dict(zip(names, key, strict=True))))
            mask[row] = known[key]
    return mask


class Row:
    """A row's values by name, as the exact back end computes with them."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row = row

    def __getitem__(self, name: str) -> Value:
        if name in DERIVED:
            return derived(name, self)
        value = self.row[name]
        if value is None and name in OLDER_NULLS:
            beside = OLDER_NULLS[name]
            value = FIELDS[name].default if beside is None or self.row[beside] is not None else None
        if value is None and name in NULL_NAMES:
            word = null_word(name, self.row["method"], self.row.get("flatdist_version"))
            return None if word is None else Word(word)
        return to_value(value)
