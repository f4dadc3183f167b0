"""Arithmetic over the fields of a cell, as sweep files and ``--where`` use it.

    n: "1.1*dof"                      where: "n <= entries and method != 'sam'"

Everything is computed in exact fractions, so that ``1.1*50`` is 55 and not 55.000000000000007; square roots,
logarithms and fractional powers that have no exact value are rounded to 15 significant digits. There is no ``eval``
behind it: a small recursive-descent parser knows numbers, text in quotes, names, the operators and the functions
below, and refuses everything else, numbers of more than 2048 bits and nesting deeper than 40 included.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

from flatdist.errors import FlatdistError
from flatdist.suggestions import did_you_mean

Value: TypeAlias = Fraction | bool | str | None
MAX_LENGTH = 2000  # characters of an expression
MAX_DEPTH = 40
MAX_BITS = 2048  # of a numerator or denominator
NOISE = Fraction(1, 10**9)  # relative distance below which a number counts as the whole number beside it

DERIVED: Mapping[str, str] = {
    "dof": "rank*(d_out+d_in-rank), the degrees of freedom of a rank-r matrix",
    "rsum": "rank*(d_out+d_in)",
    "entries": "d_out*d_in",
    "statdim": "the statistical dimension of the nuclear norm's descent cone at the ground truth",
}


class ExpressionError(FlatdistError, ValueError):
    """An expression that cannot be read or computed; ``reason`` says why and ``position`` counts characters from 1."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        self.text, self.position, self.reason = text, position, reason
        shown = text if len(text) <= 100 else text[:97] + "..."
        super().__init__(f"{shown!r}, character {position}: {reason}")


class Names(Protocol):
    """Where an expression looks its names up: a mapping, or anything that can be asked for one."""

    def __getitem__(self, name: str, /) -> Value: ...


Evaluate: TypeAlias = Callable[[Names], Value]


@dataclass(frozen=True, eq=False)
class Expression:
    """A parsed expression.

    Attributes:
        text: as the user wrote it.
        names: the names it looks up.
    """

    text: str
    names: frozenset[str]
    _run: Evaluate

    def evaluate(self, names: Names) -> Value:
        """The value, an exact fraction, a truth value or a text.

        Raises:
            ExpressionError: division by zero, a number that grows too large, an operation between kinds of value.
        """
        return self._run(names)

    def holds(self, names: Names) -> bool:
        """The value of a condition.

        Raises:
            ExpressionError: as evaluate; or the value is neither true nor false.
        """
        value = self._run(names)
        if not isinstance(value, bool):
            raise ExpressionError(
                self.text, 1, f"is {show(value)}, neither true nor false; a condition compares, as n <= entries"
            )
        return value


