"""What expressions compute with: exact fractions, truth values and text, and when a number counts as whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

from flatdist.errors import FlatdistError

Value: TypeAlias = Fraction | bool | str | None
NOISE = Fraction(1, 10**9)  # relative distance below which a number counts as the whole number beside it


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


def whole_above(value: Fraction) -> int:
    """The smallest whole number not below a value, blind to rounding noise: 44 for 43.2 and for 44.0000000001."""
    return math.ceil(without_noise(value))


def without_noise(value: Fraction) -> Fraction:
    """The nearest whole number where a value differs from it by rounding noise only, else the value."""
    if value.denominator == 1:
        return value
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
        try:
            return str(value.numerator) if value.denominator == 1 else f"{float(value):.12g}"
        except OverflowError:
            return f"a number of {value.numerator.bit_length() - value.denominator.bit_length()} bits"
    return repr(value)


def number(value: Value) -> Fraction:
    """A value that must be a number; ValueError otherwise."""
    if not isinstance(value, Fraction):
        raise ValueError(f"{show(value)} is not a number")
    return value
