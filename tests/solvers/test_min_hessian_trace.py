from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_problem
from flatdist.errors import SolverError
from flatdist.factorization.flatness import hessian_trace
from flatdist.factorization.products import end_to_end
from flatdist.factorization.regularizer import induced_regularizer
from flatdist.solvers._flattest import Point, ScaledProblem, descend
from flatdist.solvers.constraints import constraints_of
from flatdist.solvers.min_hessian_trace import _balanced, _Saddle, _Search, min_hessian_trace
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.solvers.solution import UncertifiedWarning
from flatdist.theory.statdim import statistical_dimension


def problem(d_out, d_in, rank, n, seed=0, batch=()):
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=(*batch, d_out, rank)) @ generator.normal(size=(*batch, rank, d_in))
    truth /= np.linalg.norm(truth, axis=(-2, -1), keepdims=True)
    measurements = generator.normal(size=(*batch, n, d_out, d_in))
    labels = np.einsum("...iab,...ab->...i", measurements, truth)
    return measurements, labels, truth


def misses(layers, measurements, labels):
    matrix = end_to_end(layers).numpy()
    return np.abs(np.einsum("...iab,...ab->...i", measurements, matrix) - labels).max()


@pytest.mark.parametrize(("depth", "d_out", "d_in", "k"), [(2, 4, 6, 3), (3, 5, 4, 2), (4, 3, 5, 3), (6, 4, 3, 2)])
def test_derivatives_are_those_of_lemma_2_by_autodiff(depth, d_out, d_in, k):
    generator = np.random.default_rng(1)
    measurements, rows = generator.normal(size=(7, d_out, d_in)), generator.normal(size=(3, d_out * d_in))
    target, multipliers = generator.normal(size=3), generator.normal(size=3)
    shapes = [(big, small) for small, big in pairwise((d_in, *[k] * (depth - 1), d_out))]
    sizes = [a * b for a, b in shapes]

    def layers_of(x):
        return [part.reshape(shape) for part, shape in zip(torch.split(x, sizes), shapes, strict=True)]

    def lagrangian(x):
        layers = layers_of(x)
        violation = torch.tensor(rows) @ end_to_end(layers).reshape(-1) - torch.tensor(target)
        return hessian_trace(layers, torch.tensor(measurements)) + torch.tensor(multipliers) @ violation

    x = torch.tensor(generator.normal(size=sum(sizes)))
    problem = ScaledProblem(depth, measurements, rows, target)
    point = Point(problem, [layer.numpy() for layer in layers_of(x)])
    gradient = torch.autograd.functional.jacobian(lagrangian, x).numpy()
    hessian = torch.autograd.functional.hessian(lagrangian, x).numpy()
    assert point.lagrangian(multipliers, 0.0) == pytest.approx(lagrangian(x).item(), rel=1e-12)
    ours = point.gradient + point.jacobian.T @ multipliers
    assert np.abs(ours - gradient).max() < 1e-12 * np.abs(gradient).max()
    assert np.abs(point.hessian(multipliers) - hessian).max() < 1e-12 * np.abs(hessian).max()


def test_depth_2_has_the_trace_of_the_convex_optimum():
    """Theorem 5 against the general solver, which knows nothing of convexity, and against a bound by cvxpy."""
    cvxpy = pytest.importorskip("cvxpy")
    measurements, labels, _ = problem(5, 7, 2, 20)
    layers, certificate = min_hessian_trace(measurements, labels, depth=2, return_certificate=True)
    trace = float(hessian_trace(layers, torch.tensor(measurements)))
    search = _Search(constraints_of(torch.tensor(measurements), torch.tensor(labels), "test"), 2)
    general = search.descent(search.smallest, 5, 60.0).point
    assert general.trace * search.size**2 * search.scale == pytest.approx(trace, rel=1e-8)
    assert np.allclose(search.scale * general.matrix, end_to_end(layers).numpy(), atol=1e-6)

    roots = []
    for moments in (
        np.einsum("iab,icb->ac", measurements, measurements) / 20,
        np.einsum("iab,iac->bc", measurements, measurements) / 20,
    ):
        values, vectors = np.linalg.eigh(moments)
        roots.append((vectors * np.sqrt(values)) @ vectors.T)
    matrix = cvxpy.Variable((5, 7))
    interpolates = [cvxpy.sum(cvxpy.multiply(a, matrix)) == b for a, b in zip(measurements, labels, strict=True)]
    convex = cvxpy.Problem(cvxpy.Minimize(4 * cvxpy.normNuc(roots[0] @ matrix @ roots[1])), interpolates)
    convex.solve(solver=cvxpy.SCS, eps=1e-9, max_iters=200_000)
    assert trace == pytest.approx(convex.value, rel=1e-6)
    assert certificate.traces.shape == (1,)
    assert certificate.converged


