"""From a checked file to blocks: what each fixes, which axes it multiplies, and which cells it leaves out.

An axis is a list of values, or ``{linspace|logspace|range|uniform|loguniform: [...]}``, counted before it is built.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Generic, TypeVar

from flatdist.cells.cell import FIELD_TYPES, FIELDS
from flatdist.cells.fields import Integer
from flatdist.errors import did_you_mean
from flatdist.expressions import Expression, ExpressionError, parse, parse_condition
from flatdist.sweepfile.declaration import FORMS, RANDOM, ChosenN, SearchKeys, SweepKeys, Until, is_chosen, validated
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import Given, InvalidValue, read_value
from flatdist.sweepfile.yamltree import Node

T = TypeVar("T")

_FORMS_IN_WORDS = ", ".join(f"{{{form}: {arguments}}}" for form, arguments in FORMS.items())


@dataclass(frozen=True)
class Placed(Generic[T]):
    """A value, and its place in the file."""

    value: T
    key: str
    line: int  # 0 where it stands on the command line


@dataclass(frozen=True)
class Axis:
    """The values of one field, not yet built."""

    field: str
    key: str  # its place in the file, such as axes.rank
    line: int
    count: int  # of values
    value: Callable[[int], tuple[Any, int]]  # value number -> what the user might have written there, and its line

    def build(self, problems: Problems) -> list[Given | InvalidValue]:
        """All values, checked one by one; an invalid one is noted and replaced by the exception."""
        built: list[Given | InvalidValue] = []
        for index in range(self.count):
            raw, line = self.value(index)
            try:
                built.append(read_value(self.field, raw))
            except InvalidValue as error:
                built.append(error)
                shown = str(raw) if isinstance(raw, Fraction) else raw
                problems.add(self.key, line, error.reason, error.allowed, shown)
        return built


@dataclass
class Block:
    """One block of a sweep: the cartesian product of its groups of axes, on top of its fixed fields."""

    key: str  # prefix of its keys in messages: empty for the top level, else blocks[0].
    line: int  # where it begins
    fixed: dict[str, Placed[Given]] = field(default_factory=dict)
    groups: list[list[Axis]] = field(default_factory=list)  # axes that advance together; a lone axis is a group of one
    conditions: list[Placed[Expression]] = field(default_factory=list)  # a cell is left out unless all hold
    unusable: set[str] = field(default_factory=set)  # fields whose values are wrong and already reported
    chosen: Placed[ChosenN] | None = None  # how the sweep chooses n itself

    def fix(self, name: str, raw: Any, key: str, line: int, problems: Problems) -> None:
        """Give a field one value, or note why it cannot have it."""
        try:
            self.fixed[name] = Placed(read_value(name, raw), key, line)
        except InvalidValue as error:
            problems.add(key, line, error.reason, error.allowed, raw)
            self.unusable.add(name)

    @property
    def axes(self) -> list[Axis]:
        """All axes of all groups."""
        return [axis for group in self.groups for axis in group]

    @property
    def count(self) -> int:
        """Number of cells before any is left out."""
        return math.prod(group[0].count for group in self.groups)


@dataclass(frozen=True)
class Changes:
    """What the command line changes about a sweep file: ``--set field=value`` and ``--where``."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declaration:
    """A sweep file, read and checked key by key, before its cells are made."""

    name: str
    description: str
    replicates: int  # of each cell
    blocks: tuple[Block, ...]  # its sets of cells
    until: Until | None = None  # how replicates are raised until n50 is known
    search: SearchKeys | None = None  # None also if it cannot be used


