"""``flatdist diff``: two sweeps, or two revisions of one, compared on the problems they share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import json_option, load_sweep, open_store, plugin_option, store_option
from flatdist.cli.output import cell_text, print_json, print_table
from flatdist.errors import FitError, counted

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.fits.comparison import Comparison

NEWEST, OLDER = "newest", "older"
_REVISION = re.compile(r"v(?P<version>[0-9]+)|(?P<sha>[0-9a-f]{4,40})")
_SHOWN = 20


@dataclass(frozen=True)
class Side:
    """One side of the comparison.

    Attributes:
        sweep: name or file.
        store: where its rows are.
        revision: ``newest``, ``older``, ``v`` and a numerics version, or the first digits of a git revision.
        where: which of its rows, as text; None for all.
    """

    sweep: str
    store: str
    revision: str
    where: str | None

    def __str__(self) -> str:
        parts = [self.sweep, f"in {self.store}"]
        parts += [] if self.revision == NEWEST else [f"at {self.revision}"]
        return " ".join(parts + ([f"where {self.where}"] if self.where else []))


@click.command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="[B]", required=False)
@plugin_option
@store_option
@click.option("--other-store", help="Store of B.  [default: that of A]")
@click.option("--where", help="Only trials of A, and of B, for which this holds.")
@click.option("--other-where", help="Only trials of B for which this holds, instead of --where.")
@click.option("--revision", metavar="REV", help="Rows of A computed by this revision: the first digits of a git "
              "revision, v1 for numerics version 1, older or newest.")  # fmt: skip
@click.option("--other-revision", metavar="REV", help="The same for B.  [default: newest]")
@click.option("--across", "across", multiple=True, metavar="FIELD", help="Compare cells that differ in FIELD.")
@click.option("--tolerance", type=float, help="Success, for n50, is a relative error below this.  [default: by method]")
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence level.")
@click.option("--all", "everything", is_flag=True, help="Show every comparison, not only what moved.")
@json_option
def diff_command(
    first: str,
    second: str | None,
    store: str,
    other_store: str | None,
    where: str | None,
    other_where: str | None,
    revision: str | None,
    other_revision: str | None,
    across: tuple[str, ...],
    tolerance: float | None,
    level: float,
    everything: bool,
    as_json: bool,
) -> int:
    """Compare sweep B with sweep A, pairing trials of the same problem and replicate.

    Without B, compare the sweep's rows of the newest numerics with its older rows. Exit status: 0 nothing moved
    beyond chance, 1 something did, 2 bad input, as with Unix diff.
    """
    from flatdist.fits.comparison import compare

    alone = second is None and other_store is None and other_where is None and other_revision is None
    sides = (
        Side(first, store, revision or (OLDER if alone else NEWEST), where),
        Side(second or first, other_store or store, other_revision or NEWEST, other_where or where),
    )
    tables = [read_side(side) for side in sides]
    comparison = compare(*tables, across=across, tolerance=tolerance, level=level)
    if as_json:
        print_json(_content(comparison, sides, tables))
    else:
        _print(comparison, sides, tables, everything)
    return int(bool(len(comparison.moved)))


def read_side(side: Side) -> pd.DataFrame:
    """The trials of one side.

    Raises:
        FitError: there are none, or the revision is not one.
        StoreError, SweepError: the store or the sweep cannot be read.
    """
    if side.revision == NEWEST:
        import flatdist

        trials = flatdist.load_trials(side.store, sweep=side.sweep, where=side.where)
    else:
        found = _REVISION.fullmatch(side.revision)
        if found is None and side.revision != OLDER:
            raise FitError(
                f"revision {side.revision!r} is none; allowed: at least 4 digits of a git revision, v1 for numerics "
                "version 1, older, newest"
            )
        wanted = {cell.configuration_id for cell in load_sweep(side.sweep, side.store).cells}
        trials = open_store(side.store).trials(where=side.where, all_numerics=True)
        trials = trials[trials["configuration_id"].isin(wanted)]
        if found is None:
            trials = _older(trials)
        elif found["version"] is not None:
            trials = trials[trials["numerics_version"] == int(found["version"])]
        else:
            trials = trials[trials["git_sha"].fillna("").str.startswith(side.revision)]
        trials = _newest(trials)
    if trials.empty and side.revision == OLDER:
        raise FitError(
            f"{side.sweep} in {side.store}: no rows of it were computed by older numerics than the newest; name the "
            "sweep to compare with, another store, or two revisions"
        )
    if trials.empty:
        raise FitError(
            f"{side}: there are no such trials; `flatdist cells {side.sweep} --store {side.store}` lists what there is"
        )
    return trials.reset_index(drop=True)


def _versions(trials: pd.DataFrame) -> pd.Series:
    """Sampling and numerics version of each row in one number that sorts like the pair."""
    return trials["sampling_version"].fillna(0) * 1e6 + trials["numerics_version"].fillna(0)


def _newest(trials: pd.DataFrame) -> pd.DataFrame:
    """For every configuration the rows of the newest numerics among these."""
    versions = _versions(trials)
    return trials[versions == versions.groupby(trials["configuration_id"]).transform("max")]


def _older(trials: pd.DataFrame) -> pd.DataFrame:
    versions = _versions(trials)
    return trials[versions < versions.groupby(trials["configuration_id"]).transform("max")]


def _print(comparison: Comparison, sides: tuple[Side, Side], tables: list[pd.DataFrame], everything: bool) -> None:
    from flatdist.fits.success import missing_lines, success_words

    matching = comparison.matching
    for name, side, trials in zip("AB", sides, tables, strict=True):
        cells = counted(trials["cell_id"].nunique(), "cell")
        click.echo(f"{name}: {side}: {counted(len(trials), 'trial')} of {cells}, {_revisions(trials)}")
        for line in missing_lines(trials):
            click.echo(f"  {line}")
    for name, (mine, theirs) in matching.changed.items():
        click.echo(f"paired cells differ in {name}: {cell_text(mine)} in A, {cell_text(theirs)} in B")
    alone = len(matching.only_first), len(matching.only_second)
    click.echo(f"{counted(len(matching.cells), 'cell')} in both, {alone[0]} only in A, {alone[1]} only in B")
    for name, lonely in zip("AB", (matching.only_first, matching.only_second), strict=True):
        for row in lonely.head(_SHOWN if everything else 3).to_dict("records"):
            fields = ", ".join(f"{field} {cell_text(row[field])}" for field in comparison.fields) or "its only cell"
            click.echo(f"  only in {name}: {row['cell_id']}  {fields}")
    same = int((comparison.cells["identical"] == comparison.cells["trials"]).sum())
    click.echo(
        f"{counted(comparison.trials, 'pair')} of trials on the same problems: {comparison.identical} agree to the "
        f"bit; {same} of {counted(len(comparison.cells), 'cell')} in full"
    )
    if comparison.other_problems:
        click.echo(f"{comparison.other_problems} of them only on the same law: another version drew the problems")
    changes = comparison.changes
    shown = changes if everything else changes[changes["moved"] | (changes["scope"] == "method")]
    if (shown["measure"] == "n50").any():
        click.echo(success_words(comparison.tolerance))
    if len(shown):
        click.echo()
        names = [name for name in comparison.fields if shown[name].notna().any()]
        head = [
            "moved",
            "measure",
            "scope",
            *names,
            "pairs",
            "A",
            "B",
            "change",
            f"{comparison.level:.0%} interval",
            "p",
        ]
        print_table(head, ([*_row(row, names)] for row in shown.to_dict("records")))
        click.echo()
    tested = int(changes["p_adjusted"].notna().sum())
    moved = len(comparison.moved)
    click.echo(
        f"{moved or 'nothing'} moved, of {counted(tested, 'comparison')} that could show it; if nothing changed, "
        f"something would be reported in at most {1 - comparison.level:.0%} of cases"
    )


def _row(row: dict[Any, Any], names: list[str]) -> list[Any]:
    change, low, high = (row[name] for name in ("change", "low", "high"))
    sign = "+" if row["kind"] == "difference" else ""

    def number(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:{sign}.3g}"

    prefix = "" if row["kind"] == "difference" else "x "
    interval = f"{number(low)} .. {number(high)}"
    mark = "yes" if row["moved"] else "-" if math.isnan(row["p_adjusted"]) else "no"
    values = [cell_text(row[name]) for name in names]
    adjusted = "-" if math.isnan(row["p_adjusted"]) else f"{row['p_adjusted']:.2g}"
    return [
        mark, row["measure"], row["scope"], *values, row["pairs"], f"{row['first']:.3g}", f"{row['second']:.3g}",
        f"{prefix}{number(change)}", interval, adjusted,
    ]  # fmt: skip


def _revisions(trials: pd.DataFrame) -> str:
    shas = sorted(trials["git_sha"].dropna().astype(str).str[:8].unique())
    shown = ", ".join(shas[:3]) + (f" and {len(shas) - 3} more" if len(shas) > 3 else "")
    versions = sorted(trials["numerics_version"].dropna().astype(int).unique())
    numerics = ", ".join(f"v{version}" for version in versions)
    return f"revision {shown or 'of a release'}, numerics {numerics or 'unknown'}"


def _content(comparison: Comparison, sides: tuple[Side, Side], tables: list[pd.DataFrame]) -> dict[str, Any]:
    matching = comparison.matching
    names = ["cell_id_first", "cell_id_second", *comparison.fields, "trials", "identical"]
    return {
        "a": _about(sides[0], tables[0]),
        "b": _about(sides[1], tables[1]),
        "level": comparison.level,
        "differ_in": {name: {"a": values[0], "b": values[1]} for name, values in matching.changed.items()},
        "cells": comparison.cells[names]
        .rename(columns={"cell_id_first": "a", "cell_id_second": "b"})
        .to_dict("records"),
        "only_in_a": matching.only_first["cell_id"].tolist(),
        "only_in_b": matching.only_second["cell_id"].tolist(),
        "pairs": comparison.trials,
        "identical": comparison.identical,
        "other_problems": comparison.other_problems,
        "moved": len(comparison.moved),
        "changes": comparison.changes.rename(columns={"first": "a", "second": "b"}).to_dict("records"),
    }


def _about(side: Side, trials: pd.DataFrame) -> dict[str, Any]:
    return {
        **vars(side),
        "trials": len(trials),
        "cells": trials["cell_id"].nunique(),
        "git_revisions": sorted(trials["git_sha"].dropna().astype(str).unique()),
        "numerics_versions": sorted(trials["numerics_version"].dropna().astype(int).unique().tolist()),
    }
