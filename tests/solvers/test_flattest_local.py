"""The method flattest_local, and nu beside the exact solver's answers."""

from __future__ import annotations

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.trials.run import run_cell

PROBLEM = {"d_out": 8, "d_in": 8, "rank": 1, "nested": True}


def test_nu_agrees_with_the_exact_solver_row_by_row():
    both = set()
    for n in (22, 25):
        exact, _ = run_cell(Cell(**PROBLEM, n=n, depth=3, method="min_hessian_trace"), replicates=range(8))
        local, _ = run_cell(Cell(**PROBLEM, n=n, depth=3, method="flattest_local"), replicates=range(8))
        assert (exact["nu_low"] <= exact["nu_high"]).all()
        assert np.allclose(exact[["nu_low", "nu_high"]], local[["nu_low", "nu_high"]])
        decided = (exact["nu_high"] < 0.99) | (exact["nu_low"] > 1.01)  # nearer to 1 the solver's tolerance decides
        recovered = exact["relative_error"] < 1e-6
        assert (recovered == (exact["nu_high"] < 1))[decided].all()
        assert (local["relative_error"] == np.where(local["nu_high"] < 1, 0.0, 1.0)).all()
        both |= set(recovered)
    assert both == {True, False}


def test_infinite_depth_is_a_cell_with_rows():
    trials, history = run_cell(Cell(**PROBLEM, n=40, depth="inf", method="flattest_local"), replicates=range(2))
    assert trials["depth"].isna().all()
    assert (trials["nu_high"] < 1).all()
    assert (trials["status"] == "converged").all()
    assert history.empty


def test_labels_with_noise_have_no_nu():
    noisy = Cell(**PROBLEM, n=30, method="min_hessian_trace", observation_noise_std=0.1)
    trials, _ = run_cell(noisy, replicates=[0])
    assert trials["nu_high"].isna().all()
