"""Two tables compared: exact tests, intervals that cover, no false alarms, and changes that are found."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from flatdist.cells.cell import Cell
from flatdist.errors import FitError
from flatdist.fits import comparison
from flatdist.fits.comparison import compare, match_cells, pair_trials
from flatdist.fits.paired import shift_interval, signed_rank_test

SHAPE = {"d_out": 8, "d_in": 8, "rank": 1}
VALUES = (12, 16, 20, 26)


@pytest.mark.parametrize("count", [3, 8, 20, 60, 149])
def test_the_test_is_scipys_without_ties(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.2, 1.0, size=count)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank_test(differences).p_value == pytest.approx(expected, rel=1e-9)
    beyond = np.random.default_rng(count).normal(0.1, 1.0, size=400)
    assert signed_rank_test(beyond).p_value == pytest.approx(stats.wilcoxon(beyond, correction=True).pvalue, rel=1e-3)


def test_ties_and_zeros_are_exact() -> None:
    """Against every pattern of signs."""
    differences = np.array([0.0, 1.0, 1.0, -1.0, 2.0, 2.0, 3.0, 0.0])
    nonzero = differences[differences != 0]
    ranks = stats.rankdata(np.abs(nonzero))
    sums = np.array([ranks @ np.array(signs) for signs in itertools.product((0, 1), repeat=len(nonzero))])
    at = ranks[nonzero > 0].sum()
    expected = min(2 * min((sums <= at).mean(), (sums >= at).mean()), 1.0)
    outcome = signed_rank_test(differences)
    assert outcome.p_value == pytest.approx(expected)
    assert outcome.smallest == 2.0**-5
    mcnemar = signed_rank_test(np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 30)).p_value
    assert mcnemar == pytest.approx(stats.binomtest(9, 11).pvalue)
    assert signed_rank_test(np.zeros(5)).p_value == 1.0


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "uniform"])
def test_shift_intervals_cover(draw: str) -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        sample = getattr(generator, draw)(size=12) + (0.3 if draw != "uniform" else -0.2)
        low, high = shift_interval(sample, 0.95)[1:]
        covered += low <= 0.3 <= high
    assert 366 <= covered <= 398
    estimate, low, high = shift_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 0.95)
    assert (estimate, low, high) == (3.0, -math.inf, math.inf)
    for count in (300, 5000):
        estimate, low, high = shift_interval(generator.normal(1.0, 1.0, size=count), 0.95)
        assert low < estimate < high
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(1 / count), rel=0.15)


def tables(
    seed: int, shift: float = 0.0, trace: float = 0.0, replicates: int = 8, nested: bool = False, **second: object
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables on shared problems: what a problem contributes is common, the training's noise is not.

    Args:
        shift: of the second's log n50.
        trace: added to the second's log trace.
        second: fields of the second's cells.
    """
    generator = np.random.default_rng(seed)
    sides: tuple[list, list] = ([], [])
    for method in ("label_noise_sgd", "sam"):
        of_replicate = generator.normal(0.0, 0.1, size=replicates)
        for n in VALUES:
            shared = of_replicate if nested else generator.normal(0.0, 0.1, size=replicates)
            for side, rows in enumerate(sides):
                fields = {**SHAPE, "n": n, "method": method, "nested": nested, **(second if side else {})}
                cell = Cell(**fields)
                limit = math.log(18) + side * shift + shared + generator.normal(0.0, 0.1, size=replicates)
                missed = np.log(n) < limit
                error = np.exp(np.where(missed, -0.5, -8.0) + shared + generator.normal(0.0, 0.2, size=replicates))
                traces = np.exp(2 + side * trace + shared + generator.normal(0.0, 0.05, size=replicates))
                status = np.where(generator.random(replicates) < 0.2, "budget_exhausted", "converged")
                rows += [
                    {
                        "cell_id": cell.cell_id, "configuration_id": cell.configuration_id, **cell.row(),
                        "replicate": number, "status": status[number], "relative_error": error[number],
                        "hessian_trace": traces[number], "sampling_version": 1,
                    }
                    for number in range(replicates)
                ]  # fmt: skip
    return pd.DataFrame(sides[0]), pd.DataFrame(sides[1])


