"""Differences at learning rate 0: recovered from synthetic runs whose limit is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flatdist.cells.cell import Cell
from flatdist.errors import FitError
from flatdist.figures import flatness_gap, flow_limit
from flatdist.fits.extrapolation import differences, gaps, paths, series_of, to_zero

RATES = (0.01, 0.02, 0.04)
FIELDS = {"d_out": 4, "d_in": 4, "rank": 1, "n": 9, "depth": 3}


def test_the_intercept_and_its_error_cover_the_truth():
    """Each replicate has an offset of its own; two standard errors cover the mean intercept about 19 times in 20."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        offsets = generator.normal(0.3, 0.1, size=12)
        rows = [
            {"replicate": k, "learning_rate": rate, "value": offset + 5 * rate + generator.normal(0, 0.02)}
            for k, offset in enumerate(offsets)
            for rate in RATES
        ]
        limit = to_zero(pd.DataFrame(rows), "value")
        covered += abs(limit.value - 0.3) < 2.2 * limit.error
    assert 180 <= covered <= 199


def test_a_quadratic_is_exact_and_too_few_rates_are_refused():
    rows = [{"replicate": k, "learning_rate": r, "value": 1 + k + 3 * r**2} for k in range(2) for r in RATES]
    limit = to_zero(pd.DataFrame(rows), "value", degree=2)
    assert limit.value == pytest.approx(1.5)
    assert limit.coefficients == pytest.approx((3, 0, 1.5), abs=1e-9)
    with pytest.raises(FitError, match="needs at least 2 replicates and 4 learning rates"):
        to_zero(pd.DataFrame(rows), "value", degree=3)


def flow_tables(bias):
    """Trials and history of runs that lie ``bias * learning_rate`` above a known flow."""
    flow = Cell(method="flow_limit", **FIELDS)
    times = np.linspace(0, 1, 11)
    trials, history = [], []
    for replicate in range(3):
        trace = (10 + replicate) * np.exp(-2 * times) + 5
        trials.append({"cell_id": flow.cell_id, **flow.row(), "replicate": replicate, "status": "converged"})
        common = {"replicate": replicate, "step": range(11), "flow_time": times}
        history.append(pd.DataFrame({"cell_id": flow.cell_id, **common, "hessian_trace": trace}))
        for rate in RATES:
            run = Cell(method="label_noise_sgd", learning_rate=rate, **FIELDS)
            row = {"cell_id": run.cell_id, **run.row(), "replicate": replicate, "status": "budget_exhausted"}
            trials.append(row | {"learning_rate_final": rate})
            history.append(pd.DataFrame({"cell_id": run.cell_id, **common, "hessian_trace": trace + bias * rate}))
    return pd.DataFrame(trials), pd.concat(history)


def test_runs_above_the_flow_by_their_learning_rate_meet_it_at_zero():
    tables = flow_tables(bias=7.0)
    path = paths(*tables)
    table = differences(path)
    assert np.allclose(table["difference"], 7 * table["learning_rate"])
    limit = to_zero(table, "relative")
    assert abs(limit.value) < 1e-12
    left, right = flow_limit(*tables).axes
    assert len(left.lines) == len(RATES) + 1
    assert right.get_xlabel().startswith("learning rate")


def test_a_flow_without_runs_and_other_problems_are_refused():
    trials, history = flow_tables(bias=0.0)
    with pytest.raises(FitError, match=r"0 trials of label_noise_sgd and 3 of flow_limit"):
        paths(trials[trials["method"] == "flow_limit"], history)
    other = trials.assign(init_scale=[0.1, *trials["init_scale"][1:]])
    with pytest.raises(FitError, match="differ in init_scale; keep one of each"):
        paths(other, history)


def gap_trials(excess, *variants):
    """Runs whose gap is ``excess(cell)`` times the learning rate, and the solutions they are compared with."""
    rows, solved = [], {}
    for variant in variants:
        for replicate in range(2):
            for rate in RATES:
                run = Cell(learning_rate=rate, **(FIELDS | variant))
                architecture = {name: getattr(run, name) for name in ("d_out", "d_in", "rank", "n", "depth", "width")}
                exact = Cell(method="min_hessian_trace", **architecture)
                least = 10.0 + replicate + 3 * run.depth + run.n + sum(run.width)
                row = {"cell_id": run.cell_id, **run.row(), "replicate": replicate, "status": "converged"}
                rows.append(row | {"hessian_trace": least * (1 + excess(run) * rate), "learning_rate_final": rate})
                row = {"cell_id": exact.cell_id, **exact.row(), "replicate": replicate, "status": "converged"}
                solved[exact.cell_id, replicate] = row | {"hessian_trace": least}
    return pd.DataFrame([*rows, *solved.values()])


def test_gaps_are_paired_by_problem_and_depth():
    trials = gap_trials(lambda run: run.depth, {"depth": 2}, {"depth": 3})
    table = gaps(trials)
    assert len(table) == 12
    assert np.allclose(table["gap"], table["depth"] * table["learning_rate"])
    assert series_of(table) == ["depth"]
    limits = [[to_zero(group, "gap"), to_zero(group, "gap", 2)] for _, group in table.groupby("depth")]
    assert abs(limits[1][0].value) < 1e-12
    labels = [text.get_text() for text in flatness_gap(trials).axes[0].get_legend().get_texts()]
    assert labels == ["depth 2", "depth 3"]
    with pytest.raises(FitError, match="no run of label_noise_sgd has a certified"):
        gaps(trials.assign(status="budget_exhausted"))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n", (9, 12)),
        ("width", ((4, 4), (6, 6))),
        ("batch_size", (10, 50)),
        ("steps", (100, 900)),
        ("init_scale", (1, 2)),
    ],
)
def test_gaps_of_runs_that_differ_otherwise_are_not_mixed(name, values):
    """The excess depends on the field; pooled, or paired with the other's solution, the extrapolation would be off."""
    factor = dict(zip(values, (1.0, 5.0), strict=True))
    trials = gap_trials(lambda run: factor[getattr(run, name)], *({name: value} for value in values))
    table = gaps(trials)
    assert series_of(table) == ["depth", name]
    assert len(table) == 12
    for value, group in table.groupby(name):
        assert np.allclose(group["gap"], factor[value] * group["learning_rate"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 20), ("label_noise_std", 0.5), ("schedule", "constant"), ("steps", 7), ("dtype", "float64")],
)
def test_runs_that_differ_in_more_than_the_learning_rate_make_no_path(name, value):
    trials, history = flow_tables(bias=7.0)
    rate = trials["learning_rate"] == RATES[0]
    other = trials[rate].assign(**{name: value}, cell_id="another")
    if name == "dtype":  # how it was computed is no configuration
        paths(pd.concat([trials, other]), history)
        return
    with pytest.raises(FitError, match=rf"runs differ in {name}, not in the learning rate alone; .*--where"):
        paths(pd.concat([trials, other]), history)


def test_automatic_rates_of_one_cell_are_one_rate():
    trials, history = flow_tables(bias=7.0)
    runs = trials["learning_rate"] == RATES[0]
    trials.loc[runs, "learning_rate_final"] = RATES[0] * (1 + 0.1 * (trials.loc[runs, "replicate"] - 1))
    path = paths(trials, history)
    assert sorted(path["learning_rate"].unique()) == pytest.approx(sorted(RATES))
