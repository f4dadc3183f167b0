"""YAML 1.2 into a small tree that remembers where everything stands; nothing in a file can make it grow or run code.

Built from the parser's events with an explicit stack, not from a loader: so no tag constructs anything, no alias
multiplies anything, no nesting recurses, a duplicate key is seen, and every value knows its line. Scalars follow the
core schema of YAML 1.2: ``1e-3`` is a number, ``012`` is 12, and ``1:30``, ``yes`` and ``1_000`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from flatdist.errors import SweepError

MAX_BYTES = 100_000
MAX_DEPTH = 20

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True)
class Node:
    """A value of the file: ``value`` is a scalar, a list of nodes, or a dict from text keys to nodes."""

    value: Any
    line: int
    keys: dict[str, int] = field(default_factory=dict)  # line of each key, where value is a dict

    @property
    def plain(self) -> Any:
        """The value without positions, as Python lists and dicts."""
        if isinstance(self.value, list):
            return [item.plain for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain for key, item in self.value.items()}
        return self.value


def read_text(path: Path) -> str:
    """The text of a sweep file.

    Raises:
        SweepError: it does not exist, is no text, or is too large to be a sweep file.
    """
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is not a plain file"
            raise SweepError(f"{path}: {what}; a sweep file (YAML) was expected")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SweepError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise SweepError(f"{path}: is larger than {MAX_BYTES} bytes; describe long axes as linspace, logspace or range")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SweepError(f"{path}: is not UTF-8 text (byte {error.start})") from error


def parse_tree(text: str, name: str) -> Node:
    """The one document of a YAML text.

    Args:
        text: the YAML.
        name: what messages call it, usually the file's path.

    Raises:
        SweepError: a syntax error, with line and column; or an alias, a tag, a duplicate key, a second document.
    """
    if len(text) > MAX_BYTES:
        raise SweepError(f"{name}: is larger than {MAX_BYTES} characters")
    try:
        return _Builder(name).build(iter(YAML(typ="safe", pure=True).parse(text)))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise SweepError(f"{name}{where}: is not valid YAML: {reason}") from error
    except YAMLError as error:
        raise SweepError(f"{name}: is not valid YAML: {' '.join(str(error).split())}") from error


class _Builder:
    """Folds parser events into nodes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, events: Iterator[Any]) -> Node:
        open_nodes: list[tuple[Node, str | None]] = []  # the collections being read, and a mapping's pending key
        root: Node | None = None
        for event in events:
            kind = type(event).__name__
            if kind == "AliasEvent":
                raise self._error(event, f"the alias *{event.anchor} is not allowed; write the values out")
            if kind in ("MappingEndEvent", "SequenceEndEvent"):
                finished, pending = open_nodes.pop()
                assert pending is None
                root = self._attach(finished, open_nodes, event) or root
            elif kind in ("MappingStartEvent", "SequenceStartEvent", "ScalarEvent"):
                if root is not None and not open_nodes:
                    raise self._error(event, "a sweep file holds one document; remove the second")
                node = self._start(kind, event)
                if kind == "ScalarEvent":
                    root = self._attach(node, open_nodes, event) or root
                    continue
                if len(open_nodes) >= MAX_DEPTH:
                    raise self._error(event, f"is nested more than {MAX_DEPTH} deep")
                open_nodes.append((node, None))
        return root if root is not None else Node(None, 1)

    def _start(self, kind: str, event: Any) -> Node:
        line = event.start_mark.line + 1
        if event.tag not in (None, "!"):
            raise self._error(event, f"the tag {event.tag} is not allowed; sweep files hold plain values only")
        if kind == "MappingStartEvent":
            return Node({}, line)
        if kind == "SequenceStartEvent":
            return Node([], line)
        is_plain = event.style is None and event.tag is None
        return Node(self._scalar(event) if is_plain else event.value, line)

    def _attach(self, node: Node, open_nodes: list[tuple[Node, str | None]], event: Any) -> Node | None:
        """Put a finished node into the collection it belongs to; return it where it is the document itself."""
        if not open_nodes:
            return node
        parent, key = open_nodes[-1]
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif key is None:
            if not isinstance(node.value, (str, int, float)):
                raise self._error(event, "a key must be a name")
            name = str(node.value)
            if name in parent.value:
                raise self._error(event, f"the key {name!r} is given twice (first in line {parent.keys[name]})")
            parent.keys[name] = node.line
            open_nodes[-1] = (parent, name)
        else:
            parent.value[key] = node
            open_nodes[-1] = (parent, None)
        return None

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if text in _WORDS:
            return _WORDS[text]
        is_number = _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)
        if is_number and len(text) > 60:
            raise self._error(event, f"a number of {len(text)} digits is not allowed")
        if _INTEGER.fullmatch(text):
            return int(text)
        if len(text) <= 60 and _OCTAL.fullmatch(text):
            return int(text[2:], 8)
        if len(text) <= 60 and _HEXADECIMAL.fullmatch(text):
            return int(text[2:], 16)
        return float(text) if is_number else text

    def _error(self, event: Any, reason: str) -> SweepError:
        return SweepError(f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}: {reason}")
