"""The Arrow back end: conditions on stored rows, pushed down to Parquet as far as Arrow decides them exactly.

Arrow compares a column with constants and computes with measured numbers in double precision. Arithmetic over the
fields of cells is exact: the exact back end decides once for every combination of values in the rows, so that ``n ==
1.1*dof`` selects the rows of the cells that it selects in a sweep file.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flatdist.cells.cell import FIELDS, NULL_NAMES, OLD, null_word
from flatdist.cells.columns import OLDER_NULLS
from flatdist.expressions.exact import COMPARISONS
from flatdist.expressions.grammar import Expression, Node, Reader, finished, is_many, require_condition
from flatdist.expressions.names import DERIVED, DERIVED_FROM, TRIAL_NAMES, Name, derived
from flatdist.expressions.values import ExpressionError, Value, Word, to_value
from flatdist.methods import METHODS

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

Where = Mapping[str, Any] | Sequence[tuple[str, str, Any]] | str | None
MOST = 2**31  # whole numbers beyond it are in no column that counts cells' fields
EXAMPLE = "write it like \"rank == 2 and n > 40\", {'rank': 2} or [('n', '>', 40)]"


class _NotInArrow(Exception):
    """A condition that Arrow would decide otherwise than exact arithmetic."""


@dataclass(frozen=True)
class Condition:
    """One condition on rows; all of a ``where`` must hold.

    Attributes:
        expression: the parsed condition.
        names: the columns that decide it.
        known: what its names stand for.
    """

    expression: Expression
    names: frozenset[str]
    known: Mapping[str, Name]

    @functools.cached_property
    def arrow(self) -> pc.Expression | None:
        """The condition for Arrow; None where Arrow cannot decide it exactly."""
        try:
            return _arrow(self.expression.node, self.known)
        except _NotInArrow:
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
        node = Reader(where, names).read()
        require_condition(where, node)
        parts = node.parts if node.op == "and" else (node,)
        return [_condition(part, where, names) for part in parts]
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
    return _condition(reader.compare(symbol, left, right, position), text, names)


def _condition(node: Node, text: str, known: Mapping[str, Name]) -> Condition:
    names = _columns(node.names)
    if any(known[name].word for name in names):
        names.add("method")  # which says whether null stands for the word
    if "batch_size" in names:
        names.add("flatdist_version")  # SAM's null is full only since 0.2
    return Condition(finished(node, text), frozenset(names), known)


def conjunction(conditions: Sequence[Condition]) -> pc.Expression | None:
    """One Arrow expression for all conditions that Arrow can decide; None for none."""
    whole = None
    for condition in conditions:
        one = condition.arrow
        if one is not None:
            whole = one if whole is None else whole & one
    return whole


def holding(table: pa.Table, conditions: Sequence[Condition]) -> npt.NDArray[np.bool_]:
    """Which rows satisfy the conditions that Arrow cannot decide; each combination of values is computed once.

    Raises:
        ExpressionError: a condition cannot be computed for some row, for instance because it divides by zero.
    """
    mask = np.ones(len(table), bool)
    for condition in conditions:
        if condition.arrow is not None:
            continue
        names = sorted(condition.names)
        known: dict[tuple[Any, ...], bool] = {}
        rows = np.flatnonzero(mask)
        for row, key in zip(
            rows, zip(*(_values(table.column(name).take(rows)) for name in names), strict=True), strict=True
        ):
            if key not in known:
                known[key] = condition.expression.holds(Row(dict(zip(names, key, strict=True))))
            mask[row] = known[key]
    return mask


def _values(column: pa.ChunkedArray) -> list[Any]:
    return [tuple(value) if isinstance(value, list) else value for value in column.to_pylist()]


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


def _arrow(node: Node, known: Mapping[str, Name], *, opposite: bool = False) -> pc.Expression:  # noqa: PLR0911
    """A condition or its opposite; never null where it holds, so that missing values count as in exact arithmetic."""
    import pyarrow.compute as pc

    match node.op:
        case "constant":
            return pc.scalar(node.value is not opposite)
        case "not":
            return _arrow(node.parts[0], known, opposite=not opposite)
        case "and" | "or":
            join = operator.and_ if (node.op == "and") is not opposite else operator.or_
            return functools.reduce(join, (_arrow(part, known, opposite=opposite) for part in node.parts))
        case "compare" if node.value == "!=":
            equal = Node("compare", "truth", node.position, "==", node.parts)
            return _arrow(equal, known, opposite=not opposite)
        case "name":
            holds = _column(node.value)
            return ~holds | holds.is_null() if opposite else holds
        case "in":
            holds = _membership(node, known)
            return ~holds if opposite else holds
    holds = _comparison(node, known)
    if not opposite:
        return holds
    if node.parts[1].kind in ("none", "word"):
        return ~holds
    missing = (_column(name).is_null() for name in sorted(_columns(node.names)))
    return functools.reduce(operator.or_, missing, ~holds)


def _columns(names: Iterable[str]) -> set[str]:
    found = {column for name in names for column in DERIVED_FROM.get(name, (name,))}
    return found | {beside for name in found if (beside := OLDER_NULLS.get(name)) is not None}


def _column(name: str) -> pc.Expression:
    """A column; in files older than it, its value there."""
    import pyarrow.compute as pc

    field = pc.field(name)
    if name not in OLDER_NULLS:
        return field
    filled, beside = pc.coalesce(field, pc.scalar(FIELDS[name].default)), OLDER_NULLS[name]
    return filled if beside is None else pc.if_else(pc.field(beside).is_valid(), filled, field)


def _comparison(node: Node, known: Mapping[str, Name]) -> pc.Expression:
    import pyarrow.compute as pc

    left, right = node.parts
    if left.op == "name" and right.is_constant and left.value not in DERIVED and left.kind != "widths":
        column = _column(left.value)
        if right.kind == "none":
            return column.is_null()
        if right.kind == "word":
            users, newer = ([m for m in METHODS if null_word(left.value, m, version)] for version in (OLD, None))
            found = pc.field("method").isin(users)
            if len(newer) > len(users):
                found = found | pc.field("method").isin(newer) & ~pc.field("flatdist_version").isin([OLD])
            return found & column.is_null()
        if left.kind != "number":
            return COMPARISONS[node.value](column, pc.scalar(right.value))
        if known[left.value].whole and abs(right.value) < MOST:
            return _whole(column, node.value, right.value)
        return COMPARISONS[node.value](column, pc.scalar(_float(right.value)))
    if any(known[name].measured for name in node.names) and left.kind == right.kind == "number":
        return COMPARISONS[node.value](_number(left, known), _number(right, known))
    raise _NotInArrow


def _whole(column: pc.Expression, symbol: str, value: Fraction) -> pc.Expression:
    """Whole numbers compared with any number."""
    import pyarrow.compute as pc

    if value.denominator == 1:
        return COMPARISONS[symbol](column, pc.scalar(int(value)))
    if symbol == "==":
        return pc.scalar(False)
    return column <= pc.scalar(math.floor(value)) if "<" in symbol else column >= pc.scalar(math.ceil(value))


def _membership(node: Node, known: Mapping[str, Name]) -> pc.Expression:
    import pyarrow.compute as pc

    left, *options = node.parts
    if left.op != "name" or left.value in DERIVED or left.kind == "widths" or not all(o.is_constant for o in options):
        raise _NotInArrow
    values = [option.value for option in options if option.kind == left.kind]
    if known[left.value].whole:
        values = [int(value) for value in values if value.denominator == 1 and abs(value) < MOST]
    elif left.kind == "number":
        values = [_float(value) for value in values]
    found = _column(left.value).isin(values) if values else pc.scalar(False)
    for option in options:
        if option.kind != left.kind:
            found = found | _comparison(Node("compare", "truth", node.position, "==", (left, option)), known)
    return found


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _number(node: Node, known: Mapping[str, Name]) -> pc.Expression:
    import pyarrow.compute as pc

    if node.is_constant:
        return pc.scalar(_float(node.value))
    if node.op == "name":
        if node.value == "statdim" or known[node.value].kind != "number":
            raise _NotInArrow
        if node.value not in DERIVED:
            return _column(node.value).cast("float64")
        d_out, d_in, rank = (_column(name).cast("float64") for name in ("d_out", "d_in", "rank"))
        return {"dof": rank * (d_out + d_in - rank), "rsum": rank * (d_out + d_in), "entries": d_out * d_in}[node.value]
    parts = [_number(part, known) for part in node.parts]
    return _arrow_functions()[node.value](*parts)


@functools.cache
def _arrow_functions() -> Mapping[str, Callable[..., Any]]:
    import pyarrow.compute as pc

    half = pc.scalar(0.5)
    return {
        "+": operator.add, "-": operator.sub, "*": operator.mul, "/": pc.divide, "**": pc.power,
        "//": lambda left, right: pc.floor(pc.divide(left, right)),
        "negative": pc.negate, "positive": lambda value: value, "as stored": lambda value: value,
        "min": functools.partial(pc.min_element_wise, skip_nulls=False),
        "max": functools.partial(pc.max_element_wise, skip_nulls=False),
        "ceil": pc.ceil, "floor": pc.floor, "round": lambda value: pc.floor(value + half), "sqrt": pc.sqrt,
        "log": lambda value, base=None: pc.ln(value) if base is None else pc.logb(value, base),
    }  # fmt: skip
