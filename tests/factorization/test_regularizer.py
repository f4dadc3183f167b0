from __future__ import annotations

import numpy as np
import pytest
import torch

from flatdist.errors import SolverError
from flatdist.factorization.flatness import hessian_trace
from flatdist.factorization.products import end_to_end
from flatdist.factorization.regularizer import (
    balanced_factorization,
    balanced_minimum,
    balanced_norms,
    induced_regularizer,
)
from flatdist.solvers._flattest import Point, ScaledProblem, descend


def matrix_of(d_out, d_in, rank, generator):
    return generator.normal(size=(d_out, rank)) @ generator.normal(size=(rank, d_in))


def trace_of(layers, measurements):
    return float(hessian_trace([torch.as_tensor(layer) for layer in layers], torch.tensor(measurements)))


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
@pytest.mark.parametrize(("d_out", "d_in", "rank"), [(5, 5, 5), (4, 7, 2), (6, 3, 3)])
def test_the_balanced_factorization_attains_lemma_4(depth, d_out, d_in, rank):
    matrix = matrix_of(d_out, d_in, rank, np.random.default_rng(0))
    layers = balanced_factorization(matrix, depth)
    assert all(max(layer.shape) <= max(d_out, d_in) for layer in layers)
    assert np.abs(end_to_end(layers).numpy() - matrix).max() < 1e-12 * np.abs(matrix).max() * depth
    assert float(balanced_norms(layers)) == pytest.approx(float(balanced_minimum(matrix, depth)), rel=1e-10)


def test_no_other_factorization_goes_below_lemma_4():
    """Inserting invertible matrices between balanced layers keeps the product and can only raise R."""
    generator = np.random.default_rng(1)
    matrix = matrix_of(4, 5, 4, generator)
    bound = float(balanced_minimum(matrix, 3))
    first, middle, last = balanced_factorization(matrix, 3, width=4)
    for size in (0.01, 0.1, 1.0):
        a, b = (torch.eye(4) + size * torch.tensor(generator.normal(size=(4, 4))) for _ in range(2))
        turned = [a @ first, b @ middle @ torch.linalg.inv(a), last @ torch.linalg.inv(b)]
        assert np.allclose(end_to_end(turned).numpy(), matrix)
        assert float(balanced_norms(turned)) > bound


def test_balanced_norms_are_the_sum_of_equation_10():
    generator = np.random.default_rng(2)
    w1, w2, w3 = generator.normal(size=(4, 3)), generator.normal(size=(6, 4)), generator.normal(size=(2, 6))
    squared = [np.square(x).sum() for x in (w3 @ w2, w3, w1, w2 @ w1)]
    expected = 3 * squared[0] + squared[1] * squared[2] + 2 * squared[3]
    assert float(balanced_norms([w1, w2, w3])) == pytest.approx(expected, rel=1e-12)


def test_a_batch_of_matrices_is_balanced_at_once():
    matrices = np.random.default_rng(3).normal(size=(2, 3, 4, 5))
    layers = balanced_factorization(matrices, 3)
    assert np.allclose(end_to_end(layers).numpy(), matrices, atol=1e-12)
    assert torch.allclose(balanced_norms(layers), balanced_minimum(matrices, 3), rtol=1e-10)


