"""Every storage answers as the same measurements written out do."""

import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import StoredProblem, sample_stored
from flatdist.factorization.evaluation import BLOCK, Evaluator
from flatdist.factorization.flatness import MomentTrace, hessian_trace, trace_gradient
from flatdist.factorization.products import end_to_end, initial_layers
from flatdist.sensing.measurements import Dense, Entries, Factors, Signs, as_measurements

ENSEMBLES = {"gaussian": Dense, "rademacher": Signs, "rank_one": Factors, "entries": Entries}
STRUCTURED = ("rank_one", "entries")
SHAPE = (7, 5)


def stored(ensemble, n=30, dtype="float64", shape=SHAPE):
    dtype = "int8" if ensemble == "rademacher" else dtype
    cell = Cell(d_out=shape[0], d_in=shape[1], rank=2, n=n, ensemble=ensemble)
    problem = sample_stored(cell, 1, dtype)
    assert type(problem.measurements) is ENSEMBLES[ensemble]
    return problem.measurements


def written_out(measurements):
    return measurements.dense().astype(np.float64)


@pytest.fixture(params=ENSEMBLES)
def pair(request):
    measurements = stored(request.param)
    return measurements, written_out(measurements)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_inner_products_and_their_adjoint(pair):
    measurements, stack = pair
    matrices, weights = draw(3, *SHAPE), draw(len(stack))
    np.testing.assert_allclose(measurements.apply(matrices), np.einsum("iab,kab->ki", stack, matrices), atol=1e-12)
    np.testing.assert_allclose(measurements.apply(matrices[0]), np.einsum("iab,ab->i", stack, matrices[0]), atol=1e-12)
    np.testing.assert_allclose(measurements.row_sums(matrices[0]), measurements.apply(matrices[0]), atol=1e-12)
    adjoint = measurements.adjoint(weights)
    np.testing.assert_allclose(adjoint, np.einsum("i,iab->ab", weights, stack), atol=1e-12)


@pytest.mark.parametrize("left", [None, 3])
@pytest.mark.parametrize("right", [None, 4])
def test_the_terms_of_lemma_2_and_their_gradients(pair, left, right):
    measurements, stack = pair
    p = None if left is None else draw(SHAPE[0], left, seed=1)
    q = None if right is None else draw(right, SHAPE[1], seed=2)
    if p is None and q is None:
        return  # no layer has an empty product on both sides

    def compressed(p, q):
        block = stack if p is None else p.T @ stack
        return block if q is None else block @ q.T

    np.testing.assert_allclose(measurements.compress(p, q), compressed(p, q), atol=1e-12)
    squares, by_left, by_right = measurements.squares_gradient(p, q)
    assert squares == pytest.approx(np.sum(compressed(p, q) ** 2), rel=1e-12)
    assert float(measurements.squares(p, q)) == pytest.approx(squares, rel=1e-12)
    width = 1e-6
    for which, gradient in ((0, by_left), (1, by_right)):
        if (p, q)[which] is None:
            assert gradient is None
            continue
        direction = draw(*gradient.shape, seed=3)
        ends = []
        for step in (width, -width):
            moved = [p, q]
            moved[which] = moved[which] + step * direction
            ends.append(np.sum(compressed(*moved) ** 2))
        slope = (ends[0] - ends[1]) / (2 * width)
        assert 2 * np.vdot(gradient, direction) == pytest.approx(slope, rel=1e-6)


def test_second_moments(pair):
    measurements, stack = pair
    s_out, s_in = measurements.second_moments()
    np.testing.assert_allclose(s_out, np.einsum("iab,icb->ac", stack, stack) / len(stack), atol=1e-12)
    np.testing.assert_allclose(s_in, np.einsum("iab,iac->bc", stack, stack) / len(stack), atol=1e-12)


def test_some_of_them_and_room_for_more(pair):
    measurements, stack = pair
    rows = np.array([3, 3, 0, 17])
    np.testing.assert_array_equal(measurements.select(rows).dense(), stack[rows])
    kept = type(measurements).zeros(7, *SHAPE, str(measurements.dtype))
    kept.put(0, measurements.select(slice(0, 4)))
    kept.put(4, measurements.select(slice(4, 7)))
    np.testing.assert_array_equal(kept.dense(), stack[:7])
    assert (len(kept), kept.shape) == (7, SHAPE)


