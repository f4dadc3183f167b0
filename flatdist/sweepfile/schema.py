"""The keys of a sweep file: what each block fixes, which axes it multiplies, and which cells it leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flatdist.cells.cell import FIELDS
from flatdist.errors import did_you_mean
from flatdist.expressions import Expression, ExpressionError, parse_condition
from flatdist.sweepfile.axes import Axis, read_axis
from flatdist.sweepfile.chosen import UNTIL_IN_WORDS, ChosenN, Until, is_chosen, read_chosen, read_until
from flatdist.sweepfile.problems import Problems
from flatdist.sweepfile.values import Given, InvalidValue, read_value
from flatdist.sweepfile.yamltree import Node

BLOCK_KEYS = ("fixed", "axes", "zip", "where")
KEYS = ("name", "description", "plugin", "replicates", "groups", *BLOCK_KEYS, "blocks", "search")
DEFAULT_REPLICATES = 8
MAX_REPLICATES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NAME_ALLOWED = "letters, digits, '_', '-' and '.', at most 100, beginning with a letter or digit"


@dataclass(frozen=True)
class Fixed:
    """A field with one value, and where the file says so."""

    value: Given
    key: str
    line: int


@dataclass(frozen=True)
class Condition:
    """A ``where``, and where it stands."""

    expression: Expression
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
    chosen: ChosenN | None = None

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
    """A sweep file, read and checked key by key, before its cells are made."""

    name: str
    description: str
    replicates: int
    blocks: tuple[Block, ...]
    until: Until | None = None  # replicates that are raised until n50 is known
    line_of_replicates: int = 0


def read_declaration(tree: Node, stem: str, changes: Changes, problems: Problems) -> Declaration:
    """Read the keys of a sweep file; everything that is wrong is noted in ``problems``.

    Args:
        tree: the document.
        stem: the file's name without its ending, the sweep's name where it gives none.
        changes: what the command line changes.
        problems: collects what is wrong.
    """
    if not isinstance(tree.value, dict):
        problems.add("the file", tree.line, "is empty or not a mapping", f"keys: {', '.join(KEYS)}")
        return Declaration(stem, "", 1, ())
    _check_keys(tree, "", KEYS, problems)
    entries = tree.value
    groups = _groups_of(entries.get("groups"), problems)
    top = _read_block(tree, "", None, changes, groups, problems)
    inner = _blocks_of(entries.get("blocks"), problems)
    has_axes = any(entries.get(key) is not None and entries[key].value for key in ("axes", "zip"))
    has_own_cells = has_axes or not inner or "search" in entries
    blocks = [_read_block(node, f"blocks[{index}].", top, changes, groups, problems) for index, node in inner]
    if has_own_cells:
        blocks.insert(0, top)
    else:  # its conditions could mean nothing but the blocks' cells
        for block in blocks:
            block.conditions += [condition for condition in top.conditions if condition.line]
    replicates = entries.get("replicates")
    until = read_until(replicates, problems) if replicates is not None and isinstance(replicates.value, dict) else None
    return Declaration(
        _name(entries.get("name"), stem, tree, problems),
        _text(entries.get("description"), problems),
        until.least if until is not None else _replicates(replicates, problems),
        tuple(blocks),
        until,
        0 if replicates is None else replicates.line,
    )


def _check_keys(node: Node, path: str, known: tuple[str, ...], problems: Problems) -> None:
    for key in node.value:
        if key not in known:
            hint = " (a cell field: it belongs under fixed or axes)" if key in FIELDS else ""
            problems.unknown_key(path, key, node.keys[key], known, hint)


def _name(node: Node | None, stem: str, tree: Node, problems: Problems) -> str:
    name, line = (stem, tree.line) if node is None else (node.value, node.line)
    if not isinstance(name, str):
        problems.add(
            "name", line, "must be text; put it in quotes", _NAME_ALLOWED, name if node is None else node.plain
        )
    elif not _NAME.fullmatch(name) or ".." in name:
        problems.add("name", line, "cannot name a sweep", _NAME_ALLOWED, name)
    return str(name)


def _text(node: Node | None, problems: Problems) -> str:
    if node is None or node.value is None:
        return ""
    if not isinstance(node.value, str):
        problems.add("description", node.line, "must be text", "one line of text, in quotes", node.plain)
    return str(node.value)


def _replicates(node: Node | None, problems: Problems) -> int:
    if node is None:
        return DEFAULT_REPLICATES
    count = node.value
    if isinstance(count, dict):  # its problems are noted
        return 1
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_REPLICATES:
        problems.add(
            "replicates",
            node.line,
            "is not a number of replicates",
            f"a whole number from 1 to {MAX_REPLICATES}, or {UNTIL_IN_WORDS}",
            node.plain,
        )
        return 1
    return count


def _blocks_of(node: Node | None, problems: Problems) -> list[tuple[int, Node]]:
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list):
        problems.add("blocks", node.line, "expected a list", "a list of {fixed, axes, zip, where}", node.plain)
        return []
    for index, item in enumerate(node.value):
        if isinstance(item.value, dict):
            _check_keys(item, f"blocks[{index}]", BLOCK_KEYS, problems)
        else:
            problems.add(f"blocks[{index}]", item.line, "expected a mapping", "{fixed, axes, zip, where}", item.plain)
    return [(index, item) for index, item in enumerate(node.value) if isinstance(item.value, dict)]


def _groups_of(node: Node | None, problems: Problems) -> dict[str, Node]:
    """Groups of axes by name, to be used in any block's ``zip``; those that no block uses are checked here."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        problems.add("groups", node.line, "expected names of groups", "{NAME: {FIELD: [...]}}", node.plain)
        return {}
    for name, axes in node.value.items():
        _read_groups(Block("", node.line), [], Node([Node(name, axes.line)], axes.line), node.value, problems)
    return dict(node.value)


