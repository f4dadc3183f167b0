"""What a searched field may be: a range of numbers, on a linear or logarithmic scale, or one of a few values."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from flatdist.cells.fields import canonical_float

FORMS = {"uniform": "[low, high]", "loguniform": "[low, high]", "choice": "a list of values"}


@dataclass(frozen=True)
class Domain:
    """The values that one field may take.

    Attributes:
        field: name of the cell field.
        form: ``uniform``, ``loguniform`` or ``choice``.
        low: smallest value of a range.
        high: largest value of a range, included.
        whole: whether a range holds whole numbers only.
        options: what a choice is between, as a sweep file writes it.
        key: where it stands in the sweep file.
        line: its line.
    """

    field: str
    form: str
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    options: tuple[Any, ...] = ()
    key: str = ""
    line: int = 0

    @property
    def is_choice(self) -> bool:
        """Whether there is no order between the values."""
        return self.form == "choice"

    def corners(self) -> tuple[Any, ...]:
        """Values that stand for all others when a search is checked: both ends, or every option."""
        return self.options if self.is_choice else (self.normal(self.low), self.normal(self.high))

    def normal(self, value: float) -> Any:
        """A number of the range as the cell will hold it."""
        return round(value) if self.whole else canonical_float(min(max(value, self.low), self.high))

    def holds(self, value: Any) -> bool:
        """Whether a value belongs to the domain."""
        return value in self.options if self.is_choice else self.low <= value <= self.high

    def at(self, share: float) -> Any:
        """The value a given share, in [0, 1), of the way through the domain."""
        if self.is_choice:
            return self.options[int(share * len(self.options))]
        if self.whole and self.form == "uniform":
            return min(int(self.low) + int(share * (self.high - self.low + 1)), int(self.high))
        if self.form == "uniform":
            return self.normal(self.low + (self.high - self.low) * share)
        return self.normal(math.exp(math.log(self.low) + math.log(self.high / self.low) * share))

    def drawn(self, seed: int, index: int) -> Any:
        """Random value number ``index``: a function of the field's name, the seed and the index alone."""
        bits = hashlib.sha256(f"search {self.field} {seed} {index}".encode()).digest()
        return self.at(int.from_bytes(bits[:6]) / 2**48)

    def plain(self) -> list[Any]:
        """The domain as JSON, for a search's identity."""
        return [self.field, self.form, list(self.options) if self.is_choice else [self.low, self.high, self.whole]]
