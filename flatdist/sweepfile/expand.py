"""From blocks to cells: expressions resolved in the order of their dependencies, impossible cells gathered by cause."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from flatdist.cells.cell import ALWAYS_RELEVANT, FIELDS, Cell, check_values, default_width, relevant_fields
from flatdist.cells.fields import Keyword
from flatdist.errors import CellError
from flatdist.expressions import (
    DERIVED,
    DERIVED_FROM,
    Expression,
    ExpressionError,
    Value,
    Word,
    derived,
    show,
    to_value,
)
from flatdist.sweepfile.blocks import Block, Condition
from flatdist.sweepfile.declaration import Until
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import Given, InvalidValue, computed, kind_of, names_in

MAX_CELLS = 250_000  # a cell takes 70 us and 1 KB to make


MakerOf: TypeAlias = "Callable[[Block, Expansion, Mapping[str, Sequence[Given]]], CellMaker]"
Doubt: TypeAlias = tuple[Condition, str] | None  # a condition that cannot be computed, and why


class Unresolved(Exception):
    """A value that depends on another one that is wrong and already reported."""


@dataclass
class Expansion:
    """The cells of a sweep, unique by identity, in the order of the file."""

    cells: dict[str, Cell]
    left_out: int = 0
    repeated: int = 0
    replicates: int = 1
    until: Until | None = None  # how replicates are raised until n50 is known
    groups: dict[str, Any] = field(default_factory=dict)  # of flatdist.sweeps.groups, by what their cells share
    grids: dict[str, tuple[dict[str, Any], dict[int, Cell]]] = field(default_factory=dict)  # likewise: n -> cell


def check_size(blocks: tuple[Block, ...], problems: Problems) -> None:
    """Reject a sweep that is too large, from the lengths of its axes.

    Raises:
        SweepError: with the count, before any cell is made.
    """
    count = sum(block.count for block in blocks)
    if count > MAX_CELLS:
        largest = max(blocks, key=lambda block: block.count)
        lengths = " x ".join(f"{group[0].field} {group[0].count:,}" for group in largest.groups)
        allowed = f"at most {MAX_CELLS:,}, counted before where; take fewer values, or several files"
        longest = max(largest.axes, key=lambda axis: axis.count)
        problems.add(longest.key, longest.line, f"makes {count:,} cells of this sweep ({lengths})", allowed)
        problems.raise_any()


def find_cycles(block: Block, values: Mapping[str, Sequence[Given]], problems: Problems) -> set[str]:
    """Note fields whose expressions depend on themselves, directly or through others; return those fields."""
    needs = {name: fields_needed(fixed.value) for name, fixed in block.fixed.items()}
    needs |= {name: {need for value in built for need in fields_needed(value)} for name, built in values.items()}
    places = {name: (fixed.key, fixed.line) for name, fixed in block.fixed.items()}
    places |= {axis.field: (axis.key, axis.line) for axis in block.axes}
    cyclic: set[str] = set()
    for start in needs:
        path = _path_back(start, needs) if start not in cyclic else None
        if path:
            cyclic.update(path)
            key, line = places[start]
            problems.add(key, line, f"depends on itself: {' -> '.join([*path, start])}", "a number for one of them")
    return cyclic


def fields_needed(given: Given) -> set[str]:
    """The fields that a value's expressions name, directly or through derived quantities."""
    return {need for name in names_in(given) for need in DERIVED_FROM.get(name, (name,))}


def _path_back(start: str, needs: Mapping[str, set[str]]) -> list[str] | None:
    paths = [[start]]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        for need in sorted(needs.get(path[-1], ())):
            if need == start:
                return path
            if need not in seen:
                seen.add(need)
                paths.append([*path, need])
    return None


