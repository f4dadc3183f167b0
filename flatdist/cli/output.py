"""How commands print: JSON for programs, aligned columns for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import click

from flatdist.errors import printable


def print_json(content: Any) -> None:
    """Print JSON on stdout; nan and infinities become null."""
    click.echo(json.dumps(_clean(content), indent=2, default=str))


def _clean(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _clean(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_clean(item) for item in content]
    if hasattr(content, "tolist"):  # numpy scalars and arrays
        return _clean(content.tolist())
    return None if isinstance(content, float) and not math.isfinite(content) else content


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their heads, numbers aligned to the right."""
    texts = [[cell_text(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in texts) for i in range(len(head))]
    widths = [max(len(line[i]) for line in [list(head), *texts]) for i in range(len(head))]
    for line in [list(head), *texts]:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def cell_text(value: Any) -> str:
    """One value of a table."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ",".join(cell_text(item) for item in value)
    return printable(str(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True