def parse(text: str, known: Collection[str] | None = None) -> Expression:
    """Read an expression.

    Args:
        text: the expression.
        known: names it may use; None allows any.

    Raises:
        ExpressionError: it is not arithmetic, or uses a name that is not known; with the nearest known name.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(text, 1, f"is {len(text)} characters long; at most {MAX_LENGTH} are allowed")
    return _Parser(text, known).parse()


def whole_above(value: Fraction) -> int:
    """The smallest whole number not below a value, blind to rounding noise: 44 for 43.2 and for 44.0000000001."""
    return math.ceil(without_noise(value))


def without_noise(value: Fraction) -> Fraction:
    """The nearest whole number where a value differs from it by rounding noise only, else the value."""
    nearest = Fraction(math.floor(value + Fraction(1, 2)))
    return nearest if abs(value - nearest) <= NOISE * max(Fraction(1), abs(nearest)) else value


def to_value(value: Any) -> Value:
    """A field's or column's value as expressions compute with it; floats are read as the decimals they print as."""
    if value is None or isinstance(value, (bool, str, Fraction)):
        return value
    if isinstance(value, int):
        return Fraction(value)
    number = float(value)
    return Fraction(repr(number)) if math.isfinite(number) else None


def show(value: Value) -> str:
    """A value as messages print it."""
    if isinstance(value, Fraction):
        return str(value.numerator) if value.denominator == 1 else f"{float(value):.12g}"
    return repr(value)


def derived(name: str, names: Names) -> Fraction:
    """The value of one of the ``DERIVED`` names.

    Raises:
        ExpressionError: ``statdim`` of a rank that no matrix of that shape has.
    """
    d_out, d_in = _number(names["d_out"]), _number(names["d_in"])
    if name == "entries":
        return d_out * d_in
    rank = _number(names["rank"])
    if name == "rsum":
        return rank * (d_out + d_in)
    if name == "dof":
        return rank * (d_out + d_in - rank)
    assert name == "statdim", name
    if not 1 <= rank <= min(d_out, d_in) or any(size.denominator != 1 for size in (rank, d_out, d_in)):
        raise ExpressionError(name, 1, f"rank {show(rank)} is not a whole number from 1 to min(d_out, d_in)")
    from flatdist.statistical_dimension import statistical_dimension

    return Fraction(repr(float(statistical_dimension(int(d_out), int(d_in), int(rank)))))


def _number(value: Value) -> Fraction:
    if not isinstance(value, Fraction):
        raise ValueError(f"{show(value)} is not a number")
    return value


def _inexact(value: float) -> Fraction:
    if not math.isfinite(value):
        raise ValueError("the result is not a finite number")
    return Fraction(f"{value:.15g}")


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError(f"the result has more than {MAX_BITS} bits")
    return value


def _divide(left: Fraction, right: Fraction) -> Fraction:
    if not right:
        raise ValueError("division by zero")
    return left / right


def _floor_divide(left: Fraction, right: Fraction) -> Fraction:
    return Fraction(math.floor(_divide(left, right)))


def _sqrt(value: Fraction) -> Fraction:
    if value < 0:
        raise ValueError(f"square root of a negative number, {show(value)}")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return root if root * root == value else _inexact(math.sqrt(value))


def _log(value: Fraction, base: Fraction | None = None) -> Fraction:
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        raise ValueError("logarithm of, or to the base of, a number that has none")
    natural = math.log(value.numerator) - math.log(value.denominator)
    if base is None:
        return _inexact(natural)
    return _inexact(natural / (math.log(base.numerator) - math.log(base.denominator)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator == 1:
        if base == 0 and exponent < 0:
            raise ValueError("division by zero")
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits > 1 and bits * abs(exponent) > MAX_BITS:
            raise ValueError(f"the result has more than {MAX_BITS} bits")
        if bits <= 1:  # -1, 0 and 1: the exponent's parity decides, however large it is
            return base ** (exponent.numerator % 2) if base else Fraction(int(exponent == 0))
        return Fraction(base**exponent.numerator)
    if base < 0:
        raise ValueError(f"fractional power of a negative number, {show(base)}")
    return _sqrt(base) if exponent == Fraction(1, 2) else _inexact(float(base) ** float(exponent))


# name -> (function, fewest arguments, most arguments)
FUNCTIONS: Mapping[str, tuple[Callable[..., Fraction], int, int]] = {
    "min": (min, 1, 100),
    "max": (max, 1, 100),
    "ceil": (lambda x: Fraction(whole_above(x)), 1, 1),
    "floor": (lambda x: Fraction(math.floor(without_noise(x))), 1, 1),
    "round": (lambda x: Fraction(math.floor(x + Fraction(1, 2))), 1, 1),
    "sqrt": (_sqrt, 1, 1),
    "log": (_log, 1, 2),
}
_ARITHMETIC: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "//": _floor_divide,
    "**": _power,
}
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_WORDS = ("and", "or", "not", "true", "false", "True", "False")
_ALLOWED = f"numbers, text in quotes, names, + - * / // **, comparisons, and, or, not, {', '.join(FUNCTIONS)}"
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<text>'[^']*'|"[^"]*")
      | (?P<operator>\*\*|//|==|!=|<=|>=|[-+*/()<>,])
      | (?P<other>\S)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, text, operator, end
    text: str
    position: int  # of the first character, counted from 1


class _Parser:
    """Recursive descent; each method returns the function that computes its part."""

    def __init__(self, text: str, known: Collection[str] | None) -> None:
        self.text, self.known = text, known
        self.names: set[str] = set()
        self.depth = 0
        self.next = 0
        self.tokens = self._tokenize()

    def parse(self) -> Expression:
        run = self._disjunction()
        if self._token.kind != "end":
            raise self._error(
                self._token, f"{self._token.text!r} is not expected here; an operator is missing or one too many"
            )
        return Expression(self.text, frozenset(self.names), run)

    def _tokenize(self) -> list[_Token]:
        tokens = []
        stripped = self.text.rstrip()
        start = 0
        while start < len(stripped):
            match = _TOKEN.match(stripped, start)
            assert match is not None
            assert match.lastgroup is not None
            kind, part = match.lastgroup, match[match.lastgroup]
            token = _Token(kind, part, match.start(kind) + 1)
            if kind == "other":
                hint = {"^": "; write ** for a power", "=": "; compare with =="}.get(part, "")
                raise self._error(token, f"{part!r} is not arithmetic; allowed: {_ALLOWED}{hint}")
            follower = stripped[match.end() : match.end() + 1]
            if kind == "number" and (follower.isalnum() or follower in {"_", "."}):
                reason = f"{part + follower!r} is not a number; write 2*rank for a product and 1000 without separators"
                raise self._error(token, reason)
            tokens.append(token)
            start = match.end()
        tokens.append(_Token("end", "", len(stripped) + 1))
        if len(tokens) == 1:
            raise self._error(tokens[0], "is empty; an expression such as 2*dof was expected")
        return tokens

    @property
    def _token(self) -> _Token:
        return self.tokens[self.next]

    def _accept(self, *texts: str) -> _Token | None:
        token = self._token
        if token.kind in ("operator", "name") and token.text in texts:
            self.next += 1
            return token
        return None

    def _error(self, token: _Token, reason: str) -> ExpressionError:
        return ExpressionError(self.text, token.position, reason)

    def _disjunction(self) -> Evaluate:
        return self._logical("or", lambda: self._logical("and", self._negation))

    def _logical(self, word: str, operand: Callable[[], Evaluate]) -> Evaluate:
        parts, positions = [operand()], [self._token]
        while (token := self._accept(word)) is not None:
            parts.append(operand())
            positions.append(token)
        if len(parts) == 1:
            return parts[0]
        decisive = word == "or"

        def run(names: Names) -> Value:
            for part, token in zip(parts, positions, strict=True):
                if self._truth(part(names), token) is decisive:
                    return decisive
            return not decisive

        return run

    def _truth(self, value: Value, token: _Token) -> bool:
        if not isinstance(value, bool):
            raise self._error(token, f"and, or and not join conditions, not {show(value)}")
        return value

    def _negation(self) -> Evaluate:
        token = self._accept("not")
        if token is None:
            return self._comparison()
        operand = self._nested(token, self._negation)
        return lambda names: not self._truth(operand(names), token)

    def _comparison(self) -> Evaluate:
        parts = [self._sum()]
        links: list[_Token] = []
        while (token := self._accept(*_COMPARISONS)) is not None:
            links.append(token)
            parts.append(self._sum())
        if not links:
            return parts[0]

        def run(names: Names) -> Value:
            left = parts[0](names)
            for part, token in zip(parts[1:], links, strict=True):
                right = part(names)
                if not self._compare(token, left, right):
                    return False
                left = right
            return True

        return run

    def _compare(self, token: _Token, left: Value, right: Value) -> bool:
        if token.text in ("==", "!=") or (isinstance(left, Fraction) and isinstance(right, Fraction)):
            return bool(_COMPARISONS[token.text](left, right))
        if left is None or right is None:  # a column that has no value in this row
            return False
        raise self._error(token, f"{show(left)} and {show(right)} have no order; only numbers have")

    def _sum(self) -> Evaluate:
        return self._binary(("+", "-"), lambda: self._binary(("*", "/", "//"), self._sign))

    def _binary(self, operators: Sequence[str], operand: Callable[[], Evaluate]) -> Evaluate:
        run = operand()
        while (token := self._accept(*operators)) is not None:
            run = self._apply(token, _ARITHMETIC[token.text], [run, operand()])
        return run

    def _sign(self) -> Evaluate:
        token = self._accept("-", "+")
        if token is None:
            return self._exponentiation()
        operand = self._nested(token, self._sign)
        return self._apply(token, operator.neg if token.text == "-" else operator.pos, [operand])

    def _exponentiation(self) -> Evaluate:
        base = self._atom()
        token = self._accept("**")
        if token is None:
            return base
        return self._apply(token, _power, [base, self._nested(token, self._sign)])

    def _apply(self, token: _Token, function: Callable[..., Fraction], parts: Sequence[Evaluate]) -> Evaluate:
        def run(names: Names) -> Value:
            values = [part(names) for part in parts]
            if None in values:
                return None
            try:
                return _bounded(function(*map(_number, values)))
            except (ValueError, OverflowError) as error:
                raise self._error(token, f"{token.text}: {error}") from None

        return run

    def _nested(self, token: _Token, part: Callable[[], Evaluate]) -> Evaluate:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(token, f"is nested more than {MAX_DEPTH} deep")
        run = part()
        self.depth -= 1
        return run

    def _atom(self) -> Evaluate:
        token = self._token
        self.next += 1
        if token.kind == "number":
            return self._literal(token)
        if token.kind == "text":
            text = token.text[1:-1]
            return lambda names: text
        if token.kind == "name" and token.text not in ("and", "or", "not"):
            return self._word(token)
        if token.text == "(":
            run = self._nested(token, self._disjunction)
            self._close(token)
            return run
        found = "the end" if token.kind == "end" else repr(token.text)
        raise self._error(token, f"a number, a name or a bracket was expected, not {found}")

    def _close(self, opening: _Token) -> None:
        if self._accept(")") is None:
            raise self._error(opening, "this bracket is not closed")

    def _literal(self, token: _Token) -> Evaluate:
        exponent = re.split("[eE]", token.text)[1:]
        if len(token.text) > 60 or (exponent and abs(int(exponent[0])) > 300):
            raise self._error(token, "is too long or too large a number; at most 60 digits and powers of ten up to 300")
        value = Fraction(token.text)
        return lambda names: value

    def _word(self, token: _Token) -> Evaluate:
        name = token.text
        if self._accept("(") is not None:
            return self._call(token)
        if name in _WORDS:
            truth = name.lower() == "true"
            return lambda names: truth
        if name in FUNCTIONS:
            raise self._error(token, f"{name} is a function; write {name}(...)")
        if self.known is not None and name not in self.known:
            hint = did_you_mean(name, self.known)
            raise self._error(
                token, f"there is no name {name!r}{hint}; allowed: {', '.join(self.known)}; text goes in quotes"
            )
        self.names.add(name)

        def run(names: Names) -> Value:
            try:
                return names[name]
            except ValueError as error:
                if isinstance(error, FlatdistError):
                    raise
                raise self._error(token, f"{name}: {error}") from None

        return run

    def _call(self, token: _Token) -> Evaluate:
        if token.text not in FUNCTIONS:
            hint = did_you_mean(token.text, FUNCTIONS)
            raise self._error(token, f"there is no function {token.text!r}{hint}; allowed: {', '.join(FUNCTIONS)}")
        function, fewest, most = FUNCTIONS[token.text]
        arguments: list[Evaluate] = []
        if self._accept(")") is None:
            arguments.append(self._nested(token, self._disjunction))
            while self._accept(",") is not None:
                arguments.append(self._nested(token, self._disjunction))
            self._close(token)
        if not fewest <= len(arguments) <= most:
            count = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise self._error(token, f"{token.text} takes {count} arguments, not {len(arguments)}")
        if token.text in ("min", "max"):
            return self._apply(token, lambda *values: function(values), arguments)
        return self._apply(token, function, arguments)
