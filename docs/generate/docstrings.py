"""Docstrings as Markdown: they are written as plain text, in which ``||M||_*^2`` is a norm and not an emphasis."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Warns):\s*")
_ENTRY = re.compile(r"    ([\w*]+(?:, [\w*]+)*): (.*)", re.DOTALL)
_CODE = re.compile(r"(``.+?``|`.+?`)", re.DOTALL)
_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_MEANINGFUL = str.maketrans({"*": "&#42;", "_": "&#95;", "<": "&lt;", "|": "&#124;", "[": "&#91;"})


def escape(text: str) -> str:
    """Plain text as Markdown that shows the same characters; what stands in backticks stays code."""
    parts = _CODE.split(_ROLE.sub(r"`\1`", text))
    return "".join(part if part.startswith("`") else part.translate(_MEANINGFUL) for part in parts)


def to_markdown(docstring: str) -> str:
    """A docstring, dedented, with its sections as they were and equations as code."""
    paragraphs, in_section = [], False
    for paragraph in re.split(r"\n\s*\n", docstring.strip("\n")):
        heading, _, rest = paragraph.partition("\n")
        if _SECTION.fullmatch(heading):
            in_section = True
            paragraphs.append(f"{heading}\n{_entries(rest)}")
        elif heading.startswith("    "):  # more of a section, or an equation
            paragraphs.append(_entries(paragraph) if in_section else paragraph)
        else:
            in_section = False
            paragraphs.append(escape(paragraph))
    return "\n\n".join(paragraphs)


def _entries(text: str) -> str:
    """The entries of a section; ``low, high: limits`` is one for each of the names."""
    items = re.split(r"\n(?=    \S)", text)
    return "\n".join(entry for item in items for entry in _entry(item))


def _entry(item: str) -> list[str]:
    named = _ENTRY.fullmatch(item)
    if named is None:
        return [escape(item)]
    return [f"    {name}: {escape(named[2])}" for name in named[1].split(", ")]


class PlainText(Extension):
    """Makes every docstring Markdown before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