@pytest.mark.parametrize(("d_out", "d_in", "rank", "n"), [(5, 5, 5, 1), (4, 6, 2, 1), (6, 4, 3, 8), (5, 5, 1, 20)])
def test_theorem_5_is_the_minimum_of_two_layers(d_out, d_in, rank, n):
    generator = np.random.default_rng(4)
    matrix, measurements = matrix_of(d_out, d_in, rank, generator), generator.normal(size=(n, d_out, d_in))
    closed = induced_regularizer(matrix, measurements, 2)
    found = induced_regularizer(matrix, measurements, 2, formula="optimise")
    assert (closed.formula, closed.attained, found.attained) == ("theorem 5", True, True)
    assert found.value == pytest.approx(closed.value, rel=1e-9)
    for layers in (closed.layers, found.layers):
        assert np.allclose(end_to_end(layers).numpy(), matrix)
        assert trace_of(layers, measurements) == pytest.approx(closed.value, rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize(("d_out", "d_in", "rank"), [(4, 4, 4), (3, 6, 3), (6, 3, 2), (5, 5, 1)])
def test_theorem_7_is_the_minimum_for_one_measurement(depth, d_out, d_in, rank):
    generator = np.random.default_rng(5)
    matrix, measurements = matrix_of(d_out, d_in, rank, generator), generator.normal(size=(1, d_out, d_in))
    closed = induced_regularizer(matrix, measurements, depth, formula="theorem 7")
    found = induced_regularizer(matrix, measurements, depth, formula="optimise")
    assert closed.attained
    assert found.attained
    assert found.value == pytest.approx(closed.value, rel=1e-6)
    for layers in (closed.layers, found.layers):
        assert np.allclose(end_to_end(layers).numpy(), matrix, atol=1e-9 * np.abs(matrix).max())
        assert trace_of(layers, measurements) == pytest.approx(closed.value, rel=1e-9)


def test_the_identity_measurement_tends_to_the_squared_frobenius_norm_with_depth():
    matrix, identity = np.diag([1.0, 2.0, -3.0]), np.eye(3)[None]
    for depth in (3, 6):
        expected = 2 * depth * sum(abs(x) ** (2 * (depth - 1) / depth) for x in (1, 2, 3))
        assert induced_regularizer(matrix, identity, depth, "optimise").value == pytest.approx(expected, rel=1e-9)


def test_an_infimum_that_no_layers_attain_is_reported():
    identity = np.eye(3)[None]
    matrix = np.zeros((3, 3))
    matrix[0, 1] = 1.0
    for formula in ("theorem 7", "optimise"):
        answer = induced_regularizer(matrix, identity, 3, formula)
        assert (answer.value, answer.attained, answer.layers) == (0.0, False, None)
    matrix[2, 2] = 1.0  # adds 2L to the infimum and stays attained on its own block only
    for formula in ("theorem 7", "optimise"):
        answer = induced_regularizer(matrix, identity, 3, formula)
        assert answer.value == pytest.approx(6.0, rel=1e-6)
        assert not answer.attained


def test_random_layers_of_the_same_product_are_never_flatter():
    generator = np.random.default_rng(6)
    matrix, measurements = matrix_of(4, 5, 4, generator), generator.normal(size=(9, 4, 5))
    answer = induced_regularizer(matrix, measurements, 4)
    assert answer.formula == "optimise"
    assert answer.attained
    for size in (1e-3, 0.1, 1.0):
        between = [np.eye(4) + size * generator.normal(size=(4, 4)) for _ in range(3)]
        w1, w2, w3, w4 = (layer.numpy() for layer in answer.layers)
        a, b, c = between
        turned = [a @ w1, b @ w2 @ np.linalg.inv(a), c @ w3 @ np.linalg.inv(b), w4 @ np.linalg.inv(c)]
        assert trace_of(turned, measurements) >= answer.value * (1 - 1e-12)


def test_wide_layers_do_not_lower_the_infimum():
    """A descent over layers of hidden width 6 with the whole of M as constraint ends no lower."""
    generator = np.random.default_rng(7)
    matrix, measurements = matrix_of(3, 3, 2, generator), generator.normal(size=(5, 3, 3))
    least = induced_regularizer(matrix, measurements, 3).value
    layers = [generator.normal(size=shape) / 2.0 for shape in ((6, 3), (6, 6), (3, 6))]
    problem = ScaledProblem(3, measurements, np.eye(9), matrix.ravel())
    end = descend(Point(problem, layers), np.zeros(9), least, tolerance=1e-6, steps=300)
    assert end.residual < 1e-5
    assert end.point.trace == pytest.approx(least, rel=1e-5)


def test_bad_input_has_one_clear_message():
    with pytest.raises(SolverError, match="do not fit"):
        induced_regularizer(np.eye(3), np.ones((2, 3, 4)), 3)
    with pytest.raises(SolverError, match="theorem 5 needs depth 2"):
        induced_regularizer(np.eye(3), np.ones((2, 3, 3)), 3, "theorem 5")
    with pytest.raises(SolverError, match="theorem 7 needs one measurement"):
        induced_regularizer(np.eye(3), np.ones((2, 3, 3)), 3, "theorem 7")
    with pytest.raises(SolverError, match="hidden width 2 is smaller"):
        balanced_factorization(np.eye(3), 3, width=2)
