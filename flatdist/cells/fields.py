"""Field types: how one value of a cell is checked, normalised and stored.

A field is declared once, in :mod:`flatdist.cells.cell`. The sweep file's checks, the command line's ``field=value``,
the Parquet columns and the reference documentation are all derived from that declaration.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from flatdist.errors import did_you_mean

SIGNIFICANT_DIGITS = 12  # floats that print alike to this many digits are the same configuration


class FieldType:
    """How one cell field is parsed, described and stored."""

    arrow: str  # Parquet column type, as pyarrow spells it
    word: str | None = None  # what a user writes for None
    numeric = False  # whether expressions may compute it

    @property
    def allowed(self) -> str:
        """What a user may write, in words; ends the sentence "allowed: ..."."""
        raise NotImplementedError

    def parse(self, value: Any) -> Any:
        """The normalised value; a ValueError's message is only the reason."""
        raise NotImplementedError


def _real(value: Any) -> int | float | Fraction:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("is not a number")
    if isinstance(value, (int, Fraction)):
        return value
    if isinstance(value, numbers.Integral):  # numpy integers
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("is not finite")
    return number


def canonical_float(value: Any) -> float:
    """Round to 12 significant digits and drop the sign of zero, so that spellings of one number compare equal."""
    return float(f"{float(value):.{SIGNIFICANT_DIGITS}g}") + 0.0


@dataclass(frozen=True)
class Integer(FieldType):
    """A whole number of at least ``minimum``."""

    minimum: int = 1
    maximum: int = 2**31 - 1
    arrow = "int32"
    numeric = True

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"

    def parse(self, value: Any) -> int:
        number = _real(value)
        if number != int(number):
            raise ValueError("is not a whole number")
        if not self.minimum <= number <= self.maximum:
            raise ValueError("is out of range")
        return int(number)


@dataclass(frozen=True)
class Number(FieldType):
    """A finite real number between bounds."""

    minimum: float = 0.0
    maximum: float = math.inf
    open_minimum: bool = False
    open_maximum: bool = False
    arrow = "float64"
    numeric = True

    @property
    def allowed(self) -> str:
        lower = f"greater than {self.minimum:g}" if self.open_minimum else f"at least {self.minimum:g}"
        upper = f"less than {self.maximum:g}" if self.open_maximum else f"at most {self.maximum:g}"
        return f"a number {lower}" + ("" if self.maximum == math.inf else f" and {upper}")

    def parse(self, value: Any) -> float:
        try:
            number = canonical_float(_real(value))
        except OverflowError:  # an integer or a fraction beyond the largest float
            raise ValueError("is out of range") from None
        at_end = (self.open_minimum and number == self.minimum) or (self.open_maximum and number == self.maximum)
        if number < self.minimum or number > self.maximum or at_end:
            raise ValueError("is out of range")
        return number


@dataclass(frozen=True)
class Keyword(FieldType):
    """A value of another type, or one word that stands for None (``auto``, ``full``); stored as null."""

    word: str = dataclasses.field()
    otherwise: FieldType = dataclasses.field()

    def __post_init__(self) -> None:
        vars(self).update(arrow=self.otherwise.arrow, numeric=self.otherwise.numeric)

    @property
    def allowed(self) -> str:
        return f"{self.otherwise.allowed}, or {self.word}"

    def parse(self, value: Any) -> Any:
        return None if value is None or str(value) == self.word else self.otherwise.parse(value)


@dataclass(frozen=True)
class Choice(FieldType):
    """One of a few names, looked up at each use so that registries can grow."""

    options: Callable[[], Sequence[str]]
    arrow = "string"

    @property
    def allowed(self) -> str:
        return ", ".join(self.options())

    def parse(self, value: Any) -> str:
        if value not in self.options():
            raise ValueError("is not known" + did_you_mean(value, self.options()))
        return str(value)


@dataclass(frozen=True)
class Flag(FieldType):
    """True or false."""

    arrow = "bool"

    @property
    def allowed(self) -> str:
        return "true or false"

    def parse(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError("is neither true nor false")
        return value


@dataclass(frozen=True)
class Widths(FieldType):
    """One hidden width for all hidden layers, or a list of one per hidden layer; None for the default."""

    width = Integer(minimum=1, maximum=65536)
    arrow = "list<int32>"
    numeric = True

    @property
    def allowed(self) -> str:
        return "a whole number of at least min(d_out, d_in), or a list of depth-1 of them"

    def parse(self, value: Any) -> int | tuple[int, ...] | None:
        if value is None:
            return None
        if isinstance(value, (list, tuple)):
            return tuple(self.width.parse(item) for item in value)
        return self.width.parse(value)


def declare(kind: FieldType, meaning: str, default: Any = dataclasses.MISSING, *, added_later: bool = False) -> Any:
    """A dataclass field that carries its own declaration.

    Args:
        kind: the field's type.
        meaning: meaning and unit, one line, shown by the documentation and the Parquet schema.
        default: value if the user gives none; without a default the field is required.
        added_later: omit the field from a cell's identity at its default, so that older results keep their identity.
    """
    metadata = {"kind": kind, "help": meaning, "added_later": added_later}
    return dataclasses.field(default=default, metadata=metadata)
