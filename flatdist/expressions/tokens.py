"""Expressions cut into numbers, names, text in quotes and operators."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flatdist.expressions.arithmetic import FUNCTIONS
from flatdist.expressions.values import ExpressionError

WORDS = ("and", "or", "not", "in", "true", "false", "True", "False")
_ALLOWED = f"numbers, text in quotes, names, + - * / // **, comparisons, and, or, not, in [...], {', '.join(FUNCTIONS)}"
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<operator>\*\*|//|==|!=|<=|>=|[-+*/()<>,\[\]])
      | (?P<other>\S)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """A piece of an expression: number, name, text, operator or end, and its place, counted from 1."""

    kind: str
    text: str
    position: int


def tokenize(text: str) -> list[Token]:
    """The tokens of an expression, the last of them its end.

    Raises:
        ExpressionError: a character that has no place in arithmetic, or nothing at all.
    """
    tokens: list[Token] = []
    stripped = text.rstrip()
    start = 0
    while start < len(stripped):
        match = _TOKEN.match(stripped, start)
        assert match is not None
        assert match.lastgroup is not None
        kind, part = match.lastgroup, match[match.lastgroup]
        position = match.start(kind) + 1
        if kind == "other":
            hint = {"^": "; write ** for a power", "=": "; compare with =="}.get(part, "")
            raise ExpressionError(text, position, f"{part!r} is not arithmetic; allowed: {_ALLOWED}{hint}")
        follower = stripped[match.end() : match.end() + 1]
        if kind == "number" and (follower.isalnum() or follower in {"_", "."}):
            reason = f"{part + follower!r} is not a number; write 2*rank for a product and 1000 without separators"
            raise ExpressionError(text, position, reason)
        tokens.append(Token(kind, part, position))
        start = match.end()
    tokens.append(Token("end", "", len(stripped) + 1))
    if len(tokens) == 1:
        raise ExpressionError(text, 1, "is empty; an expression such as 2*dof was expected")
    return tokens
