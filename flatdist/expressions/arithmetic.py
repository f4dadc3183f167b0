"""The operators and functions of expressions, in exact fractions of bounded size."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from flatdist.expressions.values import show, whole_above, without_noise

MAX_BITS = 2048  # of a numerator or denominator


def _inexact(value: float) -> Fraction:
    if not math.isfinite(value):
        raise ValueError("the result is not a finite number")
    return Fraction(f"{value:.15g}")


def bounded(value: Fraction) -> Fraction:
    """A value that has not grown too large to go on with; ValueError otherwise."""
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


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent, exact where the exponent is whole; refused before it grows too large."""
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
ARITHMETIC: Mapping[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "//": _floor_divide,
    "**": power,
}
COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
