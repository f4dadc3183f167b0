"""YAML 1.2 as a small tree with the position of every value; a file can neither inflate it nor run code.

The tree is built from the parser's events, not by a loader, so no tag constructs anything, no alias multiplies
anything, nesting is bounded, and duplicate keys are detected. Scalars follow the core schema of YAML 1.2: ``1e-3`` is a
number, ``012`` is 12, and ``1:30``, ``yes`` and ``1_000`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, NodeEvent, ScalarEvent, SequenceStartEvent

from flatdist.errors import SweepError

MAX_BYTES = 100_000
MAX_DEPTH = 20

MAX_DIGITS = 60

_WHOLE = {10: re.compile(r"[-+]?[0-9]+"), 8: re.compile(r"0o[0-7]+"), 16: re.compile(r"0x[0-9a-fA-F]+")}  # by base
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
    """The text of a sweep file; SweepError if it does not exist, is not text, or is too large."""
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
    """The one document of a YAML text, which messages call by a name, usually the file's path.

    Raises:
        SweepError: a syntax error, with line and column; or an alias, a tag, a duplicate key, a second document.
    """
    if len(text) > MAX_BYTES:
        raise SweepError(f"{name}: is larger than {MAX_BYTES} characters")
    try:
        return _Builder(name, iter(YAML(typ="safe", pure=True).parse(text))).build()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise SweepError(f"{name}{where}: is not valid YAML: {reason}") from error
    except YAMLError as error:
        raise SweepError(f"{name}: is not valid YAML: {' '.join(str(error).split())}") from error


class _Builder:
    """Folds parser events into nodes."""

    def __init__(self, name: str, events: Iterator[Any]) -> None:
        self.name, self.events = name, events

    def build(self) -> Node:
        root: Node | None = None
        for event in self.events:
            if isinstance(event, NodeEvent):
                if root is not None:
                    raise self._error(event, "a sweep file holds one document; remove the second")
                root = self._node(event, 0)
        return root if root is not None else Node(None, 1)

    def _node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            raise self._error(event, f"the alias *{event.anchor} is not allowed; write the values out")
        if event.tag not in (None, "!"):
            raise self._error(event, f"the tag {event.tag} is not allowed; sweep files hold plain values only")
        if isinstance(event, ScalarEvent):
            if any("\ud800" <= character <= "\udfff" for character in event.value):
                raise self._error(event, "contains a lone surrogate, which is not text")
            is_plain = event.style is None and event.tag is None
            return Node(self._scalar(event) if is_plain else event.value, line)
        if depth >= MAX_DEPTH:
            raise self._error(event, f"is nested more than {MAX_DEPTH} deep")
        if isinstance(event, SequenceStartEvent):
            return Node([self._node(item, depth + 1) for item in self._inside()], line)
        node = Node({}, line)
        for name in self._inside():
            key = self._node(name, depth + 1)
            if not isinstance(key.value, (str, int, float)):
                raise self._error(name, "a key must be a name")
            text = str(key.value)
            if text in node.value:
                raise self._error(name, f"the key {text!r} is given twice (first in line {node.keys[text]})")
            node.keys[text] = key.line
            node.value[text] = self._node(next(self.events), depth + 1)
        return node

    def _inside(self) -> Iterator[Any]:
        """The events up to the end of a collection; what an event begins is read before the next is taken."""
        for event in self.events:
            if isinstance(event, CollectionEndEvent):
                return
            yield event

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if text in _WORDS:
            return _WORDS[text]
        is_number = _WHOLE[10].fullmatch(text) or _FLOAT.fullmatch(text)
        if is_number and len(text) > MAX_DIGITS:
            raise self._error(event, f"a number of {len(text)} digits is not allowed")
        for base, pattern in _WHOLE.items():
            if len(text) <= MAX_DIGITS and pattern.fullmatch(text):
                return int(text, base)
        return float(text) if is_number else text

    def _error(self, event: Any, reason: str) -> SweepError:
        return SweepError(f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}: {reason}")
