"""From blocks to cells: expressions resolved in the order of their dependencies, impossible cells gathered by cause."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from flatdist.cells.cell import ALWAYS_RELEVANT, FIELD_TYPES, FIELDS, Cell, check_values, default_width, relevant_fields
from flatdist.errors import CellError
from flatdist.expressions import DERIVED_FROM, Expression, ExpressionError, Value, Word, derived, show, to_value
from flatdist.sweepfile.blocks import Block, Placed
from flatdist.sweepfile.declaration import Until
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import Given, InvalidValue, computed, names_in

MAX_CELLS = 250_000  # a cell takes 70 us and 1 KB to make

Axes: TypeAlias = Mapping[str, Sequence[Given]]  # field -> the values of its axis
MakerOf: TypeAlias = "Callable[[Block, Expansion, Axes], CellMaker]"
Doubt: TypeAlias = tuple[Placed[Expression], str] | None  # a condition that cannot be computed, and why


class Unresolved(Exception):
    """A value that depends on another one that is wrong and already reported."""


@dataclass
class Expansion:
    """The cells of a sweep, unique by identity, in the order of the file."""

    cells: dict[str, Cell] = field(default_factory=dict)
    left_out: int = 0
    repeated: int = 0
    replicates: int = 1
    until: Until | None = None  # how replicates are raised until n50 is known
    groups: dict[str, Any] = field(default_factory=dict)  # of flatdist.sweeps.groups, by what their cells share
    grids: dict[str, tuple[dict[str, Any], dict[int, Cell]]] = field(default_factory=dict)  # likewise: n -> cell


def check_size(blocks: tuple[Block, ...], problems: Problems) -> None:
    """Reject a sweep that is too large, from the lengths of its axes, before any cell is made."""
    count = sum(block.count for block in blocks)
    if count > MAX_CELLS:
        largest = max(blocks, key=lambda block: block.count)
        lengths = " x ".join(f"{group[0].field} {group[0].count:,}" for group in largest.groups)
        allowed = f"at most {MAX_CELLS:,}, counted before where; take fewer values, or several files"
        longest = max(largest.axes, key=lambda axis: axis.count)
        problems.add(longest.key, longest.line, f"makes {count:,} cells of this sweep ({lengths})", allowed)
        problems.raise_any()


def fields_needed(given: Given) -> set[str]:
    """The fields that a value's expressions name, directly or through derived quantities."""
    return {need for name in names_in(given) for need in DERIVED_FROM.get(name, (name,))}


def path_between(start: str, end: str, needs: Mapping[str, set[str]]) -> list[str] | None:
    """The fields from one to the last before another that it depends on; None if it does not."""
    paths = [[start]]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        for need in sorted(needs.get(path[-1], ())):
            if need == end:
                return path
            if need not in seen:
                seen.add(need)
                paths.append([*path, need])
    return None


