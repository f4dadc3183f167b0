"""The Arrow back end: conditions on columns, as far as Arrow decides them exactly.

Arrow compares a column with constants and computes with measured numbers in double precision. Arithmetic over the
fields of cells is left to the exact back end.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pyarrow.compute as pc

from flatdist.cells.cell import FIELDS, OLD, null_word
from flatdist.cells.columns import OLDER_NULLS
from flatdist.expressions.exact import COMPARISONS, Expression
from flatdist.expressions.names import DERIVED, Name, columns_of
from flatdist.methods import METHODS

MOST = 2**31  # whole numbers beyond it are in no column that counts cells' fields
HALF = pc.scalar(0.5)
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": pc.divide, "**": pc.power,
    "//": lambda left, right: pc.floor(pc.divide(left, right)),
    "negative": pc.negate, "positive": lambda value: value, "as stored": lambda value: value,
    "min": functools.partial(pc.min_element_wise, skip_nulls=False),
    "max": functools.partial(pc.max_element_wise, skip_nulls=False),
    "ceil": pc.ceil, "floor": pc.floor, "round": lambda value: pc.floor(value + HALF), "sqrt": pc.sqrt,
    "log": lambda value, base=None: pc.ln(value) if base is None else pc.logb(value, base),
}  # fmt: skip


class NotInArrow(Exception):
    """A condition that Arrow would decide otherwise than exact arithmetic."""


def filter_of(node: Expression, known: Mapping[str, Name], *, opposite: bool = False) -> pc.Expression:  # noqa: PLR0911
    """A condition or its opposite; never null where it holds, so that missing values count as in exact arithmetic.

    Raises:
        NotInArrow: the exact back end must decide it.
    """
    match node.op:
        case "constant":
            return pc.scalar(node.value is not opposite)
        case "not":
            return filter_of(node.parts[0], known, opposite=not opposite)
        case "and" | "or":
            join = operator.and_ if (node.op == "and") is not opposite else operator.or_
            return functools.reduce(join, (filter_of(part, known, opposite=opposite) for part in node.parts))
        case "compare" if node.value == "!=":
            return filter_of(replace(node, value="=="), known, opposite=not opposite)
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
    missing = (_column(name).is_null() for name in sorted(columns_of(node.names)))
    return functools.reduce(operator.or_, missing, ~holds)


def _column(name: str) -> pc.Expression:
    """A column; in files older than it, its value there."""
    field = pc.field(name)
    if name not in OLDER_NULLS:
        return field
    filled, beside = pc.coalesce(field, pc.scalar(FIELDS[name].default)), OLDER_NULLS[name]
    return filled if beside is None else pc.if_else(pc.field(beside).is_valid(), filled, field)


def _is_column(node: Expression) -> bool:
    return node.op == "name" and node.value not in DERIVED and node.kind != "widths"


def _comparison(node: Expression, known: Mapping[str, Name]) -> pc.Expression:
    left, right = node.parts
    if _is_column(left) and right.is_constant:
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
    raise NotInArrow


def _whole(column: pc.Expression, symbol: str, value: Fraction) -> pc.Expression:
    """Whole numbers compared with any number."""
    if value.denominator == 1:
        return COMPARISONS[symbol](column, pc.scalar(int(value)))
    if symbol == "==":
        return pc.scalar(False)
    return column <= pc.scalar(math.floor(value)) if "<" in symbol else column >= pc.scalar(math.ceil(value))


def _membership(node: Expression, known: Mapping[str, Name]) -> pc.Expression:
    left, *options = node.parts
    if not _is_column(left) or not all(option.is_constant for option in options):
        raise NotInArrow
    values = [option.value for option in options if option.kind == left.kind]
    if known[left.value].whole:
        values = [int(value) for value in values if value.denominator == 1 and abs(value) < MOST]
    elif left.kind == "number":
        values = [_float(value) for value in values]
    found = _column(left.value).isin(values) if values else pc.scalar(False)
    for option in options:
        if option.kind != left.kind:
            found = found | _comparison(replace(node, op="compare", value="==", parts=(left, option)), known)
    return found


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _number(node: Expression, known: Mapping[str, Name]) -> pc.Expression:
    if node.is_constant:
        return pc.scalar(_float(node.value))
    if node.op != "name":
        return FUNCTIONS[node.value](*(_number(part, known) for part in node.parts))
    if node.value == "statdim" or known[node.value].kind != "number":
        raise NotInArrow
    if node.value not in DERIVED:
        return _column(node.value).cast("float64")
    d_out, d_in, rank = (_column(name).cast("float64") for name in ("d_out", "d_in", "rank"))
    return {"dof": rank * (d_out + d_in - rank), "rsum": rank * (d_out + d_in), "entries": d_out * d_in}[node.value]
