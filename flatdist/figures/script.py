"""Shared code of the scripts in ``analysis/``: command line, loading a sweep's trials, saving with an origin."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from flatdist.errors import FlatdistError
from flatdist.figures.command import Context, load
from flatdist.figures.origin import file_stem, origin
from flatdist.figures.style import save_figure
from flatdist.figures.words import shown, text_lines
from flatdist.fits.success import missing_lines, resolve_tolerance, success_words
from flatdist.machine.files import atomic
from flatdist.threshold.curves import CHOICES

BAD_INPUT = 2


class Script:
    """One run of a script.

    Attributes:
        options: of the command line.
        trials: rows of the sweeps.
        lines: printed if the script succeeds.
    """

    def __init__(self, options: argparse.Namespace, command: Sequence[str]) -> None:
        self.options, self.lines = options, list[str]()
        self._command = command
        self._context = Context(options.sweeps, options.store, options.where)
        self.out = options.out or Path("figures") / self._context.title.replace(" ", "+")
        self.trials = load(self._context)
        self.lines += missing_lines(self.trials)

    def history(self, columns: Sequence[str]) -> pd.DataFrame:
        """The sweeps' training histories."""
        return self._context.history(columns)

    def show(self, table: pd.DataFrame) -> None:
        """Print a table, and the definition of success if it holds thresholds."""
        if any(str(name).startswith("n50") for name in table) and "tolerance" not in table:
            self.lines.append(success_words(resolve_tolerance(self.trials, self.options.tolerance)))
        self.lines += [*text_lines(shown(table)), ""]

    def save(self, figure: Figure, name: str, **settings: Any) -> None:
        """Write a figure as PNG, SVG and PDF, with its origin in the files."""
        store, where = self._context.store, self._context.where
        about = origin(self._context.title, self.trials, settings, store=store, where=where, command=self._command)
        self.lines += [f"wrote {path}" for path in save_figure(figure, self.out, name, about)]

    def save_table(self, table: pd.DataFrame, name: str) -> None:
        """Write a table as CSV."""
        path = self.out / f"{file_stem(name, self._context.where)}.csv"
        with atomic(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
        self.lines.append(f"wrote {path}")


def run_script(main: Callable[[Script], int | None], description: str | None, **options: Any) -> int:
    """Parse the command line, load the trials, run ``main``, and print what it says.

    Args:
        main: from the script's run to its exit status, None for 0.
        description: the script's docstring.
        options: further options and their defaults; a type declares an option without a default.

    Returns:
        Exit status: what ``main`` returns, or 2 for bad input, with one message.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m analysis.{name}", description=(description or "").split("\n")[0])
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", help="name of a sweep in the store, or its YAML file")
    parser.add_argument("--store", default="results", help="folder or URI of the results (default: results)")
    parser.add_argument("--out", type=Path, help="folder for the files (default: figures/SWEEP)")
    parser.add_argument("--where", metavar="TEXT", help='only trials for which this holds, such as "rank == 2"')
    parser.add_argument("--tolerance", type=float, help="success is a relative error below this (default: by method)")
    parser.add_argument("--link", choices=CHOICES, default="auto", help="success curve on log n (default: auto)")
    for option, default in options.items():
        kind, value = (default, None) if isinstance(default, type) else (type(default), default)
        parser.add_argument(f"--{option}", type=kind, default=value, help=f"default: {value}")
    chosen = parser.parse_args()
    words = ["python", "-m", f"analysis.{name}", *chosen.sweeps]
    for option in ("where", "tolerance", *options):
        value = getattr(chosen, option)
        words += [] if value is None else [f"--{option}", str(value)]
    try:
        script = Script(chosen, [*words, "--store", chosen.store])
        status = main(script)
    except FlatdistError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.filename or chosen.out}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    print_lines(script.lines)
    return status or 0


def print_lines(lines: Sequence[str]) -> None:
    """Print to a reader that may leave early, as ``head`` does."""
    try:
        print("\n".join(lines))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more as it exits; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def folders(description: str | None, default: str) -> tuple[Path, Path]:
    """The command line of a script that draws from committed CSVs: the folder with them, and the one to write to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(default))
    parser.add_argument("--out", type=Path, help="folder of the figures; by default that of the CSVs")
    options = parser.parse_args()
    return options.folder, options.out or options.folder