def read_declaration(tree: Node, stem: str, changes: Changes, problems: Problems) -> Declaration:
    """Read the keys of a sweep file, which ``stem`` names if it does not; every problem is noted in ``problems``."""
    if not isinstance(tree.value, dict):
        allowed = f"keys: {', '.join(SweepKeys.names())}"
        problems.add("the file", tree.line, "is empty or not a mapping", allowed)
        return Declaration(stem, "", 1, ())
    keys = validated(SweepKeys, tree, "", problems, {"name": stem})
    entries = tree.value
    groups = _mapping(entries.get("groups"))
    for name, axes in groups.items():  # those that no block uses are checked too
        _read_groups(Block("", axes.line), [], [Node(name, axes.line)], groups, problems)
    top = _read_block(tree, "", None, changes, groups, problems)
    inner = [(index, node) for index, node in enumerate(_items(entries.get("blocks"))) if isinstance(node.value, dict)]
    has_axes = any(entries.get(key) is not None and entries[key].value for key in ("axes", "zip"))
    has_own_cells = has_axes or not inner or "search" in entries
    blocks = [_read_block(node, f"blocks[{index}].", top, changes, groups, problems) for index, node in inner]
    if has_own_cells:
        blocks.insert(0, top)
    else:  # its conditions can only refer to the blocks' cells
        for block in blocks:
            block.conditions += [condition for condition in top.conditions if condition.line]
    if keys is None:  # reported above
        return Declaration(stem, "", 1, tuple(blocks))
    until = keys.replicates if isinstance(keys.replicates, Until) else None
    count = keys.replicates if isinstance(keys.replicates, int) else keys.replicates.least
    return Declaration(keys.name, keys.description or "", count, tuple(blocks), until, keys.search)


