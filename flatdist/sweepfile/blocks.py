"""From a checked file to blocks: what each fixes, which axes it multiplies, and which cells it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flatdist.cells.cell import FIELDS
from flatdist.errors import did_you_mean
from flatdist.expressions import Expression, ExpressionError, parse_condition
from flatdist.sweepfile.axes import Axis, read_axis
from flatdist.sweepfile.declaration import ChosenN, SearchKeys, SweepKeys, Until, is_chosen, validated
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import Given, InvalidValue, read_value
from flatdist.sweepfile.yamltree import Node


@dataclass(frozen=True)
class Fixed:
    """A field with one value, and its place in the file."""

    value: Given
    key: str
    line: int


@dataclass(frozen=True)
class Condition:
    """A ``where``, and its place in the file."""

    expression: Expression
    key: str
    line: int


@dataclass(frozen=True)
class Chosen:
    """An ``n`` that the sweep chooses, and its place in the file."""

    what: ChosenN
    key: str
    line: int


@dataclass
class Block:
    """One block of a sweep: the cartesian product of its groups of axes, on top of its fixed fields.

    Attributes:
        key: prefix of its keys in messages: empty for the top level, else ``blocks[0].``.
        line: where it begins.
        fixed: field -> value.
        groups: axes that advance together; a lone axis is a group of one.
        conditions: a cell is left out unless all hold.
        unusable: fields whose values are wrong and already reported.
        chosen: how the sweep chooses n itself; None where the file says it.
    """

    key: str
    line: int
    fixed: dict[str, Fixed] = field(default_factory=dict)
    groups: list[list[Axis]] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)
    chosen: Chosen | None = None

    @property
    def axes(self) -> list[Axis]:
        """All axes of all groups."""
        return [axis for group in self.groups for axis in group]

    @property
    def count(self) -> int:
        """Number of cells before any is left out."""
        product = 1
        for group in self.groups:
            product *= group[0].count
        return product


@dataclass(frozen=True)
class Changes:
    """What the command line changes about a sweep file: ``--set field=value`` and ``--where``."""

    fixed: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declaration:
    """A sweep file, read and checked key by key, before its cells are made.

    Attributes:
        name: of the sweep.
        description: one line.
        replicates: of each cell.
        blocks: its sets of cells.
        until: how replicates are raised until n50 is known; None if they are not.
        search: its ``search``; None if it has none, or one that cannot be used.
    """

    name: str
    description: str
    replicates: int
    blocks: tuple[Block, ...]
    until: Until | None = None
    search: SearchKeys | None = None


def read_declaration(tree: Node, stem: str, changes: Changes, problems: Problems) -> Declaration:
    """Read the keys of a sweep file; every problem is noted in ``problems``.

    Args:
        tree: the document.
        stem: the file's name without its ending, the default for the sweep's name.
        changes: what the command line changes.
        problems: collects what is wrong.
    """
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
    _read_fixed(block, entries.get("fixed"), problems)
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


def _read_fixed(block: Block, node: Node | None, problems: Problems) -> None:
    for name, value in _fields(node):
        key = f"{block.key}fixed.{name}"
        if name == "n" and isinstance(value.value, dict):
            _leave_n(block, key, value)
            continue
        try:
            block.fixed[name] = Fixed(read_value(name, value.plain), key, value.line)
        except InvalidValue as error:
            problems.add(key, value.line, error.reason, error.allowed, value.plain)
            block.unusable.add(name)


def _leave_n(block: Block, key: str, node: Node) -> None:
    """Note that the sweep chooses this block's n; the declaration has already checked it."""
    chosen = validated(ChosenN, node, key, Problems(""))
    if chosen is None:
        block.unusable.add("n")
    else:
        block.chosen = Chosen(chosen, f"{key}.{chosen.form}", node.line)


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
        elif (axis := read_axis(name, place, value, problems)) is None:
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
            problems.add(
                place, item.line, "is not an axis of this block", ", ".join(lone) or "names under axes", item.plain
            )
            continue
        group = lone.pop(item.value)
        block.groups = [other for other in block.groups if other is not group]
        chosen += group
    return chosen


def _add_condition(block: Block, key: str, text: Any, line: int, problems: Problems) -> None:
    if isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str):
        problems.add(key, line, "is not a condition", "text such as 'n <= d_out*d_in'", text)
        return
    try:
        block.conditions.append(Condition(parse_condition(text), key, line))
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
        try:
            block.fixed[name] = Fixed(read_value(name, raw), f"--set {name}", 0)
        except InvalidValue as error:
            problems.add(f"--set {name}", 0, error.reason, error.allowed, raw)
            block.unusable.add(name)
