"""``flatdist report``, ``watch``, ``figure`` and ``trace``: the results as a page, a live page, and single figures."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from flatdist.cli.options import FILE, json_option, open_store, plugin_option, store_option, sweep_options, together
from flatdist.cli.output import print_json
from flatdist.errors import FigureError, FlatdistError, LaunchError, escaped, printable
from flatdist.machine.extras import remedy

_success_options = together(
    click.option("--tolerance", type=float, help="Success is a relative error below this (default: by method)."),
    click.option(
        "--link",
        type=click.Choice(["auto", "logit", "probit", "cloglog", "loglog"]),
        help="Success curve on log n (default: auto, by evidence).",
    ),
)


@click.command("report")
@sweep_options
@click.option("--out", type=FILE, help="Folder for page and figures (default: figures/SWEEP).")
@_success_options
def report_command(sweep: str, store: str, out: Path | None, tolerance: float | None, link: str | None) -> None:
    """Write SWEEP's figures and one self-contained HTML page of its results; the page's path is the last line."""
    open_store(store)  # report it before anything is imported
    report = _imported()
    with _writing(out):
        *figures, page = report.write_report(sweep, store, out, tolerance=tolerance, link=link or "auto")
    for path in figures:
        click.echo(f"wrote {path}")
    click.echo(page)


@click.command("watch")
@sweep_options
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1 (default: a free one).")
@click.option("--once", is_flag=True, help="Write the page to --out and stop, without serving it.")
@click.option("--out", type=FILE, help="Folder for --once (default: figures/SWEEP).")
@_success_options
def watch_command(
    sweep: str, store: str, port: int, once: bool, out: Path | None, tolerance: float | None, link: str | None
) -> None:
    """Serve SWEEP's report as a live page that fills in as rows arrive; Ctrl-C ends it.

    The page is read-only and served on loopback only, behind a random token in its address. On a cluster,
    forward the port: ssh -L PORT:127.0.0.1:PORT HOST, and open the printed address.
    """
    report = _imported()
    if once:
        with _writing(out):
            click.echo(report.write_report(sweep, store, out, formats=(), tolerance=tolerance, link=link or "auto")[-1])
        return
    from flatdist.report.watch import Watch

    watch = Watch(sweep, store, port, tolerance=tolerance, link=link or "auto")
    click.echo(watch.address)
    watch.serve()


def _imported() -> Any:
    try:
        import flatdist.report
    except ModuleNotFoundError as error:
        raise LaunchError(f"a report needs {error.name}, which is not installed; {remedy('report')}") from error
    return flatdist.report


@contextlib.contextmanager
def _writing(folder: Path | None) -> Iterator[None]:
    """Files that cannot be written are one message."""
    try:
        yield
    except FlatdistError:
        raise
    except OSError as error:
        raise LaunchError(f"{error.filename or folder or 'figures'}: {error.strerror or error}") from error


@click.command("figure")
@click.argument("name", metavar="NAME", required=False)
@click.argument("sweeps", metavar="SWEEP...", nargs=-1)
@plugin_option
@store_option
@click.option("--out", type=FILE, help="Folder for the files (default: figures/SWEEP).")
@click.option("--where", help='Only trials for which this holds, such as "rank == 2 and n > 1.5*dof".')
@click.option("--x", help="Column on the x axis, or arithmetic such as n/entries.")
@click.option("--y", help="Column on the y axis, likewise.")
@click.option("--value", help="Column whose statistic is drawn: success, n50, or any column of the trials.")
@click.option("--agg", help="Statistic over replicates: mean, median, min, max, std or count.")
@click.option("--color", help="Column shown by colour; none for a single colour.")
@click.option("--facet", help="Column shown by panel; none to pool.")
@click.option(
    "--log", help="Logarithmic axes among x, y and value, such as x,value; none for none (default: by spread)."
)
@click.option("--view", help="Axes of the phase diagram: rank, size, shape or normalised (default: by what varies).")
@click.option("--over", help="Prediction or method that ratios divide n50 by.")
@click.option("--margin", type=float, help="Relative distance from 1 within which ratios are counted.")
@click.option("--reference", help="Method that paired figures compare with.")
@_success_options
@click.option("--format", "formats", default="png,svg,pdf", show_default=True, help="Comma-separated file formats.")
@click.option("--size", help="Width and height in inches, such as 3.4x2.5.")
def figure_command(
    name: str | None, sweeps: tuple[str, ...], out: Path | None, formats: str, size: str | None, **options: Any
) -> int:
    """Draw the figure NAME from one or more SWEEPs; without a NAME, list the figures.

    Each figure accepts some of the options below; given another, it lists those it accepts.
    """
    from flatdist.figures.command import FIGURES, make_figure

    if name is None:
        width = max(map(len, FIGURES))
        for figure, (_, line) in FIGURES.items():
            click.echo(f"{figure.replace('_', '-'):<{width}}  {line}")
        click.echo("\nflatdist figure NAME SWEEP makes one; --help lists the options.")
        return 0
    if not sweeps:
        raise click.UsageError(f"give a sweep: flatdist figure {name} SWEEP", click.get_current_context())
    kinds = [part.strip() for part in formats.split(",") if part.strip()]
    with _writing(out):
        made = make_figure(name, sweeps, out=out, formats=kinds, size=_inches(size), **options)
    click.echo("\n".join(made.lines()))
    return int(made.violated)


def _inches(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        width, height = (float(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        width = height = 0.0
    if not (0.5 <= width <= 60 and 0.5 <= height <= 60):
        raise click.BadParameter(
            f"{text!r} is not a size; give width and height in inches, such as 3.4x2.5", param_hint="--size"
        )
    return width, height


@click.command("trace")
@click.argument("figures", metavar="FIGURE...", nargs=-1, required=True, type=FILE)
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
        click.echo("\n\n".join("\n".join(_origin_lines(origin)) for origin in found))
    if problems:
        raise FigureError("\nerror: ".join(problems))


def _origin_lines(origin: Mapping[str, Any]) -> list[str]:
    """A figure's origin in words; characters that a terminal would obey are shown escaped."""
    settings = origin["settings"] if isinstance(origin["settings"], dict) else {"settings": origin["settings"]}
    shown = [f"{name} = {value if isinstance(value, str) else json.dumps(value)}"
             for name, value in sorted(settings.items())]  # fmt: skip
    sha, dirty = origin.get("git_revision"), " with changes" if origin.get("git_dirty") else ""
    facts = [
        ("figure", origin.get("figure")),
        ("sweep", origin["sweep"]),
        ("store", origin.get("store")),
        ("filter", origin.get("where") or "none"),
        ("cells", f"{printable(origin.get('cells'))}, hash {printable(origin['cells_hash'])}"),
        ("trials", origin.get("trials")),
        *zip(["settings", *[""] * len(shown)], shown, strict=False),
        ("drawn by", f"flatdist {origin.get('flatdist_version')}{f', revision {sha}' if sha else ''}{dirty}"),
    ]
    command = origin["command"]
    if command is None:
        facts.append(("command", "none is recorded, or one that is not flatdist's"))
    lines = [f"  {name:<10}{printable('-' if value is None else value)}" for name, value in facts]
    again = [] if command is None else ["make it again with:", f"  {command}"]
    return [printable(origin["file"]), *lines, *again]


def shell_command(words: Sequence[str]) -> str:
    """Words as one line for a POSIX shell; those with unprintable characters in the quotes that bash and zsh share."""
    return " ".join(
        shlex.quote(word) if word.isprintable() else f"$'{''.join(map(_in_dollar_quotes, word))}'" for word in words
    )


def _in_dollar_quotes(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    return char if char.isprintable() else escaped(char)