def _read_block(
    node: Node, key: str, outer: Block | None, changes: Changes, groups: Mapping[str, Node], problems: Problems
) -> Block:
    """Read one block; it inherits the fixed fields of the top level, and its own axes and fixed fields replace them."""
    block = Block(key, node.line)
    entries = node.value
    _read_fixed(block, entries.get("fixed"), problems)
    axes = _read_axes(block, f"{key}axes", entries.get("axes"), problems)
    _read_groups(block, axes, entries.get("zip"), groups, problems)
    _read_conditions(block, entries.get("where"), changes, problems if outer is None else Problems(""), problems)
    if outer is not None:
        own = {*block.fixed, *block.unusable, *(axis.field for axis in block.axes)}
        if "n" not in own and block.chosen is None:
            block.chosen = outer.chosen
        if block.chosen is not None:
            own.add("n")
        block.fixed |= {name: fixed for name, fixed in outer.fixed.items() if name not in own}
        block.unusable |= {name for name in outer.unusable if name not in own}
    _override(block, changes, problems if outer is None else Problems(""))
    return block


def _fields_of(block: Block, key: str, node: Node | None, problems: Problems) -> dict[str, Node]:
    """The entries of a mapping from cell fields; anything else is noted."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        problems.add(key, node.line, "expected a mapping", "cell fields and their values", node.plain)
        return {}
    for name in node.value:
        if name not in FIELDS:
            problems.unknown_key(key, name, node.keys[name], FIELDS)
    return {name: value for name, value in node.value.items() if name in FIELDS}


def _read_fixed(block: Block, node: Node | None, problems: Problems) -> None:
    key = f"{block.key}fixed"
    for name, value in _fields_of(block, key, node, problems).items():
        if name == "n" and isinstance(value.value, dict):
            _read_chosen(block, f"{key}.{name}", value, problems)
            continue
        try:
            block.fixed[name] = Fixed(read_value(name, value.plain), f"{key}.{name}", value.line)
        except InvalidValue as error:
            problems.add(f"{key}.{name}", value.line, error.reason, error.allowed, value.plain)
            block.unusable.add(name)


def _read_chosen(block: Block, key: str, node: Node, problems: Problems) -> None:
    """Note that the sweep chooses this block's n."""
    block.chosen = read_chosen(key, node, problems)
    if block.chosen is None:
        block.unusable.add("n")


def _read_axes(block: Block, key: str, node: Node | None, problems: Problems, *, together: bool = False) -> list[Axis]:
    axes = []
    for name, value in _fields_of(block, key, node, problems).items():
        taken = name in block.fixed or name in block.unusable or (name == "n" and block.chosen is not None)
        if taken or any(axis.field == name for axis in block.axes):
            problems.add(
                f"{key}.{name}", value.line, "is given twice in one block", "each field once: fixed, axes or zip"
            )
            continue
        if is_chosen(name, value) and together:
            problems.add(f"{key}.{name}", value.line, "is chosen by the sweep and cannot advance with others", "axes.n")
            block.unusable.add(name)
            continue
        if is_chosen(name, value):
            _read_chosen(block, f"{key}.{name}", value, problems)
            continue
        axis = read_axis(name, f"{key}.{name}", value, problems)
        if axis is None:
            block.unusable.add(name)
        else:
            axes.append(axis)
    return axes


def _read_groups(
    block: Block, axes: list[Axis], node: Node | None, groups: Mapping[str, Node], problems: Problems
) -> None:
    """Groups of axes that advance together; an entry of ``zip`` holds its axes, or names some, or names a group."""
    key = f"{block.key}zip"
    block.groups = [[axis] for axis in axes]
    if node is None or node.value is None:
        return
    if not isinstance(node.value, list):
        problems.add(key, node.line, "expected a list of groups", "[{rank: [1, 2], n: [50, 90]}]", node.plain)
        return
    for index, item in enumerate(node.value):
        place = f"{key}[{index}]"
        if isinstance(item.value, list):
            group = _named_group(block, place, item, problems)
        elif isinstance(item.value, str):
            if item.value not in groups:
                reason = f"is not one of the file's groups{did_you_mean(item.value, groups)}"
                problems.add(place, item.line, reason, ", ".join(groups) or "names under groups", item.value)
                continue
            place, item = f"groups.{item.value}", groups[item.value]  # noqa: PLW2901
            group = _read_axes(block, place, item, problems, together=True)
        else:
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
        if item.value not in lone:
            problems.add(
                place, item.line, "is not an axis of this block", ", ".join(lone) or "names under axes", item.plain
            )
            continue
        group = lone.pop(item.value)
        block.groups = [other for other in block.groups if other is not group]
        chosen += group
    return chosen


def _read_conditions(block: Block, node: Node | None, changes: Changes, once: Problems, problems: Problems) -> None:
    written = [] if node is None or node.value is None else node.value if isinstance(node.value, list) else [node]
    for item in written:
        _add_condition(block, f"{block.key}where", item.value, item.line, problems)
    for text in changes.conditions:
        _add_condition(block, "--where", text, 0, once)


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
