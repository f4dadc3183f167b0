"""What the figure commands share: their arguments, loading a sweep's trials, and reporting what was made."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flatdist.errors import FitError, FlatdistError
from flatdist.figures.origin import analysis_command, provenance
from flatdist.fits.grouping import group_rows, name_nulls
from flatdist.fits.success import missing_lines
from flatdist.methods import METHODS
from flatdist.methods.base import GradientMethod
from flatdist.threshold.curves import CHOICES

BAD_INPUT = 2
MANY_UNCONVERGED = 0.1  # share of a method's replicates


@dataclass(frozen=True)
class Request:
    """What a figure command was asked for.

    Attributes:
        sweep: a sweep's name or file.
        title: the sweep's own name, for files and headings.
        store: where its results are.
        where: which of its trials, as text; None for all.
        out: folder for the pictures.
        tolerance: relative error of a success; None for the default of the methods present.
        link: of the fits.
        options: the command's own arguments.
        command: words that run the same again.
    """

    sweep: str
    title: str
    store: str
    where: str | None
    out: Path
    tolerance: float | None
    link: str
    options: argparse.Namespace
    command: Sequence[str] = ()

    def origin(self, trials: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a figure's file says of its origin."""
        return provenance(self.title, trials, settings, store=self.store, where=self.where, command=self.command)


def sweep_name(sweep: str) -> str:
    """A sweep's own name, by which the store knows it, whether it is given as a name or as a file.

    Raises:
        SweepError: the file cannot be read.
    """
    if not sweep.endswith((".yaml", ".yml")):
        return sweep
    from flatdist.sweeps import load_sweep

    return load_sweep(Path(sweep)).name


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
    parser.add_argument("--link", choices=CHOICES, default="auto", help="success curve (default: auto, by evidence)")
    add_where(parser)
    extend(parser)
    options = parser.parse_args(arguments)
    out = options.out
    try:
        title = sweep_name(options.sweep)
        out = out or Path("figures") / title
        chosen = (options.sweep, title, options.store, options.where, out)
        command = analysis_command(name, arguments, options.store)
        request = Request(*chosen, options.tolerance, options.link, options, command)
        trials = sweep_trials(request)
        lines = [*missing_lines(trials), *draw(request, trials)]
    except FlatdistError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    print_lines(lines)
    return 0


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add ``--where``, which chooses some of the trials."""
    text = 'only trials that satisfy this, such as "rank == 2 and n > 1.5*dof" (default: all)'
    parser.add_argument("--where", metavar="TEXT", help=text)


def print_lines(lines: Iterable[str]) -> None:
    """Print to a reader that may leave early, as ``head`` does."""
    try:
        print("\n".join(lines))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output once more as it exits; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def sweep_trials(request: Request) -> pd.DataFrame:
    """The sweep's trials.

    Raises:
        FitError: it has none yet, or none that was asked for.
        StoreError, SweepError: the store or the sweep cannot be read.
    """
    import flatdist

    trials = flatdist.load_trials(request.store, sweep=request.sweep, where=request.where)
    if trials.empty:
        raise FitError(no_trials(f"sweep {request.sweep!r} has", request.sweep, request.store, request.where))
    return trials


def no_trials(subject: str, sweep: str, store: str, where: str | None) -> str:
    """Message for an empty table."""
    if where:
        known = f"`flatdist cells {sweep} --store {store}`"
        return f"{subject} no trials in store {store!r} with --where {where!r}; {known} lists what there is"
    run = f"`flatdist sweep {sweep} --store {store}`"
    return f"{subject} no trials in store {store!r}; run it first with {run}, or give another --store"


def table_lines(thresholds: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """The thresholds as text, one line a group."""
    shown = name_nulls(thresholds, by)
    shown["n50"] = thresholds["n50"].map(lambda value: "-" if pd.isna(value) else f"{value:.1f}")
    limits = zip(thresholds["n50_low"], thresholds["n50_high"], strict=True)
    shown["95 % interval"] = [f"{low:.1f} .. {high:.1f}" for low, high in limits]
    shown["censored"] = thresholds["censored"]
    widths = zip(thresholds["transition"], thresholds["n_spacing"], strict=True)
    shown["10-90 %"] = [_width(width, spacing) for width, spacing in widths]
    for name in ("n_replicates", "n_diverged", "n_unconverged"):
        shown[name] = thresholds[name]
    lines = shown.astype(object).where(shown.notna(), "-").to_string(index=False).splitlines()
    return lines + _unfinished(thresholds)


def _width(width: float, spacing: float) -> str:
    """A transition's width, as far as the measured n resolve it."""
    if not math.isnan(spacing) and not width >= spacing:
        return f"< {spacing:g}"
    return "-" if math.isnan(width) else f"{width:.1f}"


def _unfinished(thresholds: pd.DataFrame) -> list[str]:
    """A remark on each method of which many replicates were still training when their budget ended."""
    lines = []
    for key, group in group_rows(thresholds, ["method"] if "method" in thresholds else []):
        unconverged, total = int(group["n_unconverged"].sum()), int(group["n_replicates"].sum())
        trained = isinstance(METHODS.get(key.get("method", "")), GradientMethod)
        if trained and unconverged > MANY_UNCONVERGED * total:
            lines.append(
                f"{key['method']}: {unconverged} of {total} replicates ended before they converged (budget_exhausted), "
                "so n50 is that of the budget: raise `steps`"
            )
    return lines


def path_lines(paths: Sequence[Path]) -> list[str]:
    """Where the pictures are."""
    return [f"wrote {path}" for path in paths]
