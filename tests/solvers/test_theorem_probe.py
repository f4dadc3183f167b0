from __future__ import annotations

import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.solvers.theorem_probe import theorem_probe
from flatdist.trials.run import run_replicates


def probe(replicate=0, **fields):
    cell = Cell(method="theorem_probe", **fields)
    return theorem_probe(cell, replicate, sample_arrays(cell, replicate))[0]["quantities"]


def test_quantities_of_one_gaussian_problem_against_direct_formulas():
    fields = {"d_out": 3, "d_in": 4, "rank": 2, "n": 60, "depth": 2}
    cell = Cell(method="theorem_probe", **fields)
    problem = sample_arrays(cell, 3)
    found = probe(3, **fields)
    flat = problem.measurements.reshape(60, -1)
    spectrum = np.linalg.eigvalsh(flat.T @ flat / 60)
    assert found["delta_1_upper"] == pytest.approx(max(spectrum[-1] - 1, 1 - spectrum[0]))
    assert found["delta_1_lower"] <= found["delta_2_lower"] <= found["delta_2_upper"]
    s_out = np.einsum("iab,icb->ac", problem.measurements, problem.measurements) / 60
    s_in = np.einsum("iab,iac->bc", problem.measurements, problem.measurements) / 60
    # The nuclear norm of S_out^(1/2) M S_in^(1/2) without a square root: sqrt of the eigenvalues of S_out M S_in M^T.
    eigenvalues = np.linalg.eigvals(s_out @ problem.ground_truth @ s_in @ problem.ground_truth.T)
    expected = 4 * np.sqrt(np.maximum(eigenvalues.real, 0)).sum()
    assert found["regularizer"] == pytest.approx(expected, rel=1e-6)
    assert found["closed_form"] == pytest.approx(expected, rel=1e-6)


def test_lemma_3_is_attained_from_depth_3_on():
    """Layers that see only the isometry's worst rank-1 matrix: the deviation is delta_1 itself."""
    found = probe(d_out=3, d_in=4, rank=2, n=480, depth=4)
    deviation = max(found["lemma3_high"] - 1, 1 - found["lemma3_low"])
    assert deviation == pytest.approx(found["delta_1_lower"], rel=1e-9)


@pytest.mark.parametrize("depth", [3, 5])
def test_one_measurement(depth):
    found = probe(d_out=4, d_in=3, rank=2, n=1, depth=depth, width=3)
    assert found["regularizer"] == pytest.approx(found["closed_form"], rel=1e-6)
    assert found["closed_trace"] == pytest.approx(found["closed_form"], rel=1e-6)


def test_large_problems_leave_out_what_would_take_long():
    found = probe(d_out=7, d_in=8, rank=7, n=2, depth=5)
    assert not {"lemma2_on", "regularizer", "closed_form"} & set(found)
    assert {"delta_2_lower", "lemma3_high", "lemma4_excess", "lemma5_left"} <= set(found)


def test_a_replicate_is_the_same_alone_and_reaches_its_row():
    cell = Cell(method="theorem_probe", d_out=2, d_in=3, rank=1, n=20)
    together = {outcome.trial["replicate"]: outcome.trial for outcome in run_replicates(cell, [0, 1])}
    (alone,) = run_replicates(cell, [1])
    assert alone.trial["quantities"] == together[1]["quantities"]
    assert together[0]["quantities"] != together[1]["quantities"]
    assert alone.trial["status"] == "converged"
    assert alone.trial.get("relative_error") is None
