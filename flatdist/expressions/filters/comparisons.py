"""Comparisons of columns with values, as the Arrow expressions that Parquet evaluates while it reads."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.cells.cell import FIELDS
from flatdist.cells.columns import OLDER_VALUES
from flatdist.cells.fields import Keyword
from flatdist.errors import StoreError
from flatdist.methods import METHODS

if TYPE_CHECKING:
    import pyarrow.compute as pc

WORDS = frozenset(
    field.metadata["kind"].word for field in FIELDS.values() if isinstance(field.metadata["kind"], Keyword)
)  # auto, full
EXAMPLE = "write it like \"rank == 2 and n > 40\", {'rank': 2} or [('n', '>', 40)]"


COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Word(str):
    """``auto`` or ``full``: null, where the row's method uses the field."""

    __slots__ = ()


@dataclass(frozen=True)
class Condition:
    """One condition; all of a ``where`` must hold.

    Attributes:
        names: the columns it is about.
        text: how to show it.
        expression: makes the Arrow expression.
    """

    names: frozenset[str]
    text: str
    expression: Callable[[], pc.Expression]


def comparison(left: Any, symbol: str, right: Any, name: str | None = None) -> pc.Expression:
    """Compare two built values; ``name`` is the column among them, if one stands alone."""
    import pyarrow.compute as pc

    if isinstance(left, Word):
        left, right = right, left
    if symbol in ("in", "not in"):
        words = [value for value in right if isinstance(value, Word)]
        values = [value for value in right if value is not None and not isinstance(value, Word)]
        inside = left.isin(values) if values else pc.scalar(False)
        if words:
            inside = inside | _is_word(left, words[0], name)
        if len(values) + len(words) < len(right):
            inside = inside | left.is_null()
        return inside if symbol == "in" else ~inside
    if isinstance(right, Word):
        if symbol not in ("==", "=", "!="):
            raise StoreError(f"where: {right} can be compared with == and !=, not with {symbol}")
        is_word = _is_word(left, right, name)
        return left.is_valid() if symbol == "!=" else is_word
    if right is None or left is None:
        expression = left if right is None else right
        if symbol not in ("==", "=", "!="):
            raise StoreError(f"where: None can be compared with == and !=, not with {symbol}")
        return expression.is_null() if symbol != "!=" else expression.is_valid()
    return COMPARE[symbol](left, right)


def _is_word(column: pc.Expression, word: Word, name: str | None) -> pc.Expression:
    """Whether a field has the value that is written as a word; a null of a method without the field has not."""
    import pyarrow.compute as pc

    kind = FIELDS[name].metadata["kind"] if name is not None and name in FIELDS else None
    if not (isinstance(kind, Keyword) and kind.word == word):
        raise StoreError(f"where: {word} is no value of {name or 'an expression'}; compare it with {_field_of(word)}")
    users = [method.name for method in METHODS.values() if name in method.fields]
    return pc.field("method").isin(users) & column.is_null()


def _field_of(word: str) -> str:
    kinds = ((name, field.metadata["kind"]) for name, field in FIELDS.items())
    return " or ".join(name for name, kind in kinds if isinstance(kind, Keyword) and kind.word == word)


def column_of(name: str) -> pc.Expression:
    """A column; in files older than it, its value there."""
    import pyarrow.compute as pc

    if name in OLDER_VALUES:
        return pc.coalesce(pc.field(name), pc.scalar(OLDER_VALUES[name]))
    return pc.field(name)


def constant_value(value: Any, name: str | None = None) -> Any:
    """A plain value; text that is the field's keyword (auto, full) becomes that word."""
    if is_many(value):
        return [constant_value(item, name) for item in value]
    kind = FIELDS[name].metadata["kind"] if name is not None and name in FIELDS else None
    if isinstance(kind, Keyword) and isinstance(value, str) and value == kind.word:
        return Word(value)
    return value.item() if isinstance(value, np.generic) else value


def is_many(value: Any) -> bool:
    """Whether a value is a list of values; text is one value."""
    return isinstance(value, (Sequence, Set, range, np.ndarray)) and not isinstance(value, (str, bytes))


def arithmetic(symbol: type[ast.operator], left: Any, right: Any) -> Any:
    """Arithmetic in float64: int32 columns would overflow, and divide as integers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for value in (left, right):
        if not is_expression(value) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise StoreError(f"where: arithmetic with {value!r}, which is no number; {EXAMPLE}")
    if not (is_expression(left) or is_expression(right)):
        if symbol is ast.Div and right == 0:
            raise StoreError("where: division by zero")
        return ARITHMETIC[symbol](left, right)
    first, second = (
        value.cast(pa.float64()) if is_expression(value) else pc.scalar(float(value)) for value in (left, right)
    )
    return ARITHMETIC[symbol](first, second)


def is_expression(value: Any) -> bool:
    """Whether a built value depends on columns."""
    import pyarrow.compute as pc

    return isinstance(value, pc.Expression)
