"""``where``: which rows are wanted, as a mapping, as (column, operator, value) tuples, or as text.

::

    {"rank": 2, "method": ["sam", "label_noise_sgd"], "learning_rate": None}
    [("n", ">", 40), ("relative_error", "<=", 1e-2)]
    "rank == 2 and n > 1.5*dof and method in ['sam', 'label_noise_sgd']"

Each becomes Arrow expressions, which Parquet evaluates while it reads. Text is parsed, never evaluated as Python: names
of columns, numbers, strings, lists, comparisons, and/or/not, + - * / and the derived names below. ``auto`` and ``full``
are stored as null, as is a field that a row's method does not use: comparing with the word means only the rows whose
method uses the field, comparing with ``None`` means null for either reason. Both take == and != only; any other
comparison with null leaves the row out.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.cell import FIELDS
from flatdist.columns import OLDER_VALUES
from flatdist.errors import StoreError
from flatdist.fields import Keyword
from flatdist.methods import METHODS
from flatdist.suggestions import did_you_mean

if TYPE_CHECKING:
    import pyarrow.compute as pc

Where = Mapping[str, Any] | Sequence[tuple[str, str, Any]] | str | None

DERIVED = {"dof": "rank*(d_out+d_in-rank)", "rsum": "rank*(d_out+d_in)", "entries": "d_out*d_in"}
_NOT_HERE = {
    "statdim": "is for sweep files and cells only; write its value, from flatdist.theory.statistical_dimension"
}
_WORDS = frozenset(
    field.metadata["kind"].word for field in FIELDS.values() if isinstance(field.metadata["kind"], Keyword)
)  # auto, full
_LONGEST, _DEEPEST = 10_000, 50
_EXAMPLE = "write it like \"rank == 2 and n > 40\", {'rank': 2} or [('n', '>', 40)]"

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARE_NODES: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "==",
    ast.IsNot: "!=",
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class _Word(str):
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


def parse_where(where: Where, columns: Iterable[str]) -> list[Condition]:
    """Check a ``where`` and split it into conditions.

    Args:
        where: see the module.
        columns: the columns that may be named.

    Raises:
        StoreError: it names a column that does not exist, or is more than comparisons of columns.
    """
    known = set(columns)
    if where is None:
        return []
    if isinstance(where, str):
        conditions = _parse_text(where, known)
    elif isinstance(where, Mapping):
        conditions = [_compare(name, "in" if _is_many(value) else "==", value) for name, value in where.items()]
    elif isinstance(where, Sequence) and all(isinstance(item, (tuple, list)) and len(item) == 3 for item in where):
        conditions = [_compare(*item) for item in where]
    else:
        raise StoreError(f"where={where!r} is neither text, nor a mapping, nor a list of tuples; {_EXAMPLE}")
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
        raise StoreError(f"where: {text}: the column must be a name; {_EXAMPLE}")
    if symbol not in {*_COMPARE, "in", "not in"}:
        raise StoreError(f"where: {text}: {symbol!r} is no operator; allowed: {', '.join(_COMPARE)}, in, not in")
    if (symbol in ("in", "not in")) != _is_many(value):
        raise StoreError(f"where: {text}: in and not in take a list, and other operators one value")
    constant = _constant(value, name)
    words = any(isinstance(one, _Word) for one in (constant if isinstance(constant, list) else [constant]))
    names = frozenset([name, "method"] if words else [name])
    return Condition(names, text, lambda: _comparison(_column(name), symbol, constant, name))


def _comparison(left: Any, symbol: str, right: Any, name: str | None = None) -> pc.Expression:
    """Compare two built values; ``name`` is the column among them, if one stands alone."""
    import pyarrow.compute as pc

    if isinstance(left, _Word):
        left, right = right, left
    if symbol in ("in", "not in"):
        words = [value for value in right if isinstance(value, _Word)]
        values = [value for value in right if value is not None and not isinstance(value, _Word)]
        inside = left.isin(values) if values else pc.scalar(False)
        if words:
            inside = inside | _is_word(left, words[0], name)
        if len(values) + len(words) < len(right):
            inside = inside | left.is_null()
        return inside if symbol == "in" else ~inside
    if isinstance(right, _Word):
        if symbol not in ("==", "=", "!="):
            raise StoreError(f"where: {right} can be compared with == and !=, not with {symbol}")
        is_word = _is_word(left, right, name)
        return left.is_valid() if symbol == "!=" else is_word
    if right is None or left is None:
        expression = left if right is None else right
        if symbol not in ("==", "=", "!="):
            raise StoreError(f"where: None can be compared with == and !=, not with {symbol}")
        return expression.is_null() if symbol != "!=" else expression.is_valid()
    return _COMPARE[symbol](left, right)


def _is_word(column: pc.Expression, word: _Word, name: str | None) -> pc.Expression:
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


def _column(name: str) -> pc.Expression:
    import pyarrow.compute as pc

    if name in OLDER_VALUES:
        return pc.coalesce(pc.field(name), pc.scalar(OLDER_VALUES[name]))
    return pc.field(name)


def _constant(value: Any, name: str | None = None) -> Any:
    """A plain value; text that is the field's keyword (auto, full) becomes that word."""
    if _is_many(value):
        return [_constant(item, name) for item in value]
    kind = FIELDS[name].metadata["kind"] if name is not None and name in FIELDS else None
    if isinstance(kind, Keyword) and isinstance(value, str) and value == kind.word:
        return _Word(value)
    return value.item() if isinstance(value, np.generic) else value