@pytest.mark.parametrize(("d", "rank", "depth"), [(12, 1, 3), (12, 2, 3), (10, 1, 4), (8, 1, 5)])
def test_the_flattest_interpolator_recovers_the_truth_above_the_transition(d, rank, depth):
    n = int(np.ceil(1.25 * statistical_dimension(d, d, rank)))
    measurements, labels, truth = problem(d, d, rank, n, batch=(3,))
    layers, certificate = min_hessian_trace(measurements, labels, depth, return_certificate=True)
    assert certificate.converged.all()
    assert certificate.value < 1e-8
    assert (certificate.nu_high < 1.0).all()
    assert certificate.traces.shape == (3, 1)  # proved without a descent
    assert np.square(end_to_end(layers).numpy() - truth).sum((-2, -1)).max() < 1e-16


def test_no_perturbed_interpolator_is_flatter():
    """Below the transition the answer is not the truth, so only its trace can be tested: against F at neighbours."""
    measurements, labels, _ = problem(6, 5, 2, 14)
    layers, certificate = min_hessian_trace(measurements, labels, 3, return_certificate=True)
    matrix = end_to_end(layers).numpy()
    trace = float(hessian_trace(layers, torch.tensor(measurements)))
    assert misses(layers, measurements, labels) < 1e-10
    assert induced_regularizer(matrix, measurements, 3).value == pytest.approx(trace, rel=1e-9)
    assert np.nanmin(certificate.traces) == pytest.approx(trace, rel=1e-12)
    free = np.linalg.svd(measurements.reshape(14, -1))[2][14:]
    generator = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(3):
            neighbour = matrix + size * (generator.normal(size=len(free)) @ free).reshape(6, 5)
            assert induced_regularizer(neighbour, measurements, 3).value > trace


def test_the_flattest_interpolator_is_not_the_minimum_nuclear_norm():
    measurements, labels, _ = problem(8, 8, 2, 30, seed=3)
    layers, certificate = min_hessian_trace(measurements, labels, 3, return_certificate=True)
    nuclear = min_nuclear_norm(measurements, labels).numpy()
    assert certificate.converged
    assert np.linalg.norm(end_to_end(layers).numpy() - nuclear) > 1e-3
    assert np.nanmin(certificate.traces) < induced_regularizer(nuclear, measurements, 3).value
    assert np.linalg.norm(end_to_end(layers).numpy(), "nuc") > np.linalg.norm(nuclear, "nuc")


def test_an_instance_has_the_same_bits_alone_and_in_a_batch():
    measurements, labels, _ = problem(6, 7, 1, 20, batch=(2, 2))
    for depth in (2, 3):
        together, _ = min_hessian_trace(measurements, labels, depth, return_certificate=True)
        for index in np.ndindex(2, 2):
            alone = min_hessian_trace(torch.tensor(measurements[index]), torch.tensor(labels[index]), depth)
            assert all(torch.equal(one, many[index]) for one, many in zip(alone, together, strict=True))


def test_widths_shape_the_layers_and_leave_the_trace():
    measurements, labels, _ = problem(4, 6, 1, 12)
    layers = min_hessian_trace(measurements, labels, 4, width=[5, 4, 9])
    assert [tuple(layer.shape) for layer in layers] == [(5, 6), (4, 5), (9, 4), (4, 9)]
    narrow = min_hessian_trace(measurements, labels, 4, width=4)
    assert misses(layers, measurements, labels) < 1e-10
    wide_trace = float(hessian_trace(layers, torch.tensor(measurements)))
    assert wide_trace == pytest.approx(float(hessian_trace(narrow, torch.tensor(measurements))), rel=1e-12)


