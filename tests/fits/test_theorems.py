"""A short version of every theorem's check, and proof that each of them can fail."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic import figure

import flatdist
from flatdist.figures import theorem
from flatdist.fits.theorem_checks import (
    HOLDS,
    NO_POWER,
    STATEMENTS,
    UNRESOLVED,
    VACUOUS,
    VIOLATED,
    combined,
    judge,
    run_checks,
    verdict_table,
)
from flatdist.store import Store

SMALL = {"d_out": 3, "d_in": 4, "rank": 2}
PROBED = [
    {**SMALL, "n": 480, "depth": 2},
    {**SMALL, "n": 480, "depth": 3},
    {**SMALL, "n": 120, "depth": 2},
    {**SMALL, "n": 1920, "depth": 2},
    {**SMALL, "n": 1, "depth": 3},
    {"d_out": 3, "d_in": 3, "rank": 1, "n": 7, "depth": 2},
    {"d_out": 6, "d_in": 6, "rank": 1, "n": 20, "depth": 2},
]


@pytest.fixture(scope="module")
def trials():
    cells = [flatdist.Cell(method="theorem_probe", **fields) for fields in PROBED]
    for d, n in ((3, 7), (6, 20)):
        shape = {"d_out": d, "d_in": d, "rank": 1, "n": n}
        cells += [flatdist.Cell(method="min_hessian_trace", depth=depth, **shape) for depth in (2, 3)]
        cells.append(flatdist.Cell(method="min_nuclear_norm", **shape))
    parts = [flatdist.run_cell(cell, range(3))[0] for cell in cells]
    parts += [flatdist.run_cell(flatdist.Cell(method="min_frobenius_norm", **SMALL, n=n), range(60))[0] for n in (3, 9)]
    return pd.concat([part.astype(object) for part in parts], ignore_index=True).infer_objects()


EXPECTED = {statement.name: HOLDS for statement in STATEMENTS} | {
    "theorem_1_nuclear_norm": VACUOUS,
    "theorem_2": VACUOUS,
    "theorem_3": NO_POWER,
}


def checked(name, trials):
    """The one statement's check."""
    (statement,) = [statement for statement in STATEMENTS if statement.name == name]
    return statement.check(trials)


@pytest.mark.parametrize("name", EXPECTED)
def test_short_version(name, trials):
    found = checked(name, trials)
    assert found.verdict == EXPECTED[name], found.row()
    counts = [found.row()[name] for name in (HOLDS, NO_POWER, UNRESOLVED, VACUOUS, VIOLATED)]
    assert found.row()["instances"] == sum(counts)
    assert theorem(found, trials).axes[0].get_xlabel()


def changed(trials, **quantities):
    """The trials with probed quantities replaced."""
    rows = trials.copy()
    probed = rows["method"] == "theorem_probe"
    rows.loc[probed, "quantities"] = [
        values | {name: change(values[name]) for name, change in quantities.items() if name in values}
        for values in rows.loc[probed, "quantities"]
    ]
    return rows


@pytest.mark.parametrize(
    ("statement", "quantities"),
    [
        ("lemma_2", {"lemma2_off": lambda value: value + 1e-6}),
        ("lemma_3", {"lemma3_high": lambda value: value + 1.0}),
        ("lemma_3", {"lemma3_low": lambda value: value - 1.0}),
        ("lemma_4", {"lemma4_excess": lambda value: value + 1e-8}),
        ("lemma_4", {"lemma4_others": lambda value: -1e-3}),
        ("lemma_5", {"lemma5_left": lambda value: value + 1.0}),
        ("theorem_1_regularizer", {"regularizer": lambda value: 2.5 * value}),
        ("theorem_5", {"regularizer": lambda value: value * (1 + 1e-5)}),
        ("theorem_7", {"closed_trace": lambda value: value * (1 - 1e-5)}),
    ],
)
def test_a_planted_violation_is_found(statement, quantities, trials):
    assert checked(statement, changed(trials, **quantities)).verdict == VIOLATED


def test_an_isometry_that_does_not_shrink_violates_corollary_1(trials):
    constant = {f"delta_{rank}_{side}": lambda value: 0.3 for rank in (1, 2) for side in ("lower", "upper")}
    assert checked("corollary_1", changed(trials, **constant)).verdict == VIOLATED


