"""``flatdist diff``: two sweeps, or two revisions of one, compared on the problems they share."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import json_option, load_sweep, plugin_option, store_option
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
        revision = "" if self.revision == NEWEST else f" at {self.revision}"
        return f"{self.sweep} in {self.store}{revision}" + (f" where {self.where}" if self.where else "")

    def trials(self) -> pd.DataFrame:
        """Its rows.

        Raises:
            FitError: there are none, or the revision is not one.
            StoreError, SweepError: the store or the sweep cannot be read.
        """
        import flatdist

        found = _REVISION.fullmatch(self.revision)
        if self.revision == NEWEST:
            trials = flatdist.load_trials(self.store, sweep=self.sweep, where=self.where)
        elif found is None and self.revision != OLDER:
            raise FitError(
                f"revision {self.revision!r} is none; allowed: at least 4 digits of a git revision, v1 for numerics "
                "version 1, older, newest"
            )
        else:
            sweep, store = load_sweep(self.sweep, self.store)
            trials = store.trials(where=self.where, all_numerics=True)
            trials = trials[trials["configuration_id"].isin({cell.configuration_id for cell in sweep.cells})]
            if found is None:
                trials = trials[~_of_newest(trials)]
            elif found["version"] is not None:
                trials = trials[trials["numerics_version"] == int(found["version"])]
            else:
                trials = trials[trials["git_sha"].fillna("").str.startswith(self.revision)]
            trials = trials[_of_newest(trials)]
        if trials.empty and self.revision == OLDER:
            raise FitError(
                f"{self.sweep} in {self.store}: no rows of it were computed by older numerics than the newest; name "
                "the sweep to compare with, another store, or two revisions"
            )
        if trials.empty:
            listing = f"`flatdist cells {self.sweep} --store {self.store}` lists what there is"
            raise FitError(f"{self}: there are no such trials; {listing}")
        return trials.reset_index(drop=True)


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
    first: str, second: str | None, store: str, other_store: str | None, where: str | None, other_where: str | None,
    revision: str | None, other_revision: str | None, everything: bool, as_json: bool, **how: Any,
) -> int:  # fmt: skip
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
    tables = [side.trials() for side in sides]
    comparison = compare(*tables, **how)
    if as_json:
        print_json(_content(comparison, sides, tables))
    else:
        _print(comparison, sides, tables, everything)
    return int(bool(len(comparison.moved)))


def _of_newest(trials: pd.DataFrame) -> pd.Series:
    """Which rows are of the newest numerics among those of their configuration."""
    versions = trials["sampling_version"].fillna(0) * 1e6 + trials["numerics_version"].fillna(0)  # sorts like the pair
    return versions == versions.groupby(trials["configuration_id"]).transform("max")


def _print(comparison: Comparison, sides: Sequence[Side], tables: Sequence[pd.DataFrame], everything: bool) -> None:
    from flatdist.fits.success import missing_lines, success_words

    matching, cells = comparison.matching, comparison.cells
    for name, side, trials in zip("AB", sides, tables, strict=True):
        own = counted(trials["cell_id"].nunique(), "cell")
        click.echo(f"{name}: {side}: {counted(len(trials), 'trial')} of {own}, {_revisions(trials)}")
        for line in missing_lines(trials):
            click.echo(f"  {line}")
    for name, (mine, theirs) in matching.changed.items():
        click.echo(f"paired cells differ in {name}: {cell_text(mine)} in A, {cell_text(theirs)} in B")
    only = {"A": matching.only_first, "B": matching.only_second}
    alone = "".join(f", {len(lonely)} only in {name}" for name, lonely in only.items())
    click.echo(f"{counted(len(matching.cells), 'cell')} in both{alone}")
    for name, lonely in only.items():
        for row in lonely.head(_SHOWN if everything else 3).to_dict("records"):
            fields = ", ".join(f"{field} {cell_text(row[field])}" for field in comparison.fields) or "its only cell"
            click.echo(f"  only in {name}: {row['cell_id']}  {fields}")
    same = int((cells["identical"] == cells["trials"]).sum())
    click.echo(
        f"{counted(comparison.trials, 'pair')} of trials on the same problems: {comparison.identical} agree to the "
        f"bit; {same} of {counted(len(cells), 'cell')} in full"
    )
    if comparison.other_problems:
        click.echo(f"{comparison.other_problems} of them only on the same law: another version drew the problems")
    changes = comparison.changes
    shown = changes if everything else changes[changes["moved"] | (changes["scope"] == "method")]
    if (shown["measure"] == "n50").any():
        click.echo(success_words(comparison.tolerance))
    if len(shown):
        names = [name for name in comparison.fields if shown[name].notna().any()]
        interval = f"{comparison.level:.0%} interval"
        click.echo()
        print_table(["moved", "measure", "scope", *names, "pairs", "A", "B", "change", interval, "p"],
                    (_row(row, names) for row in shown.to_dict("records")))  # fmt: skip
        click.echo()
    click.echo(
        f"{len(comparison.moved) or 'nothing'} moved, of "
        f"{counted(int(changes['p_adjusted'].notna().sum()), 'comparison')} that could show it; if nothing changed, "
        f"something would be reported in at most {1 - comparison.level:.0%} of cases"
    )


def _row(row: dict[Any, Any], names: list[str]) -> list[Any]:
    sign, prefix = ("+", "") if row["kind"] == "difference" else ("", "x ")
    change, low, high = ("-" if math.isnan(row[end]) else f"{row[end]:{sign}.3g}" for end in ("change", "low", "high"))
    untested = math.isnan(row["p_adjusted"])
    mark = "yes" if row["moved"] else "-" if untested else "no"
    return [
        mark, row["measure"], row["scope"], *(row[name] for name in names), row["pairs"], f"{row['first']:.3g}",
        f"{row['second']:.3g}", f"{prefix}{change}", f"{low} .. {high}",
        "-" if untested else f"{row['p_adjusted']:.2g}",
    ]  # fmt: skip


def _revisions(trials: pd.DataFrame) -> str:
    shas = sorted(trials["git_sha"].dropna().astype(str).str[:8].unique())
    shown = ", ".join(shas[:3]) + (f" and {len(shas) - 3} more" if len(shas) > 3 else "")
    numerics = ", ".join(f"v{version}" for version in _numerics(trials))
    return f"revision {shown or 'of a release'}, numerics {numerics or 'unknown'}"


def _numerics(trials: pd.DataFrame) -> list[int]:
    return sorted(trials["numerics_version"].dropna().astype(int).unique().tolist())


def _content(comparison: Comparison, sides: Sequence[Side], tables: Sequence[pd.DataFrame]) -> dict[str, Any]:
    matching = comparison.matching
    first, second = (
        {
            **vars(side),
            "trials": len(trials),
            "cells": trials["cell_id"].nunique(),
            "git_revisions": sorted(trials["git_sha"].dropna().astype(str).unique()),
            "numerics_versions": _numerics(trials),
        }
        for side, trials in zip(sides, tables, strict=True)
    )
    names = ["cell_id_first", "cell_id_second", *comparison.fields, "trials", "identical"]
    cells = comparison.cells[names].rename(columns={"cell_id_first": "a", "cell_id_second": "b"})
    return {
        "a": first,
        "b": second,
        "level": comparison.level,
        "differ_in": {name: {"a": values[0], "b": values[1]} for name, values in matching.changed.items()},
        "cells": cells.to_dict("records"),
        "only_in_a": matching.only_first["cell_id"].tolist(),
        "only_in_b": matching.only_second["cell_id"].tolist(),
        "pairs": comparison.trials,
        "identical": comparison.identical,
        "other_problems": comparison.other_problems,
        "moved": len(comparison.moved),
        "changes": comparison.changes.rename(columns={"first": "a", "second": "b"}).to_dict("records"),
    }
