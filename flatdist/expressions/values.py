"""What expressions compute with: exact fractions, truth values and text, and when a number counts as whole."""

from __future__ import annotations

import math
from datetime import datetime
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

from flatdist.errors import StoreError, SweepError

Value: TypeAlias = "Fraction | bool | str | datetime | tuple[int, ...] | None"
NOISE = Fraction(1, 10**9)  # relative distance below which a number counts as the whole number beside it


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