class Scope:
    """The names of one candidate cell, each resolved on first use."""

    def __init__(self, given: Mapping[str, Given], unusable: frozenset[str]) -> None:
        self.given, self.unusable = given, unusable
        self._literals: dict[str, Any] = {}
        self._derived: dict[str, Value] = {}
        self._relevant: Collection[str] | None = None

    def __getitem__(self, name: str) -> Value:
        if name in DERIVED:
            if name not in self._derived:
                try:
                    self._derived[name] = derived(name, self)
                except ValueError as error:  # of a shape or rank that the check of the whole cell reports
                    raise Unresolved(name) from error
            return self._derived[name]
        value = self.literal(name)
        if value is None:
            kind = kind_of(name)
            return Word(kind.word) if isinstance(kind, Keyword) else None
        return to_value(value)

    def literal(self, name: str) -> Any:
        """A field's value, its expressions computed."""
        if name not in self._literals:
            self._literals[name] = self._resolve(name)
        return self._literals[name]

    def literals(self, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Exception]]:
        """The values of some fields, and why others cannot be computed; :class:`Unresolved` is reported elsewhere."""
        values: dict[str, Any] = {}
        errors: dict[str, Exception] = {}
        for name in names:
            try:
                values[name] = self.literal(name)
            except (Unresolved, ExpressionError, InvalidValue, RecursionError) as error:
                errors[name] = error
        return values, errors

    def _resolve(self, name: str) -> Any:
        if name in self.unusable:
            raise Unresolved(name)
        if name == "width" and self.given.get(name) is None:
            return default_width({name: self.literal(name) for name in ("d_out", "d_in", "method", "init")})
        if name not in self.given:
            default = FIELDS[name].default
            if not isinstance(default, (str, int, float, bool, type(None))):
                raise Unresolved(name)  # required and missing, which the check of the whole cell reports
            return default
        value = self.given[name]
        if isinstance(value, tuple):
            return tuple(self.compute(name, item) for item in value)
        return self.compute(name, value)

    def relevant(self, name: str) -> bool:
        """Whether a field changes the cell's results; if not, it is null in conditions, as in stored rows."""
        if name not in FIELDS or name in ALWAYS_RELEVANT:
            return True
        if self._relevant is None:
            self._relevant = relevant_fields(*(self.literal(name) for name in ("method", "schedule", "batch_size")))
        return name in self._relevant

    def compute(self, name: str, value: Given) -> Any:
        """A value for a field, with its expression computed."""
        return computed(name, value.evaluate(self)) if isinstance(value, Expression) else value


