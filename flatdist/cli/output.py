"""How commands print and write: JSON for programs, aligned columns for people, files whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from flatdist.errors import StoreError, printable
from flatdist.machine.files import atomic


def warn(text: str) -> None:
    """Print a line to standard error."""
    click.echo(text, err=True)


def print_json(content: Any) -> None:
    """Print JSON on stdout; nan and infinities become null."""
    text = json.dumps(content, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))
    click.echo(json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2))


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their heads, numbers aligned to the right."""
    columns = []
    for title, *texts in zip(head, *([cell_text(value) for value in row] for row in rows), strict=True):
        width = max(map(len, (title, *texts)))
        numeric = all(map(_is_number, texts))
        columns.append([text.rjust(width) if numeric else text.ljust(width) for text in (title, *texts)])
    for line in zip(*columns, strict=True):
        click.echo("  ".join(line).rstrip())


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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary file that takes a path's place once it is written.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}; give another --out") from error
