"""Groups of cells that differ only in n: blocks whose n the sweep chooses, and grids whose replicates it raises."""

from __future__ import annotations

import json
from typing import Any

from flatdist.cells.cell import FIELDS, Cell
from flatdist.expressions import Expression, ExpressionError
from flatdist.sweepfile.blocks import Block
from flatdist.sweepfile.declaration import FIRST_SUCCESS
from flatdist.sweepfile.declaration import Boundary as BoundaryKeys
from flatdist.sweepfile.expand import Axes, CellMaker, Expansion, Scope, Unresolved, fields_needed, path_between
from flatdist.sweepfile.values import Given, InvalidValue, parse_literal
from flatdist.sweeps.groups import Group
from flatdist.sweeps.rules import Boundary, FirstSuccess, Plain, Rule, Span, UntilInterval
from flatdist.threshold.recovery import default_tolerance

MAX_RANGE = 1_000_000  # numbers of measurements that a group may choose from: all of a 1000 x 1000 matrix
MAX_TRIED = 250_000  # whose cells are made to check them


def maker_of(block: Block, into: Expansion, values: Axes) -> CellMaker:
    """The maker of a block's cells, or of groups if the sweep chooses n or the number of replicates."""
    if block.chosen is None and into.until is None:
        return CellMaker(block, into, values)
    return (GridMaker if block.chosen is None else GroupMaker)(block, into, values)


class GridMaker(CellMaker):
    """Makes ordinary cells, and notes which of them differ only in n."""

    def __init__(self, block: Block, into: Expansion, values: Axes) -> None:
        super().__init__(block, into, values)
        self.dependent = {name for name in self.needs if name != "n" and path_between(name, "n", self.needs)}

    def depends(self, expression: Any) -> bool:
        """Whether an expression's value depends on n."""
        names = fields_needed(expression) if isinstance(expression, Expression) else set()
        return "n" in names or any(path_between(name, "n", self.needs) for name in names)

    def common(self, cell: Cell, scope: Scope) -> dict[str, Any]:
        """What a group's cells have in common, as JSON: the values of fields, or their expressions over n."""
        fields = {name: value for name, value in cell.row().items() if name != "n"}
        given = scope.given
        return fields | {name: str(getattr(given[name], "text", given[name])) for name in self.dependent}

    def keep(self, cell: Cell, scope: Scope) -> None:
        """Add a cell to its grid."""
        super().keep(cell, scope)
        fields = self.common(cell, scope)
        self.into.grids.setdefault(json.dumps(fields, sort_keys=True), (fields, {}))[1][cell.n] = cell


class GroupMaker(GridMaker):
    """Makes the groups of a block whose n the sweep chooses."""

    def __init__(self, block: Block, into: Expansion, values: Axes) -> None:
        super().__init__(block, into, values)
        assert block.chosen is not None
        chosen = block.chosen
        self.form, self.chooses = chosen.value.form, chosen.value.rule
        self.place = self.places["n"] = chosen.key, chosen.line
        self._on_groups = [one for one in block.conditions if not self.depends(one.value)]
        self._on_n = [one for one in block.conditions if self.depends(one.value)]

    def add(self, scope: Scope) -> None:
        """Make one group, leave it out, or note why it is impossible."""
        shared = Scope(scope.given, scope.unusable | {"n"} | self.dependent)
        doubt = self.leave_out(shared, self._on_groups)
        if doubt is True:
            self.into.left_out += 1
            return
        low, high = self._end(shared, "from", self.chooses.low), self._end(shared, "to", self.chooses.high)
        if low is None or high is None or doubt:
            self.make(scope.at(low or high or 1), doubt)
            return
        if low >= high:
            self.note(*self.place, f"goes from n = {low:,} to {high:,}", "from below to")
        if high - low >= MAX_RANGE:
            reason = f"goes from n = {low:,} to {high:,}, too many to choose from"
            self.note(*self.place, reason, f"at most {MAX_RANGE:,} n")
            return
        # These cells are made at once to check them: all, if other fields depend on n.
        tried = range(low, high + 1) if self.dependent and 0 < high - low < MAX_TRIED else (low, high)
        first, *others = [self.make(scope.at(n)) for n in tried]
        if low >= high or first is None or None in others:
            return
        if self.form == FIRST_SUCCESS and not first.nested:
            reason = "bisects each replicate's own threshold, which only nested problems have"
            self.note(*self.place, reason, "nested: true beside it")
            return
        allowed = self._allowed(scope, low, high) if self._on_n else None
        if allowed == ():
            self.into.left_out += 1
            return
        self._keep_group(first, Span(low, high, allowed), scope)

    def _end(self, scope: Scope, end: str, value: Given) -> int | None:
        """One end of the range; None if it cannot be computed."""
        key, line = self.place
        if self.depends(value):
            self.note(f"{key}.{end}", line, "depends on n", "fields that do not", value)
            return None
        try:
            return int(parse_literal("n", scope.compute("n", value)))
        except (Unresolved, ExpressionError, InvalidValue) as error:
            self.note_failure(f"{key}.{end}", line, error, value)
        return None

    def _allowed(self, scope: Scope, low: int, high: int) -> tuple[int, ...]:
        """The n for which all conditions on n hold."""
        allowed = []
        for n in range(low, high + 1):
            doubt = self.leave_out(scope.at(n), self._on_n)
            if doubt is None:
                allowed.append(n)
            elif doubt is not True:
                self.note_doubt(doubt)
                break
        return tuple(allowed)

    def _keep_group(self, cell: Cell, span: Span, scope: Scope) -> None:
        if span.allowed is not None and span.allowed == tuple(range(span.allowed[0], span.allowed[-1] + 1)):
            span = Span(span.allowed[0], span.allowed[-1])
        fields, given = self.common(cell, scope), scope.given
        own = {name: getattr(cell, name) for name in FIELDS}

        def at(n: int) -> Cell:
            """The group's cell at n."""
            here = Scope({**given, "n": n}, frozenset())
            return Cell(**({name: here.literal(name) for name in here.given} if self.dependent else {**own, "n": n}))

        group = Group(self._rule(cell), span, fields, at)
        known = self.into.groups.setdefault(json.dumps(fields, sort_keys=True), group)
        if known is not group and known == group:
            self.into.repeated += 1
        elif known is not group:
            reason = "requests cells that another block requests with a different range, budget or precision"
            self.note(*self.place, reason, "each group once")

    def _rule(self, cell: Cell) -> Rule:
        chosen, tolerance = self.chooses, self.chooses.tolerance or default_tolerance(cell.method)
        if isinstance(chosen, BoundaryKeys):
            return Boundary(chosen.budget, chosen.precision, tolerance)
        return FirstSuccess(self.into.replicates, tolerance)


def plain_groups(expansion: Expansion) -> list[Group]:
    """Groups of the cells that a file lists: grids whose replicates are raised, or single cells."""
    until, groups = expansion.until, []
    if until is None:
        for cell in expansion.cells.values():
            fields = {name: value for name, value in cell.row().items() if name != "n"}
            groups.append(Group(Plain(expansion.replicates), Span(cell.n, cell.n), fields, {cell.n: cell}.__getitem__))
        return groups
    for fields, cells in expansion.grids.values():
        values = sorted(cells)
        tolerance = until.tolerance or default_tolerance(cells[values[0]].method)
        rule = UntilInterval(until.least, until.most, until.precision, tolerance)
        groups.append(Group(rule, Span(values[0], values[-1], tuple(values)), fields, cells.__getitem__))
    return groups
