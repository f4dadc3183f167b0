"""Every statement of the paper against its measurements: a table with verdicts, and a figure each.

``python -m analysis.theorems SWEEP [SWEEP ...] [--store S] [--out DIR]``

Several sweeps are read as one. Statements on which no trial bears are named as such. The exit status is 1 where a
statement is violated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from flatdist.errors import FitError, FlatdistError
from flatdist.figures.command import BAD_INPUT, add_where, no_trials, path_lines, print_lines
from flatdist.figures.origin import analysis_command, file_stem, provenance
from flatdist.figures.style import save_figure
from flatdist.figures.theorem_checks import CHECKS
from flatdist.figures.theorem_checks.check import VIOLATED, Check


def run_checks(trials: pd.DataFrame) -> tuple[list[Check], list[str]]:
    """Check every statement; returns the checks, and the names of statements that no trial bears on."""
    found, missing = [], []
    for check in CHECKS:
        result = check(trials)
        if result is None:
            missing.append(check.__name__)
        else:
            found.append(result)
    return found, missing


def verdict_table(checks: Sequence[Check]) -> pd.DataFrame:
    """One row for each statement: predicted, measured, instances of each verdict, worst case, verdict."""
    return pd.DataFrame([check.row() for check in checks])


def load(sweeps: Sequence[str], store: str, where: str | None = None) -> pd.DataFrame:
    """The trials of several sweeps, each once.

    Raises:
        FitError: there are none.
        StoreError, SweepError: the store or a sweep cannot be read.
    """
    import flatdist

    parts = [flatdist.load_trials(store, sweep=sweep, where=where) for sweep in sweeps]
    parts = [part for part in parts if len(part)]
    if not parts:
        raise FitError(no_trials(f"sweeps {', '.join(sweeps)} have", "SWEEP", store, where))
    trials = pd.concat([part.astype(object) for part in parts]).drop_duplicates(["cell_id", "replicate"])
    return trials.infer_objects().reset_index(drop=True)


def text_lines(checks: Sequence[Check], missing: Sequence[str]) -> list[str]:
    """The table as text, a paragraph for each statement."""
    lines: list[str] = []
    for check in checks:
        row = check.row()
        counts = ", ".join(
            f"{row[name]} {name}" for name in ("holds", "unresolved", "vacuous", "violated") if row[name]
        )
        lines += [
            f"{check.statement}: {check.verdict}  ({row['instances']} instances: {counts})",
            f"    predicted  {check.predicted}",
            f"    measured   {check.measured}",
            f"    worst      {check.worst}",
        ]
    return lines + [f"{name}: no trial bears on it" for name in missing]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 where a statement is violated, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m analysis.theorems", description="The theorems as measurements.")
    parser.add_argument("sweeps", metavar="SWEEP", nargs="+", help="names of sweeps in the store, or YAML files")
    parser.add_argument("--store", default="results", help="folder or URI of the results (default: results)")
    parser.add_argument("--out", type=Path, default=Path("figures/theorems"), help="folder for table and pictures")
    add_where(parser)
    options = parser.parse_args(arguments)
    try:
        trials = load(options.sweeps, options.store, options.where)
        checks, missing = run_checks(trials)
        if not checks:
            raise FitError(
                f"no trial of {', '.join(options.sweeps)} bears on any statement; the sweeps in sweeps/theorems "
                "measure them: see docs/theorems.md"
            )
        options.out.mkdir(parents=True, exist_ok=True)
        paths = [options.out / f"{file_stem('theorems', options.where)}.csv"]
        verdict_table(checks).to_csv(paths[0], index=False)
        command = analysis_command("theorems", arguments, options.store)
        for check in checks:
            figure = check.draw()
            origin = provenance(
                " ".join(options.sweeps), trials, {"statement": check.statement},
                store=options.store, where=options.where, command=command,
            )  # fmt: skip
            paths += save_figure(figure, options.out, check.name, origin)
            plt.close(figure)
    except FlatdistError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.filename or options.out}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    print_lines([*text_lines(checks, missing), *path_lines(paths)])
    return int(any(check.verdict == VIOLATED for check in checks))