def _mapping(node: Node | None) -> dict[str, Node]:
    """The entries of a mapping; none where it is missing, empty, or refused as something else."""
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _items(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []


def _fields(node: Node | None) -> Iterable[tuple[str, Node]]:
    """The entries of a mapping from cell fields; other names are refused by the declaration."""
    return [(name, value) for name, value in _mapping(node).items() if name in FIELDS]


def _read_block(
    node: Node, key: str, outer: Block | None, changes: Changes, groups: Mapping[str, Node], problems: Problems
) -> Block:
    """Read one block; it inherits the fixed fields of the top level, and its own axes and fixed fields replace them."""
    block = Block(key, node.line)
    entries = node.value
    once = problems if outer is None else Problems("")  # for what the command line says of every block
    for name, value in _fields(entries.get("fixed")):
        if name == "n" and isinstance(value.value, dict):
            _leave_n(block, f"{key}fixed.n", value)
        else:
            block.fix(name, value.plain, f"{key}fixed.{name}", value.line, problems)
    axes = _read_axes(block, f"{key}axes", entries.get("axes"), problems)
    _read_groups(block, axes, _items(entries.get("zip")), groups, problems)
    where = entries.get("where")
    for item in () if where is None or where.value is None else _items(where) or [where]:
        _add_condition(block, f"{key}where", item.value, item.line, problems)
    for text in changes.conditions:
        _add_condition(block, "--where", text, 0, once)
    if outer is not None:
        own = {*block.fixed, *block.unusable, *(axis.field for axis in block.axes)}
        if "n" not in own and block.chosen is None:
            block.chosen = outer.chosen
        if block.chosen is not None:
            own.add("n")
        block.fixed |= {name: fixed for name, fixed in outer.fixed.items() if name not in own}
        block.unusable |= {name for name in outer.unusable if name not in own}
    _override(block, changes, once)
    return block


def _leave_n(block: Block, key: str, node: Node) -> None:
    """Note that the sweep chooses this block's n; the declaration has already checked it."""
    chosen = validated(ChosenN, node, key, Problems(""))
    if chosen is None:
        block.unusable.add("n")
    else:
        block.chosen = Placed(chosen, f"{key}.{chosen.form}", node.line)


def _read_axes(block: Block, key: str, node: Node | None, problems: Problems, *, together: bool = False) -> list[Axis]:
    axes: list[Axis] = []
    for name, value in _fields(node):
        place, chosen = f"{key}.{name}", name == "n" and is_chosen(value.value)
        taken = name in block.fixed or name in block.unusable or (name == "n" and block.chosen is not None)
        if taken or any(axis.field == name for axis in block.axes):
            problems.add(place, value.line, "is given twice in one block", "each field once: fixed, axes or zip")
        elif chosen and together:
            problems.add(place, value.line, "is chosen by the sweep and cannot advance with others", "axes.n")
            block.unusable.add(name)
        elif chosen:
            _leave_n(block, place, value)
        elif (axis := _read_axis(name, place, value, problems)) is None:
            block.unusable.add(name)
        else:
            axes.append(axis)
    return axes


def _read_groups(
    block: Block, axes: list[Axis], items: Iterable[Node], groups: Mapping[str, Node], problems: Problems
) -> None:
    """Groups of axes that advance together; an entry of ``zip`` holds its axes, or names some, or names a group."""
    block.groups = [[axis] for axis in axes]
    for index, item in enumerate(items):
        place = f"{block.key}zip[{index}]"
        if isinstance(item.value, list):
            group = _named_group(block, place, item, problems)
        elif isinstance(item.value, str) and item.value not in groups:
            reason = f"is not one of the file's groups{did_you_mean(item.value, groups)}"
            problems.add(place, item.line, reason, ", ".join(groups) or "names under groups", item.value)
            continue
        else:
            if isinstance(item.value, str):
                place, item = f"groups.{item.value}", groups[item.value]  # noqa: PLW2901
            group = _read_axes(block, place, item, problems, together=True)
        if len({axis.count for axis in group}) > 1:
            lengths = ", ".join(f"{axis.field} has {axis.count}" for axis in group)
            problems.add(place, item.line, f"has axes of different lengths: {lengths}", "axes of one length")
            block.unusable |= {axis.field for axis in group}
        elif group:
            block.groups.append(group)


def _named_group(block: Block, place: str, node: Node, problems: Problems) -> list[Axis]:
    """Take the axes that a group names out of the product."""
    lone = {group[0].field: group for group in block.groups if len(group) == 1}
    chosen = []
    for item in node.value:
        if not isinstance(item.value, str) or item.value not in lone:
            allowed = ", ".join(lone) or "names under axes"
            problems.add(place, item.line, "is not an axis of this block", allowed, item.plain)
        else:
            group = lone.pop(item.value)
            block.groups = [other for other in block.groups if other is not group]
            chosen += group
    return chosen


def _add_condition(block: Block, key: str, text: Any, line: int, problems: Problems) -> None:
    try:
        if not isinstance(text, (str, bool)):
            problems.add(key, line, "is not a condition", "text such as 'n <= d_out*d_in'", text)
        else:
            block.conditions.append(Placed(parse_condition(str(text)), key, line))
    except ExpressionError as error:
        problems.add(key, line, f"character {error.position}: {error.reason}", value=text)


def _override(block: Block, changes: Changes, problems: Problems) -> None:
    """Apply ``--set``: the field has one value everywhere, whatever axes the file gives it."""
    for name, raw in changes.fixed.items():
        if name not in FIELDS:
            problems.unknown_key("--set", name, 0, FIELDS)
            continue
        block.groups = [rest for group in block.groups if (rest := [axis for axis in group if axis.field != name])]
        block.unusable.discard(name)
        if name == "n":
            block.chosen = None
        block.fix(name, raw, f"--set {name}", 0, problems)


def _read_axis(field: str, key: str, node: Node, problems: Problems) -> Axis | None:
    """Read one axis; None if it cannot be used, with the reason noted."""
    shown = None
    try:
        if isinstance(node.value, list):
            if not node.value:
                raise InvalidValue("is an empty list, which makes the sweep empty", "at least one value")
            items = [(item.plain, item.line) for item in node.value]
            return Axis(field, key, node.line, len(items), items.__getitem__)
        if not isinstance(node.value, dict):
            shown = node.plain
            hint = "a list of values" + (f", or one of {_FORMS_IN_WORDS}" if FIELD_TYPES[field].numeric else "")
            raise InvalidValue("expected a list; put a single value under `fixed`", hint)
        for name in node.value:
            if name not in (*FORMS, "seed"):
                known = (*FORMS, "seed", *(ChosenN.names() if field == "n" else ()))
                problems.unknown_key(key, name, node.keys[name], known)
                return None
        forms = [name for name in node.value if name in FORMS]
        if len(forms) != 1 or ("seed" in node.value and forms[0] not in RANDOM):
            raise InvalidValue("takes exactly one form, and a seed only where it is random", _FORMS_IN_WORDS)
        (form,) = forms
        key = f"{key}.{form}"
        if not FIELD_TYPES[field].numeric:
            reason = f"numeric axes need a numeric field; `{field}` is not numeric"
            raise InvalidValue(reason, f"a list of: {FIELD_TYPES[field].allowed}")
        shown = arguments = node.value[form].plain
        if not isinstance(arguments, list) or len(arguments) != 3:
            raise InvalidValue("does not have three entries", FORMS[form])
        count, value = _numbers(field, form, arguments, node.plain.get("seed", 0))
    except InvalidValue as error:
        problems.add(key, node.line, error.reason, error.allowed, shown)
        return None
    return Axis(field, key, node.line, count, lambda index: (value(index), node.line))


def _numbers(field: str, form: str, arguments: Sequence[Any], seed: Any) -> tuple[int, Callable[[int], Any]]:
    """How many values a form has, and from a value's number to its number or its expression as text.

    ``range`` includes stop if a step lands on it, ``linspace`` and ``logspace`` include both ends. Random values are
    drawn from the field's name and the seed, so that a longer axis begins with the values of a shorter one.
    """
    (start, low), (stop, high) = (_argument(form, part) for part in arguments[:2])
    if form == "range":
        step = _argument(form, arguments[2])[1]
        if low is None or high is None or step is None:
            raise InvalidValue("depends on other fields, so its length is unknown; use linspace", "three numbers")
        if step == 0 or (high - low) / step < 0:
            raise InvalidValue("never reaches stop: the step is 0 or leads away from it", FORMS[form])
        kind = int if low.denominator == step.denominator == 1 else Fraction
        return math.floor((high - low) / step) + 1, lambda index: kind(low + index * step)
    count = arguments[2]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidValue("has a count that is not a whole number of at least 1", FORMS[form])
    logarithmic = form in ("logspace", "loguniform")
    if logarithmic and any(end is not None and end <= 0 for end in (low, high)):
        raise InvalidValue("needs ends greater than 0: the values themselves, not exponents of 10", FORMS[form])
    if form in RANDOM and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InvalidValue(f"has the seed {seed!r}", "a whole number")

    def value(index: int) -> str:
        if form not in RANDOM and index in (0, count - 1):
            return start if index == 0 else stop
        share = f"{index} / {max(count - 1, 1)}"
        if form in RANDOM:
            drawn = hashlib.sha256(f"{field} {seed} {index}".encode()).digest()
            share = f"{int.from_bytes(drawn[:4])} / {2**32}"
        if logarithmic:
            text = f"({start}) * (({stop}) / ({start})) ** ({share})"
        else:
            text = f"({start}) + (({stop}) - ({start})) * {share}"
        return f"round({text})" if form in RANDOM and isinstance(FIELD_TYPES[field], Integer) else text

    return count, value


def _argument(form: str, part: Any) -> tuple[str, Fraction | None]:
    """An argument as expression text and, if it depends on no field, its value."""
    try:
        if not isinstance(part, bool) and isinstance(part, (int, float, str)):
            expression = parse(part if isinstance(part, str) else repr(part))
            value = None if expression.names else expression.evaluate({})
            if value is None or isinstance(value, Fraction):
                return expression.text, value
    except ExpressionError as error:
        raise InvalidValue(f"has the entry {part!r}: character {error.position}: {error.reason}", FORMS[form]) from None
    raise InvalidValue(f"has an entry that is not a number: {part!r}", FORMS[form])