def _is_many(value: Any) -> bool:
    return isinstance(value, (Sequence, Set, range, np.ndarray)) and not isinstance(value, (str, bytes))


def _parse_text(text: str, known: set[str]) -> list[Condition]:
    if len(text) > _LONGEST:
        raise StoreError(f"where is {len(text)} characters long; allowed: at most {_LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise StoreError(f"where={text!r} cannot be read: {error.msg}; {_EXAMPLE}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise StoreError(f"where={text!r} cannot be read ({error}); {_EXAMPLE}") from error
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    return [_from_tree(part, known) for part in parts]


def _from_tree(tree: ast.expr, known: set[str]) -> Condition:
    text = ast.unparse(tree)
    _check(tree, text, 0)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names |= _names_of(node.id, known)
        if getattr(node, "id", getattr(node, "value", None)) in _WORDS:
            names.add("method")  # which rows use the field
    return Condition(frozenset(names), text, lambda: _build(tree, known))


def _names_of(name: str, known: set[str]) -> set[str]:
    if name in ("true", "false", *_WORDS):
        return set()
    if name in DERIVED and name not in known:
        return {node.id for node in ast.walk(ast.parse(DERIVED[name])) if isinstance(node, ast.Name)}
    return {name}


_ALLOWED = (
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.Compare, ast.BinOp),
    *(ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Set, *_COMPARE_NODES, *_ARITHMETIC),
)


def _check(node: ast.AST, text: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise StoreError(f"where: {text[:80]}… is nested more than {_DEEPEST} deep")
    constant = isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, str, type(None)))
    if constant or not isinstance(node, _ALLOWED):
        raise StoreError(
            f"where: {text!r} holds a {type(node).__name__}, which is not allowed; allowed: columns, numbers, strings, "
            f"lists, comparisons, and/or/not, + - * /; {_EXAMPLE}"
        )
    for child in ast.iter_child_nodes(node):
        _check(child, text, depth + 1)


def _build(node: ast.expr, known: set[str]) -> Any:  # noqa: PLR0911
    """The Arrow expression, or plain value, of a checked syntax tree."""
    match node:
        case ast.Constant(value=constant):
            return constant
        case ast.Name(id=name):
            return _name(name, known)
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [_build(item, known) for item in items]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_expression(operand, known)
        case ast.UnaryOp(op=sign, operand=operand):
            return _arithmetic(ast.Sub if isinstance(sign, ast.USub) else ast.Add, 0, _build(operand, known))
        case ast.BinOp(left=left, op=symbol, right=right):
            return _arithmetic(type(symbol), _build(left, known), _build(right, known))
        case ast.BoolOp(op=kind, values=values):
            join = operator.and_ if isinstance(kind, ast.And) else operator.or_
            return functools.reduce(join, (_expression(value, known) for value in values))
        case ast.Compare(left=left, ops=symbols, comparators=others):
            return _chain([left, *others], [_COMPARE_NODES[type(symbol)] for symbol in symbols], known)
    raise AssertionError(ast.dump(node))


def _chain(nodes: Sequence[ast.expr], symbols: Sequence[str], known: set[str]) -> Any:
    """``a < b <= c`` is ``a < b and b <= c``."""
    whole = None
    for left, symbol, right in zip(nodes[:-1], symbols, nodes[1:], strict=True):
        columns = (node.id for node in (left, right) if isinstance(node, ast.Name) and node.id not in _WORDS)
        name = next(columns, None)
        first, second = _constant(_build(left, known), name), _constant(_build(right, known), name)
        if (symbol in ("in", "not in")) != isinstance(second, list):
            raise StoreError(f"where: {ast.unparse(right)!r}: in and not in take a list; {_EXAMPLE}")
        if not (_is_expression(first) or _is_expression(second)):
            raise StoreError(f"where: {ast.unparse(left)} {symbol} {ast.unparse(right)} names no column; {_EXAMPLE}")
        one = _comparison(first, symbol, second, name)
        whole = one if whole is None else whole & one
    return whole


def _name(name: str, known: set[str]) -> Any:
    if name in ("true", "false"):
        return name == "true"
    if name in _WORDS:
        return _Word(name)
    if name in DERIVED and name not in known:
        return _build(ast.parse(DERIVED[name], mode="eval").body, known)
    return _column(name)


def _arithmetic(symbol: type[ast.operator], left: Any, right: Any) -> Any:
    """Arithmetic in float64: int32 columns would overflow, and divide as integers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for value in (left, right):
        if not _is_expression(value) and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise StoreError(f"where: arithmetic with {value!r}, which is no number; {_EXAMPLE}")
    if not (_is_expression(left) or _is_expression(right)):
        if symbol is ast.Div and right == 0:
            raise StoreError("where: division by zero")
        return _ARITHMETIC[symbol](left, right)
    first, second = (
        value.cast(pa.float64()) if _is_expression(value) else pc.scalar(float(value)) for value in (left, right)
    )
    return _ARITHMETIC[symbol](first, second)


def _expression(node: ast.expr, known: set[str]) -> Any:
    import pyarrow.compute as pc

    value = _build(node, known)
    if isinstance(value, bool):
        return pc.scalar(value)
    if not _is_expression(value):
        raise StoreError(f"where: {ast.unparse(node)!r} is no condition; {_EXAMPLE}")
    return value


def _is_expression(value: Any) -> bool:
    import pyarrow.compute as pc

    return isinstance(value, pc.Expression)