class _Known:
    """The names of a candidate in its conditions: what the row of its cell would say."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __getitem__(self, name: str) -> Value:
        return self._scope[name] if self._scope.relevant(name) else None


def expand(block: Block, into: Expansion, problems: Problems, maker_of: MakerOf | None = None) -> None:
    """Add the cells of one block; problems are noted once per cause, with a count and an example.

    Args:
        block: the block.
        into: takes the cells.
        problems: takes what is wrong with them.
        maker_of: chooses what makes the cells from the block, ``into`` and the values of the axes; None makes each cell
            by itself.
    """
    values = {axis.field: axis.build(problems) for axis in block.axes}
    unusable = frozenset(block.unusable | find_cycles(block, values, problems))
    fixed = {name: entry.value for name, entry in block.fixed.items()}
    maker = CellMaker(block, into) if maker_of is None else maker_of(block, into, values)
    for varied in _combinations(block, values):
        wrong = {name for name, value in varied.items() if isinstance(value, InvalidValue)}
        maker.add({**fixed, **varied}, unusable | wrong if wrong else unusable, varied)
    maker.report(problems)


def _combinations(block: Block, values: Mapping[str, list[Given]]) -> Iterator[dict[str, Given]]:
    groups = [
        [{axis.field: values[axis.field][index] for axis in group} for index in range(group[0].count)]
        for group in block.groups
    ]
    for parts in itertools.product(*groups):
        yield {name: value for part in parts for name, value in part.items()}


@dataclass
class Cause:
    """A problem that one or more cells share."""

    allowed: str
    value: Any
    example: Mapping[str, Given]
    count: int = 0


class CellMaker:
    """Makes the cells of one block, and groups what is wrong with them by cause."""

    def __init__(self, block: Block, into: Expansion) -> None:
        self.block, self.into = block, into
        self.total = 0
        self.places = {name: (entry.key, entry.line) for name, entry in block.fixed.items()}
        self.places |= {axis.field: (axis.key, axis.line) for axis in block.axes}
        self.causes: dict[tuple[str, int, str], Cause] = {}  # by key, line and reason

    def add(self, given: Mapping[str, Given], unusable: frozenset[str], varied: Mapping[str, Given]) -> None:
        """Make one cell, leave it out, or note why it is impossible."""
        self.total += 1
        scope = Scope(given, unusable)
        doubt = self.leave_out(scope, self.block.conditions)
        if doubt is True:
            self.into.left_out += 1
            return
        cell = self.make(scope, given, varied, doubt)
        if cell is not None:
            self.keep(cell, given)

    def keep(self, cell: Cell, given: Mapping[str, Given]) -> None:
        """Take a cell into the sweep."""
        if self.into.cells.setdefault(cell.cell_id, cell) is not cell:
            self.into.repeated += 1

    def make(
        self, scope: Scope, given: Mapping[str, Given], varied: Mapping[str, Given], doubt: Doubt = None
    ) -> Cell | None:
        """The cell with these values; None if it is impossible, with the reasons noted."""
        literals, errors = scope.literals(given)
        failed = scope.unusable | errors.keys()
        for name, error in errors.items():
            if isinstance(error, ExpressionError):
                self.note(name, given[name], f"{error.text}: character {error.position}: {error.reason}", "", varied)
            elif isinstance(error, InvalidValue):
                self.note(name, given[name], error.reason, error.allowed, varied)
        if not failed and not doubt:
            try:
                return Cell(**literals)
            except (CellError, TypeError):
                pass
        found = [problem for problem in check_values(literals)[1] if problem.field not in failed]
        for problem in found:
            self.note(problem.field, problem.value, problem.reason, problem.allowed, varied)
        if doubt and not found and not failed:
            condition, reason = doubt
            self.count((condition.key, condition.line, reason), Cause("", condition.expression.text, varied))
        return None

    def leave_out(self, scope: Scope, conditions: Iterable[Condition]) -> Literal[True] | Doubt:
        """Whether a condition fails; or the condition that cannot be computed, and why."""
        doubt: Doubt = None
        known = _Known(scope)
        for condition in conditions:
            try:
                if not condition.expression.holds(known):
                    return True
            except Unresolved:
                continue
            except (ExpressionError, InvalidValue) as error:
                doubt = condition, error.reason
        return doubt

    def note(self, field: str, value: Any, reason: str, allowed: str, varied: Mapping[str, Given]) -> None:
        """Count a problem with a field's value."""
        key, line = self.places.get(field, (f"{self.block.key}fixed.{field}", self.block.line))
        self.count((key, line, reason), Cause(allowed, value, varied))

    def count(self, where_and_why: tuple[str, int, str], cause: Cause) -> None:
        """Count one cell that has a problem: at which key and line, and why."""
        self.causes.setdefault(where_and_why, cause).count += 1

    def report(self, problems: Problems) -> None:
        """Note each cause once."""
        for (key, line, reason), cause in self.causes.items():
            extent = ""
            if self.total > 1 and cause.example:
                example = ", ".join(f"{name}={_plain(value)}" for name, value in cause.example.items())
                extent = f" ({cause.count:,} of {self.total:,} cells, first: {example})"
            problems.add(key, line, reason + extent, cause.allowed, _plain(cause.value))


def _plain(given: Given) -> Any:
    if isinstance(given, Expression):
        return given.text
    if isinstance(given, InvalidValue):
        return "?"
    try:
        value = to_value(given) if not isinstance(given, tuple) else None
    except (TypeError, ValueError):
        return given
    return given if value is None or isinstance(value, (bool, str)) else show(value)
