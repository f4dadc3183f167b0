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
from flatdist.solvers import _flatness_kernel as kernel
from flatdist.solvers.certificate import UncertifiedWarning
from flatdist.solvers.constraints import constraints_of
from flatdist.solvers.min_hessian_trace import _solve, min_hessian_trace
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
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


@pytest.mark.parametrize(("depth", "d_out", "d_in"), [(2, 4, 6), (3, 5, 4), (5, 4, 6)])
def test_the_kernel_has_the_trace_of_lemma_2_and_its_gradient(depth, d_out, d_in):
    from flatdist.factorization.flatness import MomentTrace

    generator = np.random.default_rng(1)
    measurements = generator.normal(size=(7, d_out, d_in))
    k = min(d_out, d_in)
    widths = (d_in, *[k] * (depth - 1), d_out)
    shapes = [(big, small) for small, big in pairwise(widths)]
    x = generator.normal(size=sum(a * b for a, b in shapes))
    tensor = torch.tensor(x, requires_grad=True)
    layers, at = [], 0
    for a, b in shapes:
        layers.append(tensor[at : at + a * b].reshape(a, b))
        at += a * b
    basis, target = generator.normal(size=(3, d_out * d_in)), generator.normal(size=3)
    multipliers, rho = generator.normal(size=3), 0.7
    violation = torch.tensor(basis) @ end_to_end(layers).reshape(-1) - torch.tensor(target)
    trace = hessian_trace(layers, torch.tensor(measurements))
    phi = trace + torch.tensor(multipliers) @ violation + 0.5 * rho * violation @ violation
    phi.backward()
    moments = MomentTrace(measurements, depth, evaluations=10**9)
    fourth = np.zeros((1, 1)) if moments.fourth is None else np.ascontiguousarray(moments.fourth)
    gradient, c = np.empty_like(x), np.empty(3)
    arguments = (depth, k, moments.s_out, moments.s_in, fourth, basis, target, multipliers)
    ours, total = kernel.lagrangian(x, gradient, c, *arguments, rho)
    assert ours == pytest.approx(trace.item(), rel=1e-12)
    assert total == pytest.approx(phi.item(), rel=1e-12)
    assert np.allclose(gradient, tensor.grad.numpy(), rtol=1e-10, atol=1e-10 * np.abs(gradient).max())


def test_depth_2_has_the_trace_of_the_convex_optimum():
    """Theorem 5 against the general solver, which knows nothing of convexity, and against a bound by cvxpy."""
    cvxpy = pytest.importorskip("cvxpy")
    measurements, labels, _ = problem(5, 7, 2, 20)
    layers, certificate = min_hessian_trace(measurements, labels, depth=2, return_certificate=True)
    trace = float(hessian_trace(layers, torch.tensor(measurements)))
    general, _, ends = _solve(constraints_of(torch.tensor(measurements), torch.tensor(labels), "test"), 2, 2)
    assert ends[0] == pytest.approx(trace, rel=1e-8)
    assert np.allclose(general[1] @ general[0], end_to_end(layers).numpy(), atol=1e-6)

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
    assert certificate.spread.max() < 1e-8
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
    with pytest.raises(SolverError, match="starts is 0"):
        min_hessian_trace(measurements[:5], labels[:5], 3, starts=0)


def test_an_uncertified_answer_says_so(monkeypatch):
    monkeypatch.setattr("flatdist.solvers._flattest._OUTER", 2)
    measurements, labels, _ = problem(5, 5, 1, 14)
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
