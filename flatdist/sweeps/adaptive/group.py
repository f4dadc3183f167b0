"""A group: all cells that differ in n alone, and the rule by which their runs are chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flatdist.cells.cell import FIELDS, Cell
from flatdist.sweeps.adaptive.rules import Rule, Span

DIGITS = 12


@dataclass(frozen=True)
class Group:
    """Cells that differ in n alone.

    Attributes:
        rule: chooses their runs.
        span: the n that may be taken.
        fields: what the cells have in common, as JSON; a field that depends on n by its expression.
        at: n -> the cell.
    """

    rule: Rule
    span: Span
    fields: Mapping[str, Any]
    at: Callable[[int], Cell] = field(repr=False, compare=False)
    _cells: dict[int, Cell] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cell(self, n: int) -> Cell:
        """The cell with n measurements."""
        if n not in self._cells:
            self._cells[n] = self.at(n)
        return self._cells[n]

    @cached_property
    def key(self) -> str:
        """Identity of what recorded runs were chosen for: the fields, the range and what a success is.

        A larger budget, a tighter precision or more replicates go on with the runs there are. So do files from before a
        field was declared: at its default it is left out, as it is of a cell's identity.
        """
        fields = {name: value for name, value in self.fields.items() if not _is_new(name, value)}
        content = [fields, self.cell(self.span.values[0]).numerics, list(self.rule.identity(self.span))]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _is_new(name: str, value: Any) -> bool:
    """Whether a field was declared after others were recorded, and says nothing here."""
    return bool(FIELDS[name].metadata["added_later"]) and value in (None, FIELDS[name].default)
