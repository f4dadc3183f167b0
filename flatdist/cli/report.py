"""``flatdist report``: a sweep's figures, and one page of everything that is known of it."""

from __future__ import annotations

from pathlib import Path

import click

from flatdist.cli.options import load_sweep, open_store, store_option, sweep_argument
from flatdist.errors import FlatdistError, LaunchError


@click.command("report")
@sweep_argument
@store_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder for page and figures (default: figures/SWEEP).")
@click.option("--tolerance", type=float, help="Success is a relative error below this (default: by method).")
@click.option(
    "--link",
    type=click.Choice(["auto", "logit", "probit", "cloglog", "loglog"]),
    default="auto",
    help="Success curve on log n; auto: by evidence.",
)
def report_command(sweep: str, store: str, out: Path | None, tolerance: float | None, link: str) -> None:
    """Write SWEEP's figures and one self-contained HTML page of its results; the page's path is the last line."""
    loaded = load_sweep(sweep, store)
    open_store(store)  # said before anything is imported
    try:
        from flatdist.report import write_report
    except ModuleNotFoundError as error:
        raise LaunchError(
            f"a report needs {error.name}, which is not installed; pip install 'flatdist[report]'"
        ) from error
    from flatdist.sweeps.sweep import names_a_file

    named = Path(sweep) if names_a_file(sweep) else sweep
    folder = out or Path("figures") / loaded.name
    try:
        paths = write_report(loaded, named, store, folder, tolerance=tolerance, link=link)
    except FlatdistError:
        raise
    except OSError as error:
        raise LaunchError(f"{error.filename or folder}: {error.strerror or error}") from error
    for path in paths[:-1]:
        click.echo(f"wrote {path}")
    click.echo(paths[-1])
