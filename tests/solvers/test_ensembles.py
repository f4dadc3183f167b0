"""The solvers on rank_one and entries: certified, equal to independent solvers', degenerate cases included."""

from __future__ import annotations

import warnings
from itertools import pairwise

import cvxpy
import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.factorization.flatness import hessian_trace
from flatdist.factorization.regularizer import induced_regularizer
from flatdist.solvers.min_frobenius_norm import min_frobenius_norm
from flatdist.solvers.min_hessian_trace import min_hessian_trace
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.trials.run import run_replicates

CASES = [("rank_one", 10), ("rank_one", 20), ("rank_one", 27), ("entries", 3), ("entries", 14), ("entries", 27)]


def problem(ensemble, n, replicate=0, d_out=5, d_in=6):
    return sample_arrays(Cell(d_out=d_out, d_in=d_in, rank=1, n=n, ensemble=ensemble), replicate)


def least_nuclear_norm(measurements, labels):
    """min ||M||_* over the interpolators M, by CVXPY."""
    matrix = cvxpy.Variable(measurements.shape[1:])
    rows = measurements.reshape(len(labels), -1)
    task = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(matrix)), [rows @ cvxpy.vec(matrix, order="C") == labels])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solution may be inaccurate")  # it is judged by the comparison
        task.solve(solver="CLARABEL")
    return float(task.value)


def root(symmetric):
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


@pytest.mark.parametrize(("ensemble", "n"), CASES)
def test_the_nuclear_norm_is_that_of_an_independent_solver(ensemble, n):
    for replicate in range(2):
        task = problem(ensemble, n, replicate)
        solution, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
        assert certificate.converged
        ours = np.linalg.svd(solution.numpy(), compute_uv=False).sum()
        assert ours == pytest.approx(least_nuclear_norm(task.measurements, task.labels), rel=1e-5)


@pytest.mark.parametrize(("ensemble", "n"), CASES)
def test_the_flattest_trace_at_depth_2_is_that_of_an_independent_solver(ensemble, n):
    """Theorem 5; where rows or columns are not observed the second moments are singular."""
    task = problem(ensemble, n)
    s_out = np.einsum("iab,icb->ac", task.measurements, task.measurements) / n
    s_in = np.einsum("iab,iac->bc", task.measurements, task.measurements) / n
    layers, certificate = min_hessian_trace(task.measurements, task.labels, depth=2, return_certificate=True)
    assert certificate.converged
    # With N = S_out^{1/2} M S_in^{1/2}, <A, M> is <S_out^{-1/2} A S_in^{-1/2}, N>: what is not seen costs nothing.
    turned = np.linalg.pinv(root(s_out), rcond=1e-9) @ task.measurements @ np.linalg.pinv(root(s_in), rcond=1e-9)
    least = 4 * least_nuclear_norm(turned, task.labels)
    assert float(hessian_trace([w.numpy() for w in layers], task.measurements)) == pytest.approx(least, rel=1e-5)
    if (ensemble, n) == ("entries", 3):
        assert np.linalg.matrix_rank(s_out) < 5, "the degenerate case is among the cases"


@pytest.mark.parametrize(("ensemble", "n"), [("rank_one", 20), ("rank_one", 27), ("entries", 3), ("entries", 27)])
def test_the_flattest_interpolator_of_depth_3_is_certified_and_no_other_found_is_flatter(ensemble, n):
    task = problem(ensemble, n)
    layers, certificate = min_hessian_trace(task.measurements, task.labels, depth=3, return_certificate=True)
    assert certificate.converged
    trace = float(hessian_trace([w.numpy() for w in layers], task.measurements))
    assert trace == pytest.approx(float(np.nanmin(certificate.traces)), rel=1e-9)
    matrix = layers[2] @ layers[1] @ layers[0]
    assert trace <= induced_regularizer(task.ground_truth, task.measurements, 3).value * (1 + 1e-9)
    assert induced_regularizer(_low_rank(matrix.numpy()), task.measurements, 3).value >= trace * (1 - 1e-6)


def _low_rank(matrix):
    u, spectrum, v = np.linalg.svd(matrix, full_matrices=False)
    kept = spectrum > 1e-6 * spectrum[0]
    return (u[:, kept] * spectrum[kept]) @ v[kept]


def test_the_least_frobenius_norm_fills_unobserved_entries_with_zeros():
    task = problem("entries", 14)
    solution = min_frobenius_norm(task.measurements, task.labels).numpy()
    observed = task.measurements.any(axis=0)
    np.testing.assert_allclose(solution, np.where(observed, task.ground_truth, 0.0), atol=1e-14)


@pytest.mark.parametrize("ensemble", ["rank_one", "entries"])
@pytest.mark.parametrize("method", ["min_nuclear_norm", "min_hessian_trace", "min_frobenius_norm", "theorem_probe"])
def test_every_method_runs_from_a_cell(ensemble, method):
    cell = Cell(d_out=4, d_in=4, rank=1, n=16, ensemble=ensemble, method=method)
    (outcome,) = run_replicates(cell, [0])
    assert outcome.trial["status"] == "converged"
    if method != "theorem_probe":
        assert outcome.trial["relative_error"] < 1e-12, "all entries seen, or as many measurements as unknowns"


@pytest.mark.parametrize("ensemble", ["rank_one", "entries"])
def test_the_flow_reaches_the_flattest_trace(ensemble):
    given = {"d_out": 3, "d_in": 3, "rank": 1, "n": 6, "depth": 2, "ensemble": ensemble}
    cell = Cell(**given, method="flow_limit", flow_duration=4.0, evaluations=5)
    (outcome,) = run_replicates(cell, [1])
    (flattest,) = run_replicates(Cell(**given, method="min_hessian_trace"), [1])
    assert outcome.trial["certificate"] < 1e-11
    traces = [row["hessian_trace"] for row in outcome.history]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(traces))
    assert traces[-1] == pytest.approx(flattest.trial["hessian_trace"], rel=0.02)


def test_matrix_completion_has_no_restricted_isometry():
    probe = Cell(d_out=4, d_in=4, rank=1, n=15, ensemble="entries", method="theorem_probe", depth=2)
    (outcome,) = run_replicates(probe, [0])
    assert outcome.trial["quantities"]["delta_1_lower"] >= 1.0 - 1e-9, "one entry is not observed"