def test_scales_of_measurements_and_labels_come_through():
    measurements, labels, _ = problem(5, 5, 1, 16)
    plain = min_hessian_trace(measurements, labels, 3)
    scaled = min_hessian_trace(1e4 * measurements, 1e-3 * labels, 3)
    assert torch.allclose(end_to_end(scaled), 1e-7 * end_to_end(plain), rtol=1e-8, atol=1e-16)


def test_zero_labels_have_the_zero_interpolator():
    measurements, labels, _ = problem(4, 4, 1, 6)
    layers, certificate = min_hessian_trace(measurements, 0 * labels, 3, return_certificate=True)
    assert not any(layer.any() for layer in layers)
    assert certificate.converged


def test_an_empty_batch_is_an_empty_answer():
    layers, certificate = min_hessian_trace(np.zeros((0, 3, 2, 2)), np.zeros((0, 3)), 3, return_certificate=True)
    assert [tuple(layer.shape) for layer in layers] == [(0, 2, 2)] * 3
    assert str(certificate).startswith("0 of 0 certified")


def test_more_measurements_than_entries_leave_one_interpolator():
    measurements, labels, truth = problem(3, 4, 2, 15)
    layers, certificate = min_hessian_trace(measurements, labels, 3, return_certificate=True)
    assert certificate.converged
    assert np.allclose(end_to_end(layers).numpy(), truth, atol=1e-9)
    trace = float(hessian_trace(layers, torch.tensor(measurements)))
    assert trace == pytest.approx(induced_regularizer(truth, measurements, 3).value, rel=1e-9)


def test_bad_input_has_one_clear_message():
    measurements, labels, _ = problem(3, 4, 2, 15)
    with pytest.raises(SolverError, match=r"no .* matrix satisfies the 15 constraints"):
        min_hessian_trace(measurements, labels + np.random.default_rng(0).normal(size=15))
    twice = np.concatenate((measurements[:5], measurements[:1]))
    with pytest.raises(SolverError, match="measurements have rank 5"):
        min_hessian_trace(twice, np.append(labels[:5], labels[0] + 1.0))
    with pytest.raises(SolverError, match=r"hidden width 2 is smaller than min\(d_out, d_in\) = 3"):
        min_hessian_trace(measurements[:5], labels[:5], 3, width=[4, 2])
    with pytest.raises(SolverError, match="depth 3 has 2 hidden layers"):
        min_hessian_trace(measurements[:5], labels[:5], 3, width=[4])
    with pytest.raises(SolverError, match="at least 2 layers"):
        min_hessian_trace(measurements[:5], labels[:5], 1)
    with pytest.raises(SolverError, match="starts must be at least 1"):
        min_hessian_trace(measurements[:5], labels[:5], 3, starts=0)


def test_an_uncertified_answer_says_so(monkeypatch):
    monkeypatch.setattr("flatdist.solvers.min_hessian_trace._STEPS", 2)
    measurements, labels, _ = problem(6, 5, 2, 14)
    with pytest.warns(UncertifiedWarning, match="0 of 1 certified"):
        min_hessian_trace(measurements, labels, 3)
    _, certificate = min_hessian_trace(measurements, labels, 3, return_certificate=True)
    assert not certificate.converged
    assert certificate.value > 1e-8


@pytest.mark.parametrize("depth", [2, 3])
def test_dependent_measurements_with_agreeing_labels_are_solved(depth):
    """Every measurement twice: the same interpolators and the same moments, so the same answer."""
    problem = sample_problem(Cell(d_out=4, d_in=5, rank=1, n=9), 0)
    once, _ = min_hessian_trace(problem.measurements, problem.labels, depth, return_certificate=True)
    doubled = torch.cat((problem.measurements, problem.measurements))
    labels = torch.cat((problem.labels, problem.labels))
    twice, certificate = min_hessian_trace(doubled, labels, depth, return_certificate=True)
    assert bool(certificate.converged)
    torch.testing.assert_close(end_to_end(twice), end_to_end(once), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("d", "n", "replicate", "false_trace"), [(24, 81, 0, 51.17677333), (12, 36, 8, 31.4355632135)])
