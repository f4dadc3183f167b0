"""Parsing of expressions: Python's syntax tree is checked against a short whitelist, types are checked, constants
folded.

Nothing is evaluated as Python. Everything invalid is rejected here, with its position, before any cell or row is read.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np

from flatdist.errors import did_you_mean
from flatdist.expressions.exact import FUNCTIONS, KINDS, MIRRORED, Expression, ExpressionError, Word, show, to_value
from flatdist.expressions.names import CELL_NAMES, WORDS, Name, unknown

MAX_LENGTH = 10_000  # characters
MAX_DEPTH = 60
ALLOWED = f"numbers, text in quotes, names, + - * / // **, comparisons, and, or, not, in [...], {', '.join(FUNCTIONS)}"
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?")
_SPACE = re.compile(r"\s")
_OPERATORS: Mapping[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Pow: "**",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip
SYMBOLS = (*MIRRORED, "in", "not in")  # comparisons of a filter given as tuples


def parse(text: str, names: Mapping[str, Name] = CELL_NAMES) -> Expression:
    """Parse an expression.

    Args:
        text: such as ``1.1*dof`` or ``n <= entries and method != 'sam'``.
        names: what it may name.

    Raises:
        ExpressionError: it is not arithmetic, compares what cannot be compared, or uses an unknown name.
    """
    return Reader(text, names).read()


def parse_condition(text: str, names: Mapping[str, Name] = CELL_NAMES) -> Expression:
    """Parse an expression that is true or false; see :func:`parse`."""
    expression = parse(text, names)
    expression.require_condition()
    return expression


class Reader:
    """Turns text, or a filter given as values, into a checked expression."""

    def __init__(self, text: str, names: Mapping[str, Name]) -> None:
        self.text, self.known = text, names
        self._new = functools.partial(Expression, text)
        self.error = functools.partial(ExpressionError, text)

    def read(self) -> Expression:
        """The whole text."""
        if len(self.text) > MAX_LENGTH:
            raise self.error(1, f"is {len(self.text)} characters long; at most {MAX_LENGTH} are allowed")
        if not self.text.strip():
            raise self.error(1, "is empty; an expression such as 2*dof was expected")
        source = _SPACE.sub(" ", self.text)
        self._start = len(source) - len(source.lstrip())
        self._source = source.strip()
        try:
            self._bytes = self._source.encode()
            with warnings.catch_warnings(action="ignore"):  # about escapes in its texts
                tree = ast.parse(self._source, mode="eval").body
        except UnicodeEncodeError as error:
            raise self.error(error.start + 1, "contains a lone surrogate, which is not text") from None
        except SyntaxError as error:
            raise self._syntax(error) from None
        except (ValueError, RecursionError, MemoryError):
            raise self.error(1, "cannot be read; it is nested too deeply or holds a null character") from None
        return self._node(tree, 0)

    def _syntax(self, error: SyntaxError) -> ExpressionError:
        end = len(self._source) + 1  # where something is missing, the parser gives no offset
        position = min(error.offset or end, end) + self._start
        reason = str(error.msg)
        if "too many nested" in reason:
            return self.error(position, f"is nested more than {MAX_DEPTH} deep")
        if "never closed" in reason:
            return self.error(position, "this bracket is not closed")
        if re.search(r"(?<![=!<>])=(?!=)", self._source):
            return self.error(self.text.index("=") + 1, "cannot be read; compare with ==")
        if "literal" in reason or "leading zeros" in reason:
            return self.error(position, "is not a number; write 2*rank for a product and 1000 without separators")
        return self.error(position, f"cannot be read here; an operator is missing or superfluous; allowed: {ALLOWED}")

    def _place(self, node: ast.expr, *, end: bool = False) -> int:
        """Where a node begins, or one after its end, counted from 1."""
        offset = (node.end_col_offset if end else node.col_offset) or 0
        return len(self._bytes[:offset].decode(errors="ignore")) + 1 + self._start

    def _between(self, left: ast.expr, right: ast.expr) -> int:
        start = self._place(left, end=True) - 1
        gap = self.text[start : self._place(right) - 1]
        return start + len(gap) - len(gap.lstrip(") \t\r\n\f\v")) + 1

    def _node(self, tree: ast.expr, depth: int) -> Expression:  # noqa: PLR0911
        position = self._place(tree)
        if depth > MAX_DEPTH:
            raise self.error(position, f"is nested more than {MAX_DEPTH} deep")

        def inner(part: ast.expr) -> Expression:
            return self._node(part, depth + 1)

        match tree:
            case ast.Constant():
                return self._literal(tree, position)
            case ast.Name(id=name):
                return self.name(name, position)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._folded(self._new("not", "truth", position, parts=(self._condition(inner(operand)),)))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return self._applied("negative" if isinstance(sign, ast.USub) else "positive", position, inner(operand))
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
                return self._applied(_OPERATORS[type(sign)], self._between(left, right), inner(left), inner(right))
            case ast.BinOp(left=left, op=ast.BitXor(), right=right):
                raise self.error(self._between(left, right), "'^' is not arithmetic; write ** for a power")
            case ast.BoolOp(op=join, values=values):
                parts = tuple(self._condition(inner(value)) for value in values)
                return self._new("and" if isinstance(join, ast.And) else "or", "truth", position, parts=parts)
            case ast.Compare(left=left, ops=signs, comparators=others):
                places = [self._between(*pair) for pair in itertools.pairwise((left, *others))]
                pairs = itertools.pairwise([inner(part) for part in (left, *others)])
                links = [self.compare(_OPERATORS[type(sign)], *pair, place)
                         for sign, pair, place in zip(signs, pairs, places, strict=True)]  # fmt: skip
                return links[0] if len(links) == 1 else self._new("and", "truth", position, parts=tuple(links))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if not any(
                isinstance(argument, ast.Starred) for argument in arguments
            ):
                return self._call(name, position, [inner(argument) for argument in arguments])
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return self._new("list", "list", position, parts=tuple(inner(item) for item in items))
        shown = f"{self.text[position - 1 : position + 19]!r} ({type(tree).__name__})"
        raise self.error(position, f"{shown} is not arithmetic; allowed: {ALLOWED}")

    def _condition(self, node: Expression) -> Expression:
        if node.kind != "truth":
            what = show(node.value) if node.is_constant else f"something that is {KINDS[node.kind]}"
            raise self.error(node.position, f"and, or and not join conditions, not {what}")
        return node

    def _folded(self, node: Expression) -> Expression:
        """A node whose operands are constants, computed at once: so it is refused wherever the text is used."""
        if not node.parts or not all(part.is_constant for part in node.parts):
            return node
        return self.constant(node.evaluate({}), node.position)

    def _applied(self, what: str, position: int, *parts: Expression) -> Expression:
        for part in parts:
            if part.kind not in ("number", "widths"):
                shown = show(part.value) if part.is_constant or part.op == "name" else "this"
                raise self.error(part.position, f"{shown} is {KINDS[part.kind]}, not a number")
        if what in ("/", "//") and parts[1].is_constant and parts[1].value == 0:
            raise self.error(position, f"{what}: division by zero")
        return self._folded(self._new("apply", "number", position, what, parts))

    def _call(self, name: str, position: int, arguments: Sequence[Expression]) -> Expression:
        if name not in FUNCTIONS:
            hint = did_you_mean(name, FUNCTIONS)
            raise self.error(position, f"there is no function {name!r}{hint}; allowed: {', '.join(FUNCTIONS)}")
        _, fewest, most = FUNCTIONS[name]
        if not fewest <= len(arguments) <= most:
            count = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise self.error(position, f"{name} takes {count} arguments, not {len(arguments)}")
        return self._applied(name, position, *arguments)

    def name(self, name: str, position: int) -> Expression:
        """A name, or one of the words true, false, auto and full."""
        if name in self.known:
            return self._new("name", self.known[name].kind, position, name)
        if name in ("true", "false"):
            return self.constant(name == "true", position)
        if name in WORDS:
            return self.constant(Word(name), position)
        if name in FUNCTIONS:
            raise self.error(position, f"{name} is a function; write {name}(...)")
        raise self.error(position, unknown(name, self.known))

    def _literal(self, tree: ast.Constant, position: int) -> Expression:
        value = tree.value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            written = self.text[position - 1 : self._place(tree, end=True) - 1]
            match = _NUMBER.fullmatch(written)
            if match is None:
                raise self.error(position, f"{written[:20]!r} is not a decimal number; write 1000 without separators")
            if len(written) > 60 or abs(int(match[1] or 0)) > 300:
                limit = "at most 60 digits and powers of ten up to 300"
                raise self.error(position, f"is too long or too large a number; allowed: {limit}")
            return self.constant(Fraction(written), position)
        return self.constant(value, position)

    def constant(self, value: Any, position: int) -> Expression:
        """A value, from a text or from a filter in Python."""
        if is_many(value):
            return self._new("list", "list", position, parts=tuple(self.constant(item, position) for item in value))
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]")
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self.error(position, "contains a lone surrogate, which is not text") from None
            return self._new("constant", "word" if isinstance(value, Word) else "text", position, value)
        if isinstance(value, datetime):
            return self._new("constant", "time", position, value if value.tzinfo else value.replace(tzinfo=UTC))
        kind = "none" if value is None else "truth" if isinstance(value, bool) else "number"
        if kind == "number":
            if not isinstance(value, (int, float, Fraction)):
                raise self.error(position, f"a {type(value).__name__} is not a value; allowed: {ALLOWED}")
            value = to_value(value)
            if value is None:
                raise self.error(position, "is not a finite number")
            if isinstance(value, Fraction) and value.numerator.bit_length() > 2000:
                raise self.error(position, "is too large a number")
        return self._new("constant", kind, position, value)

    def compare(self, symbol: str, left: Expression, right: Expression, position: int) -> Expression:
        """A comparison of two comparable parts; if one of them is a single name, it is put on the left."""
        if symbol in ("in", "not in"):
            if right.kind != "list":
                raise self.error(right.position, "in and not in take a list in square brackets, such as [1, 2]")
            links = [self._pair("==", left, option, option.position) for option in right.parts]
            if not all(link.parts and link.parts[0] is left for link in links):
                inside = self._new("or", "truth", position, parts=tuple(links))
            else:
                inside = self._new("in", "truth", position, parts=(left, *(link.parts[1] for link in links)))
            return inside if symbol == "in" else self._folded(self._new("not", "truth", position, parts=(inside,)))
        if symbol in ("is", "is not"):
            if right.kind != "none":
                raise self.error(right.position, f"{symbol} applies only to None; compare values with == and !=")
            symbol = "==" if symbol == "is" else "!="
        return self._pair(symbol, left, right, position)

    def _pair(self, symbol: str, left: Expression, right: Expression, position: int) -> Expression:
        if symbol not in MIRRORED:
            raise self.error(position, f"{symbol!r} is not an operator; allowed: {', '.join(SYMBOLS)}")
        if left.is_constant and not right.is_constant:
            left, right, symbol = right, left, MIRRORED[symbol]
        name = self.known[left.value] if left.op == "name" else None
        if right.kind == "word" or (name is not None and name.word is not None and right.value == name.word):
            right = self._word(left, right, position)
        elif left.kind == "time" and right.kind == "text" and right.is_constant:
            right = self._time(right)
        elif not _comparable(left, right):
            raise self.error(position, f"{self._shown(left)} cannot be compared with {self._shown(right)}")
        left_rounded, right_rounded = (one.op == "name" and self.known[one.value].rounded for one in (left, right))
        if left_rounded and not right_rounded and right.kind == "number":
            right = self._folded(self._new("apply", "number", right.position, "as stored", (right,)))
        elif right_rounded and not left_rounded and left.kind == "number":
            left = self._new("apply", "number", left.position, "as stored", (left,))
        ordered = {left.kind, right.kind} <= {"number", "widths"} or left.kind == right.kind == "time"
        if symbol not in ("==", "!=") and not ordered:
            what = self._shown(left if left.kind not in ("number", "time", "widths") else right)
            raise self.error(position, f"{what} has no order; compare it with == and !=")
        return self._folded(self._new("compare", "truth", position, symbol, (left, right)))

    def _word(self, left: Expression, right: Expression, position: int) -> Expression:
        if left.op != "name" or self.known[left.value].word != right.value:
            fields = " or ".join(name for name, one in self.known.items() if one.word == right.value)
            raise self.error(position, f"{right.value} is not a value of {self._shown(left)}; compare it with {fields}")
        return self._new("constant", "word", right.position, Word(right.value))

    def _time(self, node: Expression) -> Expression:
        try:
            return self.constant(datetime.fromisoformat(node.value), node.position)
        except (TypeError, ValueError):
            reason = f"{show(node.value)} is not a time; write it like '2026-01-31' or '2026-01-31T18:00:00+00:00'"
            raise self.error(node.position, reason) from None

    def _shown(self, node: Expression) -> str:
        if node.op == "name":
            return f"{node.value} ({KINDS[node.kind]})"
        return f"{show(node.value)} ({KINDS[node.kind]})" if node.is_constant else KINDS[node.kind]


def _comparable(left: Expression, right: Expression) -> bool:
    kinds = {left.kind, right.kind}
    if "list" in kinds:
        whole = (isinstance(part.value, Fraction) and part.value.denominator == 1 for part in right.parts)
        return left.kind == "widths" and all(whole)
    return "none" in kinds or kinds == {"number", "widths"} or (len(kinds) == 1 and kinds != {"other"})


def is_many(value: Any) -> bool:
    """Whether a value of a filter is a list of values; text is one value."""
    return isinstance(value, (Sequence, Set, range, np.ndarray)) and not isinstance(value, (str, bytes))
