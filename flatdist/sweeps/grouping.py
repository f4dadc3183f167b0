"""Groups of cells that differ only in n: blocks whose n the sweep chooses, and grids whose replicates it raises."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flatdist.cells.cell import Cell
from flatdist.expressions import Expression, ExpressionError
from flatdist.sweepfile.blocks import Block
from flatdist.sweepfile.declaration import FIRST_SUCCESS
from flatdist.sweepfile.expand import MAX_CELLS, Cause, CellMaker, Doubt, Expansion, Scope, Unresolved, fields_needed
from flatdist.sweepfile.values import Given, InvalidValue, parse_literal
from flatdist.sweeps.groups import Group
from flatdist.sweeps.rules import Boundary, FirstSuccess, Plain, Rule, Span, UntilInterval
from flatdist.threshold.recovery import default_tolerance

MAX_RANGE = 1_000_000  # numbers of measurements that a group may choose from: all of a 1000 x 1000 matrix


def maker_of(block: Block, into: Expansion, values: Mapping[str, Sequence[Given]]) -> CellMaker:
    """The maker of a block's cells, or of groups if the sweep chooses n or the number of replicates."""
    if block.chosen is None and into.until is None:
        return CellMaker(block, into)
    return (GridMaker if block.chosen is None else GroupMaker)(block, into, values)


class _Grouper(CellMaker):
    """Knows which fields of a block depend on n."""

    def __init__(self, block: Block, into: Expansion, values: Mapping[str, Sequence[Given]]) -> None:
        super().__init__(block, into)
        self._needs = {name: fields_needed(entry.value) for name, entry in block.fixed.items()}
        self._needs |= {name: {f for v in built for f in fields_needed(v)} for name, built in values.items()}
        self.dependent = {name for name in self._needs if name != "n" and self._depends(self._needs[name])}

    def _depends(self, needs: Iterable[str]) -> bool:
        seen: set[str] = set()
        stack = list(needs)
        while stack:
            name = stack.pop()
            if name == "n":
                return True
            if name not in seen:
                seen.add(name)
                stack += self._needs.get(name, ())
        return False

    def depends(self, expression: Any) -> bool:
        return isinstance(expression, Expression) and self._depends(fields_needed(expression))

    def common(self, cell: Cell, given: Mapping[str, Given]) -> dict[str, Any]:
        """What a group's cells have in common, as JSON: the values of fields, or their expressions over n."""
        fields = {name: value for name, value in cell.row().items() if name != "n"}
        return fields | {name: str(getattr(given[name], "text", given[name])) for name in self.dependent}