def test_a_saddle_is_not_certified(d, n, replicate, false_trace):
    """Stationary points at which a further hidden unit lowers the trace; release 0.1.0 certified them."""
    sampled = sample_problem(Cell(d_out=d, d_in=d, rank=1, n=n, method="min_hessian_trace"), replicate)
    layers, certificate = min_hessian_trace(sampled.measurements, sampled.labels, 3, return_certificate=True)
    assert certificate.converged
    assert certificate.nu_high < 1.0
    trace = float(hessian_trace(layers, sampled.measurements.to(torch.float64)))
    assert trace < false_trace * (1 - 5e-6)


def test_a_stationary_point_of_too_low_a_rank_is_left():
    """The best interpolator of one rank too few is a saddle: the search says so, and ends below it."""
    sampled = sample_problem(Cell(d_out=12, d_in=12, rank=1, n=36, method="min_hessian_trace"), 0)
    search = _Search(constraints_of(sampled.measurements.double(), sampled.labels.double(), "test"), 3)
    best = search.answer(3)
    rank = np.linalg.matrix_rank(end_to_end(best.value), 1e-8)
    narrow = descend(
        Point(search.problem, _balanced(search.smallest, rank - 1, 3)),
        np.zeros(36),
        60.0 * search.problem.unit,
        tolerance=1e-10,
        steps=300,
    )
    found = search.finish(narrow.point, narrow.multipliers, rank - 1)
    assert isinstance(found, _Saddle)
    left = search.descent(narrow.point.matrix, rank - 1, 60.0)
    assert left.proved
    assert left.point.trace < found.point.trace
    assert min(best.traces) <= left.point.trace * search.size**2 * search.scale ** (4 / 3) * (1 + 1e-9)


@pytest.mark.parametrize("ensemble", ["rademacher", "rank_one"])
@pytest.mark.parametrize(("d_out", "d_in", "depth"), [(6, 9, 3), (9, 6, 4), (7, 7, 6)])
def test_other_ensembles_shapes_and_depths_have_certified_minima(ensemble, d_out, d_in, depth):
    cell = Cell(d_out=d_out, d_in=d_in, rank=1, n=26, ensemble=ensemble, depth=depth, method="min_hessian_trace")
    sampled = sample_problem(cell, 0)
    stack = sampled.measurements.double()
    layers, certificate = min_hessian_trace(stack, sampled.labels, depth, return_certificate=True)
    assert certificate.converged
    trace = float(hessian_trace(layers, stack))
    assert induced_regularizer(end_to_end(layers).numpy(), stack.numpy(), depth).value == pytest.approx(trace, rel=1e-8)
    assert trace <= induced_regularizer(sampled.ground_truth.numpy(), stack.numpy(), depth).value * (1 + 1e-9)


@pytest.mark.parametrize(("d", "n", "replicate", "depth"), [(8, 19, 4, 4), (12, 37, 8, 3)])
def test_a_saddle_that_layers_cannot_leave_by_small_steps_is_left(d, n, replicate, depth):
    """A hidden unit that is zero costs quadratically and gives cubically: minima with a singular value of 1e-5."""
    cell = Cell(d_out=d, d_in=d, rank=1, n=n, nested=True, depth=depth, method="min_hessian_trace")
    sampled = sample_problem(cell, replicate)
    layers, certificate = min_hessian_trace(sampled.measurements, sampled.labels, depth, return_certificate=True)
    assert certificate.converged
    spectrum = np.linalg.svd(end_to_end(layers).numpy(), compute_uv=False)
    assert ((spectrum > 1e-6 * spectrum[0]) & (spectrum < 1e-3 * spectrum[0])).any()
    truth = induced_regularizer(sampled.ground_truth.numpy(), sampled.measurements.numpy(), depth).value
    assert float(hessian_trace(layers, sampled.measurements)) < truth