def test_tensors_carry_gradients(pair):
    measurements, stack = pair
    tensors = measurements.tensors(torch.float64)
    matrix = torch.from_numpy(draw(*SHAPE)).requires_grad_()
    weights = torch.from_numpy(draw(len(stack)))
    (gradient,) = torch.autograd.grad(tensors.apply(matrix) @ weights, matrix)
    np.testing.assert_allclose(gradient, np.einsum("i,iab->ab", weights, stack), atol=1e-12)


def test_arrays_are_measurements_as_they_are():
    floats, signs = np.ones((2, 3, 4)), np.ones((2, 3, 4), dtype=np.int8)
    assert as_measurements(floats).dense() is floats
    assert type(as_measurements(signs)) is Signs
    assert type(as_measurements(signs.astype(np.uint8))) is Dense
    dense = as_measurements(floats)
    assert as_measurements(dense) is dense


WIDTHS = [(6,), (4, 9), (3, 5, 4)]


@pytest.mark.parametrize("ensemble", STRUCTURED)
@pytest.mark.parametrize("width", WIDTHS, ids=lambda width: f"depth {len(width) + 1}")
def test_hessian_trace_is_the_trace_of_the_true_hessian(ensemble, width):
    d_out, d_in = (4, 3) if len(width) == 3 else (4, 4)
    cell = Cell(d_out=d_out, d_in=d_in, rank=1, n=9, depth=len(width) + 1, width=width, init_scale=1.0)
    layers = [torch.from_numpy(w) for w in initial_layers(cell, 0)]
    measurements = stored(ensemble, n=9, shape=(d_out, d_in))
    tensors = measurements.tensors(torch.float64)
    labels = torch.from_numpy(draw(9))
    sizes = [w.numel() for w in layers]

    def loss(vector):
        parts = [part.reshape(w.shape) for part, w in zip(torch.split(vector, sizes), layers, strict=True)]
        return ((tensors.apply(end_to_end(parts)) - labels) ** 2).mean()

    exact = float(torch.trace(torch.func.hessian(loss)(torch.cat([w.flatten() for w in layers]))))
    arrays = [w.numpy() for w in layers]
    assert float(hessian_trace(layers, tensors)) == pytest.approx(exact, rel=1e-10)
    assert float(hessian_trace(arrays, measurements)) == pytest.approx(exact, rel=1e-10)
    variables = [w.clone().requires_grad_() for w in layers]
    slopes = torch.autograd.grad(hessian_trace(variables, tensors), variables)
    trace, gradients = trace_gradient(arrays, measurements)
    assert trace == pytest.approx(exact, rel=1e-10)
    for ours, theirs in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ensemble", STRUCTURED)
@pytest.mark.parametrize("depth", [2, 4])
def test_evaluations_are_those_of_the_measurements_written_out(ensemble, depth):
    cell = Cell(d_out=7, d_in=5, rank=2, n=30, depth=depth, ensemble=ensemble)
    problem = sample_stored(cell, 0)
    sets = [np.stack(layers) for layers in zip(*(initial_layers(cell, r) for r in range(BLOCK)), strict=True)]
    wanted = [True] * (BLOCK - 1) + [False]
    ours = Evaluator(problem, depth, BLOCK, "float64")(sets, wanted)
    theirs = Evaluator(problem.arrays(), depth, BLOCK, "float64")(sets, wanted)
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-11)
    alone = [np.stack([w[3], *np.zeros_like(w[1:])]) for w in sets]
    lonely = Evaluator(problem, depth, BLOCK, "float64")(alone, [True] + [False] * (BLOCK - 1))
    for name in ours:
        assert lonely[name][0] == ours[name][3], "the same bits in any company"


def test_a_narrow_type_costs_a_trace_little():
    measurements = stored("rank_one", dtype="float32")
    cell = Cell(d_out=7, d_in=5, rank=2, n=30, depth=3)
    layers = initial_layers(cell, 0)
    expected = hessian_trace(layers, written_out(measurements))
    trace = MomentTrace(measurements, 3, 5)([w[None] for w in layers])
    np.testing.assert_allclose(trace, expected, rtol=1e-6)
    assert isinstance(StoredProblem(measurements, np.zeros(30), np.zeros(SHAPE)).arrays().measurements, np.ndarray)
