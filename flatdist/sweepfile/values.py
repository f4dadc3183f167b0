"""One value of one field as a sweep file gives it: a literal, an expression, or a list of them (hidden widths)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, TypeAlias

from flatdist.cells.cell import FIELD_TYPES
from flatdist.cells.fields import FieldType, Widths
from flatdist.errors import did_you_mean
from flatdist.expressions import CELL_NAMES, Expression, ExpressionError, Value, parse, whole_above, without_noise

Given: TypeAlias = Any  # a literal as the field's type parses it, an Expression, or a tuple that holds Expressions
LARGEST = 10**300
ROUNDED_UP = ("n",)  # fields whose fractional values mean the next whole number


class InvalidValue(ValueError):
    """A value that its field does not allow: the reason, and what is allowed."""

    def __init__(self, reason: str, allowed: str) -> None:
        super().__init__(reason)
        self.reason, self.allowed = reason, allowed


def read_value(field: str, raw: Any) -> Given:
    """Check one YAML value as far as that can be done without the other fields.

    Returns:
        The value as the field's type parses it, or an expression to be computed for every cell.

    Raises:
        InvalidValue: with the reason and what is allowed.
    """
    kind = FIELD_TYPES[field]
    if isinstance(raw, dict):
        raise InvalidValue("is a mapping; a value was expected", kind.allowed)
    if isinstance(raw, list):
        if not isinstance(kind, Widths):
            raise InvalidValue("is a list; lists of values belong under axes", kind.allowed)
        items = tuple(_read_scalar(field, kind.width, item) for item in raw)
        return items if any(isinstance(item, Expression) for item in items) else parse_literal(field, items)
    return _read_scalar(field, kind, raw)


def _read_scalar(field: str, kind: FieldType, raw: Any) -> Given:
    if isinstance(raw, Fraction):  # an axis has computed it
        return parse_literal(field, computed(field, raw), kind)
    if not isinstance(raw, str) or raw == kind.word or not kind.numeric:
        return parse_literal(field, raw, kind)
    try:
        expression = parse(raw)
        if expression.names:
            return expression
        return parse_literal(field, computed(field, expression.evaluate({})), kind)
    except ExpressionError as error:
        hint = did_you_mean(raw, (kind.word,)) if kind.word else ""
        allowed = f"{kind.allowed}, or an expression over the other fields, such as 2*rank"
        if raw.strip().isidentifier():  # a typing error, or text instead of a number
            hint = hint or did_you_mean(raw, CELL_NAMES)
            raise InvalidValue(f"is neither a number nor the name of a field{hint}", allowed) from None
        raise InvalidValue(f"is not an expression: character {error.position}: {error.reason}{hint}", allowed) from None


def parse_literal(field: str, raw: Any, kind: FieldType | None = None) -> Any:
    """Check a literal against its field's declaration, or refuse it with an InvalidValue."""
    kind = FIELD_TYPES[field] if kind is None else kind
    try:
        if field in ROUNDED_UP and isinstance(raw, float) and math.isfinite(raw):
            raw = whole_above(Fraction(raw))
        return kind.parse(raw)
    except (ValueError, OverflowError) as error:
        raise InvalidValue(str(error), kind.allowed) from None


def computed(field: str, value: Value) -> Any:
    """An expression's value in the form that a field accepts; InvalidValue where it is no number."""
    if isinstance(value, Fraction):
        if abs(value) > LARGEST:
            raise InvalidValue("comes out too large", FIELD_TYPES[field].allowed)
        if field in ROUNDED_UP:
            return whole_above(value)
        whole = without_noise(value)
        return int(whole) if whole.denominator == 1 else value
    if value is None or isinstance(value, bool):
        raise InvalidValue(f"comes out as {value}, which is not a number", FIELD_TYPES[field].allowed)
    return value


def names_in(given: Given) -> frozenset[str]:
    """The names that a value depends on."""
    items = given if isinstance(given, tuple) else (given,)
    return frozenset().union(*(item.names for item in items if isinstance(item, Expression)))
