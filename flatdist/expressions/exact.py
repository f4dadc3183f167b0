"""The exact back end: fractions of bounded size, one cell at a time.

Everything is computed in exact fractions, so that ``1.1*50`` is 55 and not 55.000000000000007; square roots,
logarithms and fractional powers without an exact value are rounded to 15 significant digits.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from flatdist.cells.fields import canonical_float
from flatdist.errors import FlatdistError
from flatdist.expressions.values import ExpressionError, Names, Value, Word, show, whole_above, without_noise

MAX_BITS = 2048  # of a numerator or denominator
Evaluate: TypeAlias = Callable[[Names], Any]


def bounded(value: Fraction) -> Fraction:
    """A value of bounded size; ValueError beyond it."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError(f"the result has more than {MAX_BITS} bits")
    return value


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
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits > 1 and bits * abs(exponent) > MAX_BITS:
            raise ValueError(f"the result has more than {MAX_BITS} bits")
        if bits <= 1:  # -1, 0 and 1: the exponent's parity decides, however large it is
            return base ** (exponent.numerator % 2) if base else Fraction(int(exponent == 0))
        return Fraction(base**exponent.numerator)
    if base < 0:
        raise ValueError(f"fractional power of a negative number, {show(base)}")
    return _sqrt(base) if exponent == Fraction(1, 2) else _inexact(float(base) ** float(exponent))


def as_stored(value: Fraction) -> Fraction:
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
APPLIED: Mapping[str, Callable[..., Fraction]] = {
    **ARITHMETIC,
    **{name: function for name, (function, _, _) in FUNCTIONS.items()},
    "negative": operator.neg,
    "positive": operator.pos,
    "as stored": as_stored,
}


def number(value: Value) -> Fraction | None:
    """A value to compute with; None if there is none, as for ``auto``; ValueError for widths that differ."""
    if isinstance(value, tuple):
        if len(set(value)) > 1:
            raise ValueError(f"a list of different widths, {list(value)}, cannot be computed with")
        return Fraction(value[0]) if value else None
    assert value is None or isinstance(value, (Fraction, Word)), value
    return value if isinstance(value, Fraction) else None


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


MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compile_node(node: Any, text: str) -> Evaluate:  # noqa: PLR0911
    """The function that computes a node from names.

    Raises:
        ExpressionError: raised by the function, for example for a division by zero or a number that grows too large.
    """
    value, position = node.value, node.position
    parts = [compile_node(part, text) for part in node.parts]
    match node.op:
        case "constant":
            return lambda names: value
        case "name":
            return lambda names: _guarded(text, position, value, names.__getitem__, value)
        case "list":
            return lambda names: tuple(int(part(names)) for part in parts)
        case "apply":
            return lambda names: _apply(text, position, value, [part(names) for part in parts])
        case "compare":
            left, right = parts
            return lambda names: compare(value, left(names), right(names))
        case "in":
            first, *options = parts
            return lambda names: _among(first(names), options, names)
        case "not":
            return lambda names: not parts[0](names)
    assert node.op in ("and", "or"), node.op
    return lambda names: _join(parts, names, decisive=node.op == "or")


def _guarded(text: str, position: int, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (ValueError, OverflowError) as error:
        if isinstance(error, FlatdistError):
            raise
        raise ExpressionError(text, position, f"{what}: {error}") from None


def _apply(text: str, position: int, what: str, values: Sequence[Value]) -> Any:
    def computed() -> Any:
        numbers = [number(value) for value in values]
        return None if any(one is None for one in numbers) else bounded(APPLIED[what](*numbers))

    return _guarded(text, position, what, computed)


def _among(value: Value, options: Sequence[Evaluate], names: Names) -> bool:
    return any(compare("==", value, option(names)) for option in options)


def _join(parts: Sequence[Evaluate], names: Names, *, decisive: bool) -> bool:
    """``and`` and ``or`` in any order: a part that cannot be computed matters only where no other part decides."""
    failure: ExpressionError | None = None
    for part in parts:
        try:
            if bool(part(names)) is decisive:
                return decisive
        except ExpressionError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return not decisive
