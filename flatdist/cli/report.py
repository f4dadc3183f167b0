"""``flatdist report``, ``watch`` and ``figure``: the results as a page, a live page, and single figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flatdist.cli.options import load_sweep, open_store, plugin_option, store_option, sweep_argument
from flatdist.errors import FlatdistError, LaunchError
from flatdist.machine.extras import remedy

_FORMATS = ("png", "svg", "pdf")
tolerance_option = click.option(
    "--tolerance", type=float, help="Success is a relative error below this (default: by method)."
)
link_option = click.option(
    "--link",
    type=click.Choice(["auto", "logit", "probit", "cloglog", "loglog"]),
    help="Success curve on log n (default: auto, by evidence).",
)


@click.command("report")
@sweep_argument
@store_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for page and figures (default: figures/SWEEP).")
@tolerance_option
@link_option
def report_command(sweep: str, store: str, out: Path | None, tolerance: float | None, link: str | None) -> None:
    """Write SWEEP's figures and one self-contained HTML page of its results; the page's path is the last line."""
    open_store(store)  # report it before anything is imported
    write = _imported().write_report
    paths = _written(out or Path("figures"), lambda: write(sweep, store, out, tolerance=tolerance, link=link or "auto"))
    for path in paths[:-1]:
        click.echo(f"wrote {path}")
    click.echo(paths[-1])


@click.command("watch")
@sweep_argument
@store_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1 (default: a free one).")
@click.option("--once", is_flag=True, help="Write the page to --out and stop, without serving it.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for --once (default: figures/SWEEP).")
@tolerance_option
@link_option
def watch_command(
    sweep: str, store: str, port: int, once: bool, out: Path | None, tolerance: float | None, link: str | None
) -> None:
    """Serve SWEEP's report as a live page that fills in as rows arrive; Ctrl-C ends it.

    The page is read-only and served on loopback only, behind a random token in its address. On a cluster,
    forward the port: ssh -L PORT:127.0.0.1:PORT HOST, and open the printed address.
    """
    with_report = _imported()
    success: dict[str, Any] = {"tolerance": tolerance, "link": link or "auto"}
    if once:
        write = with_report.write_report
        click.echo(_written(out or Path("figures"), lambda: write(sweep, store, out, formats=(), **success))[-1])
        return
    load_sweep(sweep, store)  # report it before anything is served
    settings = with_report.Settings(sweep, store, **success)
    from flatdist.report.watch import Watch

    try:
        watch = Watch(lambda: load_sweep(sweep, store), settings, port)
    except OSError as error:
        raise LaunchError(
            f"port {port}: {error.strerror or error}; give another --port, or 0 for a free one"
        ) from error
    click.echo(watch.address)
    watch.serve()


@click.command("figure")
@click.argument("name", metavar="NAME", required=False)
@click.argument("sweeps", metavar="SWEEP...", nargs=-1)
@plugin_option
@store_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files (default: figures/SWEEP).")
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
@tolerance_option
@link_option
@click.option(
    "--format", "formats", default=",".join(_FORMATS), show_default=True, help="Comma-separated file formats."
)
@click.option("--size", help="Width and height in inches, such as 3.4x2.5.")
@click.pass_context
def figure_command(
    ctx: click.Context, /, name: str | None, sweeps: tuple[str, ...], store: str, out: Path | None, where: str | None,
    formats: str, size: str | None, **options: Any,
) -> None:  # fmt: skip
    """Draw the figure NAME from one or more SWEEPs; without a NAME, list the figures.

    Each figure accepts some of the options below; given another, it lists those it accepts.
    """
    from flatdist.figures.command import FIGURES, make_figure

    if name is None:
        width = max(map(len, FIGURES))
        for figure, (_, line) in FIGURES.items():
            click.echo(f"{figure.replace('_', '-'):<{width}}  {line}")
        click.echo("\nflatdist figure NAME SWEEP makes one; --help lists the options.")
        return
    if not sweeps:
        raise click.UsageError(f"give a sweep: flatdist figure {name} SWEEP", ctx)
    kinds = [part.strip() for part in formats.split(",") if part.strip()]
    made = _written(
        out or Path("figures"),
        lambda: make_figure(
            name, sweeps, store=store, out=out, where=where, formats=kinds, size=_inches(size), **options
        ),
    )  # fmt: skip
    click.echo("\n".join(made.lines()))
    ctx.exit(int(made.violated))


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


def _imported() -> Any:
    try:
        import flatdist.report
    except ModuleNotFoundError as error:
        raise LaunchError(f"a report needs {error.name}, which is not installed; {remedy('report')}") from error
    return flatdist.report


def _written(folder: Path, make: Callable[[], Any]) -> Any:
    """What ``make`` returns; files that cannot be written are one message."""
    try:
        return make()
    except FlatdistError:
        raise
    except OSError as error:
        raise LaunchError(f"{error.filename or folder}: {error.strerror or error}") from error