class Scope:
    """The names of one candidate cell, each resolved on first use."""

    def __init__(self, given: Mapping[str, Given], unusable: frozenset[str]) -> None:
        self.given, self.unusable = given, unusable  # unusable: wrong and already reported
        self._literals: dict[str, Any] = {}
        self._derived: dict[str, Value] = {}
        self._relevant: Collection[str] | None = None

    def at(self, n: int) -> Scope:
        """The same candidate with n measurements."""
        return Scope({**self.given, "n": n}, self.unusable - {"n"})

    def __getitem__(self, name: str) -> Value:
        if name in DERIVED_FROM:
            if name not in self._derived:
                try:
                    self._derived[name] = derived(name, self)
                except ValueError as error:  # of a shape or rank that the check of the whole cell reports
                    raise Unresolved(name) from error
            return self._derived[name]
        value = self.literal(name)
        if value is None:
            word = FIELD_TYPES[name].word
            return Word(word) if word else None
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
        return tuple(self.compute(name, v) for v in value) if isinstance(value, tuple) else self.compute(name, value)

    def compute(self, name: str, value: Given) -> Any:
        """A value for a field, with its expression computed."""
        return computed(name, value.evaluate(self)) if isinstance(value, Expression) else value

    def relevant(self, name: str) -> bool:
        """Whether a field changes the cell's results; if not, it is null in conditions, as in stored rows."""
        if name not in FIELDS or name in ALWAYS_RELEVANT:
            return True
        if self._relevant is None:
            self._relevant = relevant_fields(*(self.literal(name) for name in ("method", "schedule", "batch_size")))
        return name in self._relevant


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
        maker_of: chooses what makes the cells; None makes each cell by itself.
    """
    values = {axis.field: axis.build(problems) for axis in block.axes}
    maker = (maker_of or CellMaker)(block, into, values)
    cyclic: set[str] = set()
    for start in maker.needs:
        if start not in cyclic and (path := path_between(start, start, maker.needs)):
            cyclic.update(path)
            reason = f"depends on itself: {' -> '.join([*path, start])}"
            problems.add(*maker.places[start], reason, "a number for one of them")
    unusable = cyclic | block.unusable
    fixed = {name: entry.value for name, entry in block.fixed.items()}
    for varied in _combinations(block, values):
        wrong = {name for name, value in varied.items() if isinstance(value, InvalidValue)}
        maker.total += 1
        maker.varied = varied
        maker.add(Scope({**fixed, **varied}, frozenset(unusable | wrong)))
    maker.report(problems)


def _combinations(block: Block, values: Axes) -> Iterator[dict[str, Given]]:
    groups = [
        [{axis.field: values[axis.field][index] for axis in group} for index in range(group[0].count)]
        for group in block.groups
    ]
    for parts in itertools.product(*groups):
        yield {name: value for part in parts for name, value in part.items()}


@dataclass
class _Cause:
    """A problem that one or more cells share."""

    allowed: str
    value: Any
    example: Mapping[str, Given]
    count: int = 0


class CellMaker:
    """Makes the cells of one block, and groups what is wrong with them by cause."""

    def __init__(self, block: Block, into: Expansion, values: Axes) -> None:
        self.block, self.into = block, into
        self.needs = {name: fields_needed(fixed.value) for name, fixed in block.fixed.items()}  # by the values of each
        self.needs |= {name: set().union(*map(fields_needed, built)) for name, built in values.items()}
        self.total = 0  # candidates so far
        self.varied: Mapping[str, Given] = {}  # the values of the axes for the present one
        self.places = {name: (entry.key, entry.line) for name, entry in block.fixed.items()}
        self.places |= {axis.field: (axis.key, axis.line) for axis in block.axes}
        self._causes: dict[tuple[str, int, str], _Cause] = {}  # by key, line and reason

    def add(self, scope: Scope) -> None:
        """Make one cell, leave it out, or note why it is impossible."""
        doubt = self.leave_out(scope, self.block.conditions)
        if doubt is True:
            self.into.left_out += 1
        elif (cell := self.make(scope, doubt)) is not None:
            self.keep(cell, scope)

    def keep(self, cell: Cell, scope: Scope) -> None:
        """Take a cell into the sweep."""
        if self.into.cells.setdefault(cell.cell_id, cell) is not cell:
            self.into.repeated += 1

    def make(self, scope: Scope, doubt: Doubt = None) -> Cell | None:
        """The cell of a candidate; None if it is impossible, with the reasons noted."""
        literals, errors = scope.literals(scope.given)
        failed = scope.unusable | errors.keys()
        for name, error in errors.items():
            self.note_failure(*self._place(name), error, scope.given[name])
        if not failed and not doubt:
            try:
                return Cell(**literals)
            except (CellError, TypeError):
                pass
        found = [problem for problem in check_values(literals)[1] if problem.field not in failed]
        for problem in found:
            self.note(*self._place(problem.field), problem.reason, problem.allowed, problem.value)
        if doubt and not found and not failed:
            self.note_doubt(doubt)
        return None

    def _place(self, name: str) -> tuple[str, int]:
        return self.places.get(name, (f"{self.block.key}fixed.{name}", self.block.line))

    def leave_out(self, scope: Scope, conditions: Iterable[Placed[Expression]]) -> Literal[True] | Doubt:
        """Whether a condition fails; or the condition that cannot be computed, and why."""
        doubt: Doubt = None
        known = _Known(scope)
        for condition in conditions:
            try:
                if not condition.value.holds(known):
                    return True
            except Unresolved:
                continue
            except (ExpressionError, InvalidValue) as error:
                doubt = condition, error.reason
        return doubt

    def note(self, key: str, line: int, reason: str, allowed: str = "", value: Any = None) -> None:
        """Count the present candidate as one that has a problem."""
        self._causes.setdefault((key, line, reason), _Cause(allowed, value, self.varied)).count += 1

    def note_failure(self, key: str, line: int, error: Exception, given: Given) -> None:
        """Count a value that cannot be computed; what it needs is reported elsewhere if that is why."""
        if isinstance(error, ExpressionError):
            self.note(key, line, f"{error.text}: character {error.position}: {error.reason}", "", given)
        elif isinstance(error, InvalidValue):
            self.note(key, line, error.reason, error.allowed, given)

    def note_doubt(self, doubt: tuple[Placed[Expression], str]) -> None:
        """Count a condition that cannot be computed."""
        condition, reason = doubt
        self.note(condition.key, condition.line, reason, "", condition.value.text)

    def report(self, problems: Problems) -> None:
        """Note each cause once."""
        for (key, line, reason), cause in self._causes.items():
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
