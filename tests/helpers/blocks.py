"""Pages, and the code blocks, inline commands, links and headings in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(
    r"\]\(<?([^)\s>]+)>?\)|^\[[^\]]+\]:\s*(\S+)|<(?:a|img)\b[^>]*\b(?:href|src)=\"([^\"]+)\"", re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced code block: its language, its text, and its first line's number on the page."""

    language: str
    text: str
    line: int


def name_of(page: Path) -> str:
    """The page's path in the repository, by which tests are named."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent = len(match[1])
        lines = "".join(line[indent:] for line in match[3].splitlines(keepends=True))
        found.append(Block(match[2].strip(), lines, text.count("\n", 0, match.start()) + 2))
    return found


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands_of(block: Block) -> list[str]:
    """The commands of a console block: lines after ``$``, continued ones joined; the rest is what they print."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def inline_commands_of(page: Path) -> list[str]:
    """Commands named in the running text."""
    return re.findall(r"`((?:flatdist [a-z]|python -m |python benchmarks|make [a-z])[^`]*)`", prose_of(page))


def links_of(page: Path) -> list[str]:
    """The targets of the page's links and pictures."""
    prose = re.sub(r"`[^`\n]*`", "", prose_of(page))
    return [next(group for group in match.groups() if group) for match in _LINK.finditer(prose)]


def indented_code_of(page: Path) -> list[str]:
    """Paragraphs that Markdown takes for code because they are indented: no test would find them."""
    paragraphs = re.split(r"\n\s*\n", prose_of(page))
    return [
        text for before, text in pairwise(paragraphs) if text.startswith("    ") and not re.match(r"[-*\d ]", before)
    ]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as code forges and the site make them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?)\s*$", prose_of(page), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        number = 1
        while (unique := slug if number == 1 else f"{slug}-{number - 1}") in anchors:
            number += 1
        anchors.add(unique)
    return anchors
