"""The local theory of F at a low-rank matrix: against finite differences of F, closed forms and a convex solver."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import flatdist
from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.errors import SolverError
from flatdist.factorization.local_flatness import frozen_weights, local_flatness, normal_condition
from flatdist.factorization.regularizer import induced_regularizer
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm


def problem(d_out, d_in, rank, n, ensemble="gaussian", replicate=0):
    sampled = sample_arrays(Cell(d_out=d_out, d_in=d_in, rank=rank, n=n, ensemble=ensemble), replicate)
    return sampled.ground_truth, sampled.measurements.astype(float)


@pytest.mark.parametrize("ensemble", ["gaussian", "rademacher", "rank_one"])
@pytest.mark.parametrize(("d_out", "d_in", "rank", "depth", "n"), [
    (5, 5, 1, 2, 16), (5, 7, 1, 3, 20), (6, 6, 1, 4, 20), (5, 5, 1, 6, 18), (6, 5, 2, 3, 26), (5, 6, 2, 5, 26),
    (6, 6, 3, 4, 33),
])  # fmt: skip
def test_f_changes_to_first_order_as_the_weighted_nuclear_norms_do(ensemble, d_out, d_in, rank, depth, n):
    truth, stack = problem(d_out, d_in, rank, n, ensemble)
    condition = normal_condition(truth, stack, depth)
    value = induced_regularizer(truth, stack, depth).value
    terms = frozen_weights(truth, stack, depth)
    unit = 2 * (depth - 1) / depth * value / change(terms, truth, truth)  # F is homogeneous of degree 2 (L - 1) / L
    generator = np.random.default_rng(0)
    any_step = generator.standard_normal((d_out, d_in))
    rank_one_normal = condition.direction(generator.standard_normal(condition.shape))
    for step in (any_step / np.linalg.norm(any_step), rank_one_normal):
        slope = unit * change(terms, truth, step)
        for size, allowed in ((1e-3, 2e-2), (1e-5, 2e-4)):  # linear in the step: F' itself, not an approximation
            moved = induced_regularizer(truth + size * step, stack, depth, formula="optimise").value
            assert (moved - value) / size == pytest.approx(slope, rel=allowed)
    p, q = condition.shape
    normal = (condition.u.T @ any_step @ condition.vh.T)[-p:, -q:]
    norms = [w * np.linalg.norm(root(c) @ normal @ root(d).T, "nuc") for w, c, d in condition.weights]
    assert sum(norms) == pytest.approx(sum(beyond(terms, truth, any_step)), rel=1e-9)


def root(symmetric):
    return np.linalg.cholesky(symmetric).T


def beyond(terms, truth, step, smooth=False):
    """Each term's derivative along a step, by the singular vectors of C^{1/2} M D^{1/2}: its normal or smooth part."""
    rank = np.linalg.matrix_rank(truth)
    for w, c, d in terms:
        left, _, right = np.linalg.svd(root(c) @ truth @ root(d).T)
        turned = left.T @ root(c) @ step @ root(d).T @ right.T
        yield w * (np.trace(turned[:rank, :rank]) if smooth else np.linalg.norm(turned[rank:, rank:], "nuc"))


def change(terms, truth, step):
    """G'(M; D)."""
    return sum(beyond(terms, truth, step)) + sum(beyond(terms, truth, step, smooth=True))


@pytest.mark.parametrize(("depth", "n", "rank"), [
    (2, 20, 1), (2, 24, 1), (3, 17, 1), (3, 19, 1), (4, 17, 1), (math.inf, 16, 1), (math.inf, 22, 1), (3, 26, 2),
    (math.inf, 28, 2),
])  # fmt: skip
def test_nu_is_below_one_exactly_where_the_convex_programme_has_the_truth(depth, n, rank):
    cvxpy = pytest.importorskip("cvxpy")
    d = 6
    truth, stack = problem(d, d, rank, n)
    roots = []
    for multiplicity, c, other in frozen_weights(truth, stack, depth):
        roots.append((multiplicity, np.linalg.cholesky(c).T, np.linalg.cholesky(other)))
    matrix = cvxpy.Variable((d, d))
    objective = sum(w * cvxpy.normNuc(left @ matrix @ right) for w, left, right in roots)
    flat = stack.reshape(n, -1)
    convex = cvxpy.Problem(cvxpy.Minimize(objective), [flat @ cvxpy.vec(matrix, order="C") == flat @ truth.ravel()])
    convex.solve(solver=cvxpy.SCS, eps=1e-7, max_iters=50_000)
    low, high = local_flatness(truth, stack, depth)
    assert low <= high <= 1.001 * low
    assert (high < 1.0) == (np.linalg.norm(matrix.value - truth) < 1e-3)
    assert low > 1.01 or high < 0.99  # none of these cases is on the edge


@pytest.mark.parametrize(("d_out", "d_in", "rank"), [(7, 7, 3), (6, 9, 2)])
def test_two_terms_without_constraints_are_a_maximum_over_one_number(d_out, d_in, rank):
    cvxpy = pytest.importorskip("cvxpy")
    truth, stack = problem(d_out, d_in, rank, rank * (d_out + d_in - rank) - 2)
    condition = normal_condition(truth, stack, 3, smooth=True)
    assert not condition.constraints.size
    low, high, attains = condition.bracket(1e-6)
    assert low <= high <= low * (1 + 1e-6)
    assert np.linalg.matrix_rank(attains, 1e-9) == 1
    assert float(condition.objective @ attains.ravel()) == pytest.approx(low, rel=1e-12)
    normal = cvxpy.Variable(condition.shape)
    roots = [(w * np.linalg.cholesky(c).T, np.linalg.cholesky(d)) for w, c, d in condition.weights]
    norms = [cvxpy.normNuc(left @ normal @ right) for left, right in roots]
    objective = condition.objective @ cvxpy.vec(normal, order="C")
    convex = cvxpy.Problem(cvxpy.Maximize(objective), [sum(norms) <= 1])
    assert convex.solve(solver="CLARABEL") == pytest.approx(low, rel=1e-5)


