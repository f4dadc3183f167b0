"""``flatdist report``: figures and one self-contained page."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from flatdist.cli.options import store_option, sweep_argument
from flatdist.errors import LaunchError


@click.command("report")
@sweep_argument
@store_option
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.  [default: figures/SWEEP]")
def report_command(sweep: str, store: str, out: Path | None) -> int:
    """Draw SWEEP's figures and one self-contained HTML page."""
    if find_spec("analysis") is None or find_spec("analysis.report") is None:
        raise LaunchError("analysis.report is not here; draw single figures with python -m analysis.phase_diagram")
    arguments = [sweep, "--store", store, *([] if out is None else ["--out", str(out)])]
    return int(import_module("analysis.report").main(arguments))