def test_theorem_4_is_a_test_of_the_law_and_not_only_of_its_mean(trials):
    rows = trials.copy()
    of_method = rows["method"] == "min_frobenius_norm"
    rows.loc[of_method, "relative_error"] = 1.0 - rows.loc[of_method, "n"] / 12  # the mean, without any spread
    found = checked("theorem_4", rows)
    assert found.instances["mean_p"].min() > 0.99
    assert found.verdict == VIOLATED


def test_theorem_3_is_unresolved_where_the_constant_grows(trials):
    rows = trials.copy()
    rows.loc[(rows["method"] == "min_hessian_trace") & (rows["d_in"] == 6), "population_loss"] = 100.0
    assert checked("theorem_3", rows).verdict == UNRESOLVED


def test_verdicts_know_both_sides_of_an_isometry_constant():
    assert judge(0.3, float, 0.3, 0.5) == HOLDS
    assert judge(0.4, float, 0.3, 0.5) == UNRESOLVED
    assert judge(0.6, float, 0.3, 0.5) == VIOLATED
    assert judge(9.0, float, 0.3, 4.0) == UNRESOLVED
    assert judge(0.1, float, 1.2, 4.0) == VACUOUS
    assert judge(float("nan"), float, 0.3, 0.5) == UNRESOLVED


def test_vacuous_instances_count_only_where_there_are_no_others():
    assert combined([VACUOUS, VACUOUS]) == VACUOUS
    assert combined([VACUOUS, HOLDS]) == HOLDS
    assert combined([HOLDS, UNRESOLVED]) == UNRESOLVED
    assert combined([HOLDS, UNRESOLVED, VIOLATED]) == VIOLATED


def test_statements_without_trials_are_named(trials):
    checks, missing = run_checks(trials[trials["method"] == "min_frobenius_norm"])
    assert list(verdict_table(checks)["statement"]) == ["Theorem 4"]
    assert len(missing) == len(STATEMENTS) - 1


def test_the_command_reads_a_sweep_from_the_store(tmp_path, capsys):
    sweep = tmp_path / "small.yaml"
    sweep.write_text(
        "name: small\nreplicates: 2\nfixed: {d_out: 2, d_in: 3, rank: 1, n: 60, method: theorem_probe}\n"
        "axes: {depth: [2, 3]}\n",
        encoding="utf-8",
    )
    store, out = str(tmp_path / "store"), tmp_path / "figures"
    (tmp_path / "store").mkdir()
    assert figure("theorems", str(sweep), "--store", store, "--out", str(out)) == 2
    assert "has no trials in store" in capsys.readouterr().err
    cells = [flatdist.Cell(d_out=2, d_in=3, rank=1, n=60, method="theorem_probe", depth=depth) for depth in (2, 3)]
    from flatdist.trials.run import run_replicates

    outcomes = [outcome for cell in cells for outcome in run_replicates(cell, range(2))]
    Store(store).write([outcome.trial for outcome in outcomes], [])
    assert figure("theorems", str(sweep), "--store", store, "--out", str(out), "--format", "png") == 0
    text = capsys.readouterr().out
    assert "Lemma 3: holds" in text
    assert "Theorem 4: no trials test it" in text
    table = pd.read_csv(out / "theorems.csv")
    assert np.all(table["instances"] > 0)
    assert (out / "lemma_3.png").stat().st_size > 10_000


def test_without_probes_the_other_statements_are_checked(trials):
    checks, missing = run_checks(trials[trials["method"] != "theorem_probe"])
    assert {check.name for check in checks} >= {"theorem_4"}
    assert {"Lemma 2", "Theorem 2", "Corollary 1"} <= set(missing)


def test_trials_that_bear_on_nothing_are_one_message(trials, monkeypatch, tmp_path, capsys):
    nuclear = trials[trials["method"] == "min_nuclear_norm"]
    monkeypatch.setattr(flatdist, "load_trials", lambda store, sweep, where=None: nuclear)
    assert figure("theorems", "demo", "--out", str(tmp_path)) == 2
    assert "test no statement of the paper" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
