"""What the figure commands share: their arguments, loading a sweep's trials, and reporting what was made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.grouping import name_nulls
from analysis.likelihood import LINKS
from flatdist.errors import FitError, FlatdistError

BAD_INPUT = 2


@dataclass(frozen=True)
class Request:
    """What a figure command was asked for.

    Attributes:
        sweep: a sweep's name or file.
        store: where its results are.
        out: folder for the pictures.
        tolerance: relative error of a success; None for the default of the methods present.
        link: of the fits.
        options: the command's own arguments.
    """

    sweep: str
    store: str
    out: Path
    tolerance: float | None
    link: str
    options: argparse.Namespace

    @property
    def title(self) -> str:
        """The sweep's name, for files and headings."""
        return Path(self.sweep).stem if self.sweep.endswith((".yaml", ".yml")) else self.sweep


def run_command(
    name: str,
    description: str,
    draw: Callable[[Request, pd.DataFrame], Sequence[str]],
    arguments: Sequence[str] | None = None,
    extend: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Parse, load, draw, and print what ``draw`` returns.

    Args:
        name: of the analysis, as in ``python -m analysis.NAME``.
        description: one line.
        draw: from the request and the sweep's trials to the lines to print.
        arguments: command line; the process's own by default.
        extend: adds the analysis's own arguments.

    Returns:
        Exit status: 0, or 2 for bad input, with one message.
    """
    parser = argparse.ArgumentParser(prog=f"python -m analysis.{name}", description=description)
    parser.add_argument("sweep", metavar="SWEEP", help="name of a sweep in the store, or its YAML file")
    parser.add_argument("--store", default="results", help="folder or URI of the results (default: results)")
    parser.add_argument("--out", type=Path, help="folder for the pictures (default: figures/SWEEP)")
    parser.add_argument("--tolerance", type=float, help="success is a relative error below this (default: by method)")
    parser.add_argument("--link", choices=LINKS, default="logit", help="success curve on log n (default: logit)")
    extend(parser)
    options = parser.parse_args(arguments)
    request = Request(options.sweep, options.store, Path(), options.tolerance, options.link, options)
    out = options.out or Path("figures") / request.title
    request = Request(options.sweep, options.store, out, options.tolerance, options.link, options)
    try:
        lines = draw(request, sweep_trials(request))
    except FlatdistError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.filename or request.out}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    print("\n".join(lines))
    return 0


def sweep_trials(request: Request) -> pd.DataFrame:
    """The sweep's trials.

    Raises:
        FitError: it has none yet.
        StoreError, SweepError: the store or the sweep cannot be read.
    """
    import flatdist

    trials = flatdist.load_trials(request.store, sweep=request.sweep)
    if trials.empty:
        raise FitError(
            f"sweep {request.sweep!r} has no trials in store {request.store!r}; run it first with "
            f"`flatdist sweep {request.sweep} --store {request.store}`, or give another --store"
        )
    return trials


def table_lines(thresholds: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """The thresholds as text, one line a group."""
    shown = name_nulls(thresholds, by)
    shown["n50"] = thresholds["n50"].map(lambda value: "-" if pd.isna(value) else f"{value:.1f}")
    limits = zip(thresholds["n50_low"], thresholds["n50_high"], strict=True)
    shown["95 % interval"] = [f"{low:.1f} .. {high:.1f}" for low, high in limits]
    shown["censored"] = thresholds["censored"]
    shown["10-90 %"] = thresholds["transition"].map(lambda value: "-" if pd.isna(value) else f"{value:.1f}")
    for name in ("n_replicates", "n_diverged", "n_unconverged"):
        shown[name] = thresholds[name]
    return shown.astype(object).where(shown.notna(), "-").to_string(index=False).splitlines()


def path_lines(paths: Sequence[Path]) -> list[str]:
    """Where the pictures are."""
    return [f"wrote {path}" for path in paths]
