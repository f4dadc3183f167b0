"""The exact back end: what expressions compute with, one cell at a time.

Everything is computed in exact fractions of bounded size, so that ``1.1*50`` is 55 and not 55.000000000000007; square
roots, logarithms and fractional powers without an exact value are rounded to 15 significant digits.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from flatdist.cells.fields import canonical_float
from flatdist.errors import FlatdistError, StoreError, SweepError

Value: TypeAlias = "Fraction | bool | str | datetime | tuple[int, ...] | None"
MAX_BITS = 2048  # of a numerator or denominator
NOISE = Fraction(1, 10**9)  # relative distance below which a number counts as the whole number beside it
KINDS: Mapping[str, str] = {
    "number": "a number",
    "truth": "true or false",
    "text": "text",
    "time": "a time",
    "widths": "a width for each hidden layer",
    "none": "None",
    "word": "a word, not a value",
    "list": "a list",
    "other": "not a single value",
}


class ExpressionError(SweepError, StoreError):
    """An expression that cannot be read or computed; ``reason`` says why and ``position`` counts characters from 1."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        self.text, self.position, self.reason = text, position, reason
        shown = text if len(text) <= 100 else text[:97] + "..."
        super().__init__(f"{shown!r}, character {position}: {reason}")


class Word(str):
    """``auto`` or ``full``: the value of a field that its method chooses. It equals its name and has no number."""

    __slots__ = ()


class Names(Protocol):
    """Where an expression looks up its names: a mapping, or anything with the same lookup."""

    def __getitem__(self, name: str, /) -> Value: ...


@dataclass(frozen=True, eq=False)
class Expression:
    """A checked expression, or a part of one."""

    text: str  # the whole, as the user wrote it
    op: str  # constant, name, list, apply, compare, in, not, and, or
    kind: str  # of its value, one of KINDS
    position: int  # in the text, from 1
    value: Any = None  # the constant, the name, or what is applied
    parts: tuple[Expression, ...] = ()  # its operands

    @cached_property
    def names(self) -> frozenset[str]:
        """The names it looks up."""
        return frozenset([self.value]) if self.op == "name" else frozenset().union(*(p.names for p in self.parts))

    @property
    def is_constant(self) -> bool:
        """Whether its value is known."""
        return self.op == "constant"

    def evaluate(self, names: Names) -> Any:  # noqa: PLR0911
        """The value: an exact fraction, a truth value, a text, or None where a field it needs has no value.

        Raises:
            ExpressionError: division by zero, a number that grows too large, and the like.
        """
        match self.op:
            case "constant":
                return self.value
            case "name":
                return self._guarded(names.__getitem__, self.value)
            case "list":
                return tuple(part._whole(names) for part in self.parts)
            case "apply":
                return self._guarded(_apply, self.value, *(part.evaluate(names) for part in self.parts))
            case "compare":
                return compare(self.value, *(part.evaluate(names) for part in self.parts))
            case "in":
                first = self.parts[0].evaluate(names)
                return any(compare("==", first, option.evaluate(names)) for option in self.parts[1:])
            case "not":
                return not self.parts[0].evaluate(names)
        return self._joined(names, decisive=self.op == "or")

    def holds(self, names: Names) -> bool:
        """The value of a condition.

        Raises:
            ExpressionError: as evaluate; or it is not a condition.
        """
        self.require_condition()
        return self.evaluate(names) is True

    def require_condition(self) -> None:
        """Reject an expression that is not a condition."""
        if self.kind != "truth":
            reason = f"is {KINDS[self.kind]}; a condition compares, such as n <= entries"
            raise ExpressionError(self.text, self.position, reason)

    def _whole(self, names: Names) -> int:
        value = self.evaluate(names)
        if not isinstance(value, Fraction) or value.denominator != 1:
            raise ExpressionError(self.text, self.position, f"{show(value)} is not a whole number, and widths are")
        return int(value)

    def _guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, OverflowError) as error:
            if isinstance(error, FlatdistError):
                raise
            raise ExpressionError(self.text, self.position, f"{self.value}: {error}") from None

    def _joined(self, names: Names, *, decisive: bool) -> bool:
        """``and`` and ``or`` in any order: a part that cannot be computed matters only where no other part decides."""
        failure: ExpressionError | None = None
        for part in self.parts:
            try:
                if bool(part.evaluate(names)) is decisive:
                    return decisive
            except ExpressionError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return not decisive


def whole_above(value: Fraction) -> int:
    """The smallest whole number not below a value, up to rounding noise.

    >>> whole_above(Fraction("43.2")), whole_above(Fraction("44.0000000001"))
    (44, 44)
    """
    return math.ceil(without_noise(value))


def without_noise(value: Fraction) -> Fraction:
    """The nearest whole number where a value differs from it by rounding noise only, else the value."""
    if value.denominator == 1:
        return value
    nearest = Fraction(math.floor(value + Fraction(1, 2)))
    return nearest if abs(value - nearest) <= NOISE * max(Fraction(1), abs(nearest)) else value


