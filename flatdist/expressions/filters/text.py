"""Filters as text: parsed as an expression, checked node by node, and built into Arrow; never evaluated as Python."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Sequence
from typing import Any

from flatdist.errors import StoreError
from flatdist.expressions.filters.comparisons import (
    ARITHMETIC,
    EXAMPLE,
    WORDS,
    Condition,
    Word,
    arithmetic,
    column_of,
    comparison,
    constant_value,
    is_expression,
)

DERIVED = {"dof": "rank*(d_out+d_in-rank)", "rsum": "rank*(d_out+d_in)", "entries": "d_out*d_in"}
_LONGEST, _DEEPEST = 10_000, 50
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


def parse_text(text: str, known: set[str]) -> list[Condition]:
    """The conditions that a text joins with ``and``.

    Args:
        text: as a user writes it.
        known: columns, which come before derived names.

    Raises:
        StoreError: it is no expression, or holds more than columns, constants, comparisons and arithmetic.
    """
    if len(text) > _LONGEST:
        raise StoreError(f"where is {len(text)} characters long; allowed: at most {_LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise StoreError(f"where={text!r} cannot be read: {error.msg}; {EXAMPLE}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise StoreError(f"where={text!r} cannot be read ({error}); {EXAMPLE}") from error
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    return [_from_tree(part, known) for part in parts]


def _from_tree(tree: ast.expr, known: set[str]) -> Condition:
    text = ast.unparse(tree)
    _check(tree, text, 0)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names |= _names_of(node.id, known)
        if getattr(node, "id", getattr(node, "value", None)) in WORDS:
            names.add("method")  # which rows use the field
    return Condition(frozenset(names), text, lambda: _build(tree, known))


def _names_of(name: str, known: set[str]) -> set[str]:
    if name in ("true", "false", *WORDS):
        return set()
    if name in DERIVED and name not in known:
        return {node.id for node in ast.walk(ast.parse(DERIVED[name])) if isinstance(node, ast.Name)}
    return {name}


_ALLOWED = (
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.Compare, ast.BinOp),
    *(ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Set, *_COMPARE_NODES, *ARITHMETIC),
)


def _check(node: ast.AST, text: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise StoreError(f"where: {text[:80]}… is nested more than {_DEEPEST} deep")
    constant = isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, str, type(None)))
    if constant or not isinstance(node, _ALLOWED):
        raise StoreError(
            f"where: {text!r} holds a {type(node).__name__}, which is not allowed; allowed: columns, numbers, strings, "
            f"lists, comparisons, and/or/not, + - * /; {EXAMPLE}"
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
            return arithmetic(ast.Sub if isinstance(sign, ast.USub) else ast.Add, 0, _build(operand, known))
        case ast.BinOp(left=left, op=symbol, right=right):
            return arithmetic(type(symbol), _build(left, known), _build(right, known))
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
        columns = (node.id for node in (left, right) if isinstance(node, ast.Name) and node.id not in WORDS)
        name = next(columns, None)
        first, second = constant_value(_build(left, known), name), constant_value(_build(right, known), name)
        if (symbol in ("in", "not in")) != isinstance(second, list):
            raise StoreError(f"where: {ast.unparse(right)!r}: in and not in take a list; {EXAMPLE}")
        if not (is_expression(first) or is_expression(second)):
            raise StoreError(f"where: {ast.unparse(left)} {symbol} {ast.unparse(right)} names no column; {EXAMPLE}")
        one = comparison(first, symbol, second, name)
        whole = one if whole is None else whole & one
    return whole


def _name(name: str, known: set[str]) -> Any:
    if name in ("true", "false"):
        return name == "true"
    if name in WORDS:
        return Word(name)
    if name in DERIVED and name not in known:
        return _build(ast.parse(DERIVED[name], mode="eval").body, known)
    return column_of(name)


def _expression(node: ast.expr, known: set[str]) -> Any:
    import pyarrow.compute as pc

    value = _build(node, known)
    if isinstance(value, bool):
        return pc.scalar(value)
    if not is_expression(value):
        raise StoreError(f"where: {ast.unparse(node)!r} is no condition; {EXAMPLE}")
    return value
