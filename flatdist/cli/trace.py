"""``flatdist trace``: where a figure comes from, read from its file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from flatdist.cli.options import json_option
from flatdist.cli.output import print_json
from flatdist.errors import FigureError, escaped, printable


@click.command("trace")
@click.argument("figures", metavar="FIGURE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def trace_command(figures: tuple[Path, ...], as_json: bool) -> None:
    """Show what FIGURE, a PNG, SVG or PDF made by flatdist, records of its origin, and the command that makes it again.

    Nothing in the file is executed. The command writes to figures/SWEEP; add --out to write elsewhere.
    """
    from flatdist.figures.tracing import command_of, read_origin

    found, problems = [], []
    for path in figures:
        try:
            origin = read_origin(path)
        except FigureError as error:
            problems.append(str(error))
            continue
        words = command_of(origin)
        found.append({"file": str(path), **origin, "command": None if words is None else shell_command(words)})
    if as_json and found:
        print_json(found)
    elif found:
        click.echo("\n\n".join("\n".join(origin_lines(origin)) for origin in found))
    if problems:
        raise FigureError("\nerror: ".join(problems))


def origin_lines(origin: Mapping[str, Any]) -> list[str]:
    """A figure's origin in words; characters that a terminal would obey are shown escaped."""
    settings = origin["settings"] if isinstance(origin["settings"], dict) else {"settings": origin["settings"]}
    lines = [
        printable(origin["file"]),
        _line("figure", origin.get("figure")),
        _line("sweep", origin["sweep"]),
        _line("store", origin.get("store")),
        _line("filter", origin.get("where") or "none"),
        _line("cells", f"{printable(origin.get('cells'))}, hash {printable(origin['cells_hash'])}"),
        _line("trials", origin.get("trials")),
        *(_line("settings" if index == 0 else "", f"{name} = {_compact(settings[name])}")
          for index, name in enumerate(sorted(settings))),
        _line("drawn by", _version(origin)),
    ]  # fmt: skip
    if origin["command"] is None:
        return [*lines, _line("command", "none is recorded, or one that is not flatdist's")]
    return [*lines, "make it again with:", f"  {origin['command']}"]


def _line(name: str, value: Any) -> str:
    return f"  {name:<10}{printable('-' if value is None else value)}"


def _version(origin: Mapping[str, Any]) -> str:
    sha = origin.get("git_revision")
    revision = f", revision {sha}" if sha else ""
    return f"flatdist {origin.get('flatdist_version')}{revision}{' with changes' if origin.get('git_dirty') else ''}"


def _compact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def shell_command(words: Sequence[str]) -> str:
    """Words as one line for a POSIX shell; those with unprintable characters in the quotes that bash and zsh share."""
    return " ".join(
        shlex.quote(word) if word.isprintable() else f"$'{''.join(map(_in_dollar_quotes, word))}'" for word in words
    )


def _in_dollar_quotes(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    return char if char.isprintable() else escaped(char)