def to_value(value: Any) -> Value:
    """The value of a field or column for use in expressions; a float becomes the decimal that it prints as."""
    if value is None or isinstance(value, (bool, str, Fraction, datetime)):
        return value
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, (list, tuple)):
        return tuple(value)
    number = float(value)
    return Fraction(repr(number)) if math.isfinite(number) else None


def show(value: Any) -> str:
    """A value as messages show it."""
    if isinstance(value, Fraction):
        try:
            return str(value.numerator) if value.denominator == 1 else f"{float(value):.12g}"
        except (OverflowError, ValueError):
            return f"a number of {value.numerator.bit_length() - value.denominator.bit_length()} bits"
    if isinstance(value, (Word, datetime)):
        return str(value)
    return repr(list(value) if isinstance(value, tuple) else value)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _inexact(value: float) -> Fraction:
    if not math.isfinite(value):
        raise ValueError("the result is not a finite number")
    return Fraction(f"{value:.15g}")


def _divide(left: Fraction, right: Fraction) -> Fraction:
    if not right:
        raise ValueError("division by zero")
    return left / right


def _sqrt(value: Fraction) -> Fraction:
    if value < 0:
        raise ValueError(f"square root of a negative number, {show(value)}")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return root if root * root == value else _inexact(math.sqrt(value))


def _log(value: Fraction, base: Fraction | None = None) -> Fraction:
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        raise ValueError("only positive numbers have a logarithm, and its base is positive and not 1")
    natural = math.log(value.numerator) - math.log(value.denominator)
    if base is None:
        return _inexact(natural)
    return _inexact(natural / (math.log(base.numerator) - math.log(base.denominator)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent, exact for whole exponents; rejected before it grows too large."""
    if exponent.denominator == 1:
        if base == 0 and exponent < 0:
            raise ValueError("division by zero")
        if _bits(base) <= 1:  # -1, 0 and 1: the exponent's parity decides, however large it is
            return base ** (exponent.numerator % 2) if base else Fraction(int(exponent == 0))
        if _bits(base) * abs(exponent) > MAX_BITS:
            raise ValueError(f"the result has more than {MAX_BITS} bits")
        return Fraction(base**exponent.numerator)
    if base < 0:
        raise ValueError(f"fractional power of a negative number, {show(base)}")
    return _sqrt(base) if exponent == Fraction(1, 2) else _inexact(float(base) ** float(exponent))


def _as_stored(value: Fraction) -> Fraction:
    """A number as a float field stores it, with 12 significant digits; unchanged beyond the range of floats."""
    try:
        return Fraction(repr(canonical_float(value)))
    except (OverflowError, ValueError):
        return value


ARITHMETIC: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "//": lambda left, right: Fraction(math.floor(_divide(left, right))),
    "**": _power,
}
# name -> (function, fewest arguments, most arguments)
FUNCTIONS: Mapping[str, tuple[Callable[..., Fraction], int, int]] = {
    "min": (lambda *values: min(values), 1, 100),
    "max": (lambda *values: max(values), 1, 100),
    "ceil": (lambda x: Fraction(whole_above(x)), 1, 1),
    "floor": (lambda x: Fraction(math.floor(without_noise(x))), 1, 1),
    "round": (lambda x: Fraction(math.floor(x + Fraction(1, 2))), 1, 1),
    "sqrt": (_sqrt, 1, 1),
    "log": (_log, 1, 2),
}
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_APPLIED: Mapping[str, Callable[..., Fraction]] = {
    **ARITHMETIC,
    **{name: function for name, (function, _, _) in FUNCTIONS.items()},
    "negative": operator.neg,
    "positive": operator.pos,
    "as stored": _as_stored,
}


def _apply(what: str, *values: Value) -> Fraction | None:
    """A function of numbers, of bounded size; None if a value has no number, as for ``auto``."""
    numbers: list[Any] = []
    for value in values:
        if isinstance(value, tuple) and len(set(value)) > 1:
            raise ValueError(f"a list of different widths, {list(value)}, cannot be computed with")
        numbers.append(Fraction(value[0]) if isinstance(value, tuple) and value else value)
    if not all(isinstance(number, Fraction) for number in numbers):
        return None
    result = _APPLIED[what](*numbers)
    if _bits(result) > MAX_BITS:
        raise ValueError(f"the result has more than {MAX_BITS} bits")
    return result


def compare(symbol: str, left: Value, right: Value) -> bool:
    """``!=`` is the opposite of ``==``; a missing value equals only None, and is neither smaller nor larger."""
    if symbol == "!=":
        return not compare("==", left, right)
    if right is None:  # is it null? auto and full are
        return symbol == "==" and (left is None or isinstance(left, Word))
    if left is None:
        return False
    if isinstance(right, tuple) and not isinstance(left, tuple):
        left, right, symbol = right, left, MIRRORED[symbol]
    if isinstance(left, tuple) and not isinstance(right, tuple):
        return bool(left) and all(compare(symbol, Fraction(width), right) for width in left)
    if isinstance(left, Word) != isinstance(right, Word):
        return False
    return COMPARISONS[symbol](left, right)