class GroupMaker(_Grouper):
    """Makes the groups of a block whose n the sweep chooses."""

    def __init__(self, block: Block, into: Expansion, values: Mapping[str, Sequence[Given]]) -> None:
        super().__init__(block, into, values)
        assert block.chosen is not None
        self.chosen, self.chooses = block.chosen, block.chosen.what.rule
        self.places["n"] = (self.chosen.key, self.chosen.line)
        over_n = {id(condition): self.depends(condition.expression) for condition in block.conditions}
        self._on_groups = [condition for condition in block.conditions if not over_n[id(condition)]]
        self._on_n = [condition for condition in block.conditions if over_n[id(condition)]]

    def add(self, given: Mapping[str, Given], unusable: frozenset[str], varied: Mapping[str, Given]) -> None:
        """Make one group, leave it out, or note why it is impossible."""
        self.total += 1
        scope = Scope(given, unusable | {"n"} | self.dependent)
        doubt = self.leave_out(scope, self._on_groups)
        if doubt is True:
            self.into.left_out += 1
            return
        ends = [self._end(scope, "from", self.chooses.low, varied), self._end(scope, "to", self.chooses.high, varied)]
        low, high = ends
        if low is None or high is None or doubt:
            self._cell(given, unusable, varied, low or high or 1, doubt)
            return
        if low >= high:
            reason = f"goes from n = {low:,} to {high:,}"
            self.count((self.chosen.key, self.chosen.line, reason), Cause("from below to", None, varied))
        if high - low >= MAX_RANGE:
            reason = f"goes from n = {low:,} to {high:,}, too many to choose from"
            self.count((self.chosen.key, self.chosen.line, reason), Cause(f"at most {MAX_RANGE:,} n", None, varied))
            return
        cells = [self._cell(given, unusable, varied, n) for n in self._tried(low, high)]
        first = cells[0]
        if low >= high or first is None or None in cells:
            return
        if self.chosen.what.form == FIRST_SUCCESS and not first.nested:
            reason = "bisects each replicate's own threshold, which only nested problems have"
            self.count((self.chosen.key, self.chosen.line, reason), Cause("nested: true beside it", None, varied))
            return
        allowed = self._allowed(given, unusable, low, high, varied) if self._on_n else None
        if allowed == ():
            self.into.left_out += 1
            return
        self._keep_group(first, Span(low, high, allowed), given, varied)

    def _end(self, scope: Scope, end: str, value: Given, varied: Mapping[str, Given]) -> int | None:
        """One end of the range; None if it cannot be computed."""
        key = f"{self.chosen.key}.{end}"
        if self.depends(value):
            self.count((key, self.chosen.line, "depends on n"), Cause("fields that do not", value.text, varied))
            return None
        try:
            computed = scope.compute("n", value) if isinstance(value, Expression) else value
            return int(parse_literal("n", computed))
        except Unresolved:  # what it needs is reported by the check of the whole cell
            return None
        except ExpressionError as error:
            reason = f"{error.text}: character {error.position}: {error.reason}"
            self.count((key, self.chosen.line, reason), Cause("", value.text, varied))
        except InvalidValue as error:
            shown = value.text if isinstance(value, Expression) else value
            self.count((key, self.chosen.line, error.reason), Cause(error.allowed, shown, varied))
        return None

    def _tried(self, low: int, high: int) -> Iterable[int]:
        """The n whose cells are made at once to check them: all if other fields depend on n."""
        return range(low, high + 1) if self.dependent and 0 < high - low < MAX_CELLS else (low, high)

    def _cell(
        self,
        given: Mapping[str, Given],
        unusable: frozenset[str],
        varied: Mapping[str, Given],
        n: int,
        doubt: Doubt = None,
    ) -> Cell | None:
        at_n = {**given, "n": n}
        return self.make(Scope(at_n, unusable - {"n"}), at_n, varied, doubt)

    def _allowed(
        self, given: Mapping[str, Given], unusable: frozenset[str], low: int, high: int, varied: Mapping[str, Given]
    ) -> tuple[int, ...]:
        """The n for which all conditions on n hold."""
        allowed = []
        for n in range(low, high + 1):
            doubt = self.leave_out(Scope({**given, "n": n}, unusable), self._on_n)
            if doubt is None:
                allowed.append(n)
            elif doubt is not True:
                condition, reason = doubt
                self.count((condition.key, condition.line, reason), Cause("", condition.expression.text, varied))
                break
        return tuple(allowed)

    def _keep_group(self, cell: Cell, span: Span, given: Mapping[str, Given], varied: Mapping[str, Given]) -> None:
        if span.allowed is not None and span.allowed == tuple(range(span.allowed[0], span.allowed[-1] + 1)):
            span = Span(span.allowed[0], span.allowed[-1])
        fields = self.common(cell, given)
        group = Group(self._rule(cell), span, fields, self._at(cell, given))
        known = self.into.groups.setdefault(json.dumps(fields, sort_keys=True), group)
        if known is not group and known == group:
            self.into.repeated += 1
        elif known is not group:
            reason = "requests cells that another block requests with a different range, budget or precision"
            self.count((self.chosen.key, self.chosen.line, reason), Cause("each group once", None, varied))

    def _rule(self, cell: Cell) -> Rule:
        chosen = self.chosen.what
        tolerance = default_tolerance(cell.method) if self.chooses.tolerance is None else self.chooses.tolerance
        if chosen.boundary is None:
            return FirstSuccess(self.into.replicates, tolerance)
        return Boundary(chosen.boundary.budget, chosen.boundary.precision, tolerance)

    def _at(self, cell: Cell, given: Mapping[str, Given]) -> Callable[[int], Cell]:
        """From n to the group's cell."""
        if not self.dependent:
            fields = {name: getattr(cell, name) for name in cell.__dataclass_fields__}
            return lambda n: Cell(**{**fields, "n": n})

        def at(n: int) -> Cell:
            scope = Scope({**given, "n": n}, frozenset())
            return Cell(**{name: scope.literal(name) for name in (*given, "n")})

        return at


class GridMaker(_Grouper):
    """Makes ordinary cells, and notes which of them differ only in n."""

    def keep(self, cell: Cell, given: Mapping[str, Given]) -> None:
        """Add a cell to its grid."""
        super().keep(cell, given)
        fields = self.common(cell, given)
        self.into.grids.setdefault(json.dumps(fields, sort_keys=True), (fields, {}))[1][cell.n] = cell


def plain_groups(expansion: Expansion) -> list[Group]:
    """Groups of the cells that a file lists: grids whose replicates are raised, or single cells."""
    until = expansion.until
    if until is None:
        return [_plain_group(cell, expansion.replicates) for cell in expansion.cells.values()]
    groups = []
    for fields, cells in expansion.grids.values():
        values = tuple(sorted(cells))
        first = cells[values[0]]
        tolerance = default_tolerance(first.method) if until.tolerance is None else until.tolerance
        rule = UntilInterval(until.least, until.most, until.precision, tolerance)
        groups.append(Group(rule, Span(values[0], values[-1], values), fields, cells.__getitem__))
    return groups


def _plain_group(cell: Cell, replicates: int) -> Group:
    fields = {name: value for name, value in cell.row().items() if name != "n"}
    return Group(Plain(replicates), Span(cell.n, cell.n), fields, lambda n: cell)
