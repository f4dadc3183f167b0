"""Text as Markdown: plain docstrings, tables, and formulas as MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from latex2mathml.converter import convert

_CODE = re.compile(r"(``.+?``|`.+?`)", re.DOTALL)
_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_MEANINGFUL = str.maketrans({char: f"&#{ord(char)};" for char in "*_<|["})
_VERBATIM = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)


def escape(text: str) -> str:
    """Plain text as Markdown that shows the same characters; what stands in backticks stays code."""
    parts = _CODE.split(_ROLE.sub(r"`\1`", text))
    return "".join(part if part.startswith("`") else part.translate(_MEANINGFUL) for part in parts)


def plain_text(text: str) -> str:
    """Paragraphs of plain text as Markdown, with indented equations as code."""
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(part if part.startswith("    ") else escape(part) for part in paragraphs)


def code(words: Iterable[Any]) -> str:
    """Words as code, one after another."""
    return " ".join(f"`{word}`" for word in words)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in [headings, ["---"] * len(headings), *lines])


def outside_code(page: str, change: Callable[[str], str]) -> str:
    """A page whose text is changed and whose code blocks and code spans are not."""
    return "".join(part if part.startswith("`") else change(part) for part in _VERBATIM.split(page))


def render_formulas(page: str) -> str:
    """Replace LaTeX between dollars by MathML.

    Raises:
        ValueError: a formula uses a command that latex2mathml does not know; it would appear as its own name.
    """
    return outside_code(page, lambda text: _FORMULA.sub(_rendered, text))


def _rendered(match: re.Match[str]) -> str:
    latex = " ".join((match[1] or match[2]).split())
    mathml = str(convert(latex, display="block" if match[1] else "inline"))
    unknown = re.findall(r"\\[A-Za-z]+", mathml)
    if unknown:
        raise ValueError(f"the formula {latex!r} uses {', '.join(unknown)}, which latex2mathml does not know")
    named = mathml.replace("<math ", f'<math aria-label="{html.escape(latex)}" ', 1)
    # Between inline tags Markdown is still read: its characters become references. A block is left alone by itself.
    return f"<div>{named}</div>" if match[1] else re.sub(r"[*_\[\]\\`|]", lambda char: f"&#{ord(char[0])};", named)


def block_named(page: str, name: str) -> str:
    """The last YAML block of a page that has this ``name:``."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return str([block for block in blocks if f"name: {name}\n" in block][-1])