@pytest.mark.parametrize("nested", [False, True])
def test_identical_laws_raise_no_alarm_beyond_the_nominal_rate(nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = dict.fromkeys(("n50", "n50_low", "n50_high"), 1.0) | {
        "censored": "none"
    }  # the fits are slow, and no test depends on them
    monkeypatch.setattr(comparison, "estimate_threshold", lambda group, unit, **settings: bounds)
    alarms = sum(len(compare(*tables(seed, nested=nested)).moved) > 0 for seed in range(60))
    assert alarms <= 8  # 5 % of 60 are 3; more than 8 has odds of 1:300


def test_a_shifted_law_is_found_and_measured() -> None:
    covered = {"n50": 0, "hessian_trace": 0}
    for seed in range(6):
        found = compare(*tables(100 + seed, shift=0.25, trace=math.log(1.1), replicates=24))
        moved = found.moved
        assert set(moved.loc[moved["scope"] == "method", "measure"]) >= {"relative_error", "hessian_trace"}
        n50 = found.changes[found.changes["measure"] == "n50"]
        assert len(n50) == 2
        assert n50["moved"].all()
        covered["n50"] += int(((n50["low"] < math.exp(0.25)) & (math.exp(0.25) < n50["high"])).sum())
        traces = found.changes[(found.changes["measure"] == "hessian_trace") & (found.changes["scope"] == "method")]
        covered["hessian_trace"] += int(((traces["low"] < 1.1) & (traces["high"] > 1.1)).sum())
        assert found.changes["moved"].is_monotonic_decreasing
    assert min(covered.values()) >= 9, covered


def test_equal_bits_are_said_to_be_equal() -> None:
    first, second = tables(3)
    same = compare(first, first.sample(frac=1.0, random_state=0))
    assert same.identical == same.trials == len(first)
    assert same.changes["p_adjusted"].isna().all()
    assert (same.changes.loc[same.changes["kind"] == "ratio", "change"] == 1.0).all()
    half = pd.concat([first.iloc[:32], second.iloc[32:]])
    part = compare(first, half)
    assert part.identical == 32
    assert (part.cells["identical"] == part.cells["trials"]).sum() == 4
    lists = [
        table.assign(singular_values=[np.array([1.0, math.nan])] * 64, quantities=[{"a": 1.0}] * 64)
        for table in (first, first)
    ]
    assert compare(*lists).identical == 64
    lists[1].at[5, "singular_values"] = np.array([1.0 + 2e-16, math.nan])
    assert compare(*lists).identical == 63


def test_sweeps_with_another_budget_are_paired_and_said_to_differ() -> None:
    first, second = tables(4, steps=80_000)
    found = compare(first, second)
    assert found.matching.changed == {"steps": (40_000, 80_000)}
    assert found.trials == len(first)
    assert found.fields == ["n", "method"]
    assert found.identical == 0


def test_what_only_one_has_is_listed() -> None:
    first, second = tables(5)
    found = compare(first[first["n"] != 12], second[second["n"] != 26])
    assert set(found.matching.only_first["n"]) == {26}
    assert set(found.matching.only_second["n"]) == {12}
    assert len(found.matching.cells) == 4
    assert set(found.changes["n"].dropna()) == {16, 20}


def test_several_values_need_a_word() -> None:
    """Steps of two values on one side only: which cell is whose partner is for the user to say."""
    first, second = tables(6)
    other = pd.concat([second[second["n"] == n].assign(steps=n * 100, cell_id=second["cell_id"] + "x") for n in VALUES])
    other["configuration_id"] = other["cell_id"]
    with pytest.raises(FitError, match="share no cell: 8 are only in the first, 8 only in the second"):
        compare(first, other)
    found = compare(first, other, across=["steps"])
    assert found.matching.changed == {"steps": ("several", "several")}
    assert found.trials == len(first)
    with pytest.raises(FitError, match="differ in rank share no problem"):
        compare(first, other, across=["rank"])
    with pytest.raises(FitError, match=r"'step' is not a field of a cell.*steps"):
        compare(first, other, across=["step"])


def test_methods_are_compared_across_null_fields() -> None:
    first, _ = tables(7)
    sgd = first[first["method"] == "label_noise_sgd"]
    cells = {n: Cell(**SHAPE, n=n, method="min_nuclear_norm") for n in VALUES}
    solver = sgd.assign(**{name: [cells[n].row()[name] for n in sgd["n"]] for name in cells[12].row()})
    ids = [cells[n].cell_id for n in sgd["n"]]
    found = compare(sgd, solver.assign(cell_id=ids, configuration_id=ids))
    assert len(found.matching.cells) == 4
    assert found.matching.changed["method"] == ("label_noise_sgd", "min_nuclear_norm")
    assert found.matching.changed["depth"] == (3, None)


def test_diverged_replicates_count_as_such_and_in_no_mean() -> None:
    first, second = tables(8, replicates=16)
    lost = second["method"] == "sam"
    second.loc[lost, ["status", "relative_error", "hessian_trace"]] = ["diverged", math.nan, math.nan]
    found = compare(first, second)
    rows = found.changes[found.changes["scope"] == "method"].set_index(["method", "measure"])
    assert rows.loc[("sam", "diverged"), "change"] == 1.0
    assert rows.loc[("sam", "diverged"), "moved"]
    assert ("sam", "relative_error") not in rows.index
    assert not rows.loc[("label_noise_sgd", "relative_error"), "moved"]
    n50 = found.changes[found.changes["measure"] == "n50"].set_index("method").loc["sam"]
    assert n50["moved"]
    assert math.isnan(n50["change"])
    assert n50["low"] > 1.0


def test_rounding_below_the_floor_is_no_change() -> None:
    first, second = tables(9)
    found = compare(first.assign(relative_error=1e-20), second.assign(relative_error=1e-25))
    assert (found.changes.loc[found.changes["measure"] == "relative_error", "change"] == 1.0).all()
    assert not found.changes.loc[found.changes["measure"] == "relative_error", "moved"].any()


def test_bad_input_is_named() -> None:
    first, second = tables(10)
    with pytest.raises(FitError, match="none of their replicates"):
        compare(first[first["replicate"] < 4], second[second["replicate"] >= 4])
    with pytest.raises(FitError, match="the second table has several rows for one replicate"):
        compare(first, pd.concat([second, second]))
    with pytest.raises(FitError, match="level=2"):
        compare(first, second, level=2)
    other = compare(first, second.assign(sampling_version=2))
    assert other.other_problems == len(first)
    matching = match_cells(first, second)
    assert len(pair_trials(first, second, matching.cells)) == len(first)