def test_identity_weights_are_the_nuclear_norm():
    """The same programme with C = D = 1 decides what min_nuclear_norm finds."""
    for replicate in range(6):
        truth, stack = problem(8, 8, 1, 27, replicate=replicate)
        condition = normal_condition(truth, stack, 2, terms=[(1.0, np.eye(8), np.eye(8))])
        high = condition.bracket(1e-3)[1]
        found = min_nuclear_norm(stack, np.einsum("iab,ab->i", stack, truth)).numpy()
        assert (high < 1.0) == (np.linalg.norm(found - truth) < 1e-6)


@pytest.mark.parametrize("rank", [1, 2])
def test_deep_weights_tend_to_those_of_infinite_depth(rank):
    truth, stack = problem(6, 7, rank, 34)
    limit = np.mean(local_flatness(truth, stack, math.inf, tolerance=1e-5))
    gaps = [abs(np.mean(local_flatness(truth, stack, depth, tolerance=1e-5)) - limit) for depth in (8, 16, 32, 64)]
    assert all(after < 0.7 * before for before, after in pairwise(gaps))
    assert gaps[-1] < 0.01 * limit


@pytest.mark.parametrize(("rank", "depth"), [(1, 3), (1, 5), (2, 3)])
def test_rank_1_weights_are_the_general_ones_and_scales_do_not_matter(rank, depth):
    truth, stack = problem(7, 5, rank, 32)
    bracket = local_flatness(truth, stack, depth, tolerance=1e-5)
    scaled = local_flatness(torch.tensor(1e3 * truth), torch.tensor(1e-4 * stack), depth, tolerance=1e-5)
    turned = local_flatness(truth.T, stack.transpose(0, 2, 1), depth, tolerance=1e-5)
    assert scaled == pytest.approx(bracket, rel=1e-4)
    assert turned == pytest.approx(bracket, rel=1e-4)


def test_above_nu_one_f_falls_along_the_direction_that_attains_it():
    truth, stack = problem(8, 8, 1, 20)
    condition = normal_condition(truth, stack, 3)
    low, _, normal = condition.bracket(1e-4)
    assert low > 1.0
    step = np.zeros((8, 8))
    step[-7:, -7:] = normal
    step = condition.u @ step @ condition.vh
    rows = stack.reshape(len(stack), -1)
    tangent = np.ones((8, 8), dtype=bool)
    tangent[1:, 1:] = False
    turned = (condition.u.T @ stack @ condition.vh.T)[:, tangent]
    along = np.zeros((8, 8))
    along[tangent] = -np.linalg.lstsq(turned, rows @ step.ravel(), rcond=None)[0]
    step += condition.u @ along @ condition.vh  # completes the normal part to a step among the interpolators
    assert np.abs(rows @ step.ravel()).max() < 1e-8
    size = 1e-4 / np.linalg.norm(step)
    value, moved = (induced_regularizer(matrix, stack, 3).value for matrix in (truth, truth + size * step))
    assert moved < value


def test_matrices_that_cannot_be_sharp_minima():
    truth, stack = problem(6, 6, 2, 15)
    assert local_flatness(truth, stack, 3) == (math.inf, math.inf)  # n < r (d_out + d_in - r) = 20
    full = np.random.default_rng(0).standard_normal((3, 4))
    enough, too_few = (np.random.default_rng(1).standard_normal((n, 3, 4)) for n in (12, 11))
    assert local_flatness(full, enough, 3) == (0.0, 0.0)  # the one interpolator
    assert local_flatness(full, too_few, 3) == (math.inf, math.inf)
    low_rank = np.outer(full[:, 0], full[0])
    assert local_flatness(low_rank, enough, 3) == (0.0, 0.0)
    assert local_flatness(truth, np.concatenate((stack, stack)), 3) == (math.inf, math.inf)


def test_dependent_measurements_change_nothing():
    truth, stack = problem(6, 5, 1, 18)
    doubled = np.concatenate((stack, stack))
    assert local_flatness(truth, doubled, 3) == pytest.approx(local_flatness(truth, stack, 3), rel=1e-3)


def test_bad_input_has_one_clear_message():
    truth, stack = problem(4, 4, 1, 9)
    with pytest.raises(SolverError, match=r"depth must be a whole number of at least 2, or math.inf \(got 2.5\)"):
        local_flatness(truth, stack, 2.5)
    with pytest.raises(SolverError, match="do not fit"):
        local_flatness(truth[:3], stack, 3)
    with pytest.raises(SolverError, match="zero matrix"):
        local_flatness(0 * truth, stack, 3)
    with pytest.raises(SolverError, match="finite"):
        local_flatness(np.nan * truth, stack, 3)
    assert flatdist.local_flatness is local_flatness


@pytest.mark.parametrize(("d", "rank", "seed"), [(6, 3, 147), (8, 4, 72), (6, 3, 0)])
def test_nothing_is_left_to_move_along_where_the_measurements_determine_the_matrix(d, rank, seed):
    generator = np.random.default_rng(seed)  # in the first two, H is a combination of K's rows up to 1e-6
    measurements = generator.standard_normal((d * d, d, d))
    matrix = generator.standard_normal((d, rank)) @ generator.standard_normal((rank, d))
    assert local_flatness(matrix, measurements, depth=2) == (0.0, 0.0)
