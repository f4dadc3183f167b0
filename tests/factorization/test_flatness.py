"""Closed forms against automatic differentiation, for rectangular shapes and unequal widths."""

import numpy as np
import pytest
import torch
from gradients import layer_gradients

from flatdist.cells.cell import Cell
from flatdist.cells.problems import Problem, sample_arrays, sample_problem
from flatdist.factorization.evaluation import BLOCK, Evaluator
from flatdist.factorization.flatness import MomentTrace, hessian_trace
from flatdist.factorization.products import end_to_end, initial_layers

SHAPES = [
    (5, 4, (6,)),
    (4, 7, (4, 9)),
    (6, 3, (3, 5, 4)),
    (3, 4, (5, 3, 4, 6)),
]


def interpolating(d_out, d_in, width, n=9):
    """Random layers, measurements, and labels that the layers interpolate."""
    cell = Cell(d_out=d_out, d_in=d_in, rank=1, n=n, depth=len(width) + 1, width=list(width), init_scale=1.0)
    layers = [torch.from_numpy(w) for w in initial_layers(cell, 0)]
    measurements = sample_problem(cell, 0).measurements
    return layers, measurements, torch.einsum("iab,ab->i", measurements, end_to_end(layers))


def loss_of(layers, measurements, labels):
    return ((torch.einsum("iab,ab->i", measurements, end_to_end(layers)) - labels) ** 2).mean()


@pytest.mark.parametrize(("d_out", "d_in", "width"), SHAPES)
def test_hessian_trace_is_the_trace_of_the_true_hessian(d_out, d_in, width):
    layers, measurements, labels = interpolating(d_out, d_in, width)
    sizes = [w.numel() for w in layers]

    def loss(vector):
        parts = [part.reshape(w.shape) for part, w in zip(torch.split(vector, sizes), layers, strict=True)]
        return loss_of(parts, measurements, labels)

    exact = torch.trace(torch.func.hessian(loss)(torch.cat([w.flatten() for w in layers])))
    assert float(hessian_trace(layers, measurements)) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(("d_out", "d_in", "width"), SHAPES)
def test_layer_gradients_equal_autograd(d_out, d_in, width):
    layers, measurements, labels = interpolating(d_out, d_in, width)
    labels = labels + torch.linspace(-1, 1, len(labels), dtype=torch.float64)
    variables = [w.clone().requires_grad_() for w in layers]
    exact = torch.autograd.grad(loss_of(variables, measurements, labels), variables)
    residual = torch.einsum("iab,ab->i", measurements, end_to_end(layers)) - labels
    gradient = 2 / len(labels) * torch.einsum("i,iab->ab", residual, measurements)
    for ours, theirs in zip(layer_gradients(layers, gradient), exact, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-12 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8])
@pytest.mark.parametrize("evaluations", [1, 10**6], ids=["contracted", "fourth moments"])
def test_moments_give_the_same_trace(dtype, evaluations):
    cell = Cell(d_out=4, d_in=6, rank=1, n=23, depth=4, ensemble="rademacher")
    measurements = sample_problem(cell, 0).measurements.numpy()
    sets = [np.stack(layers) for layers in zip(*(initial_layers(cell, r) for r in range(5)), strict=True)]
    trace = MomentTrace(measurements.astype(dtype), cell.depth, evaluations)
    assert (trace.fourth is not None) == (evaluations > 1)
    expected = [hessian_trace([w[k] for w in sets], measurements) for k in range(5)]
    np.testing.assert_allclose(trace(sets), expected, rtol=1e-12 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("evaluations", [1, 10**6], ids=["contracted", "fourth moments"])
def test_signs_stored_as_int8_do_not_cost_a_float64_cell_its_precision(evaluations):
    cell = Cell(d_out=4, d_in=6, rank=1, n=23, depth=4, ensemble="rademacher", dtype="float64")
    layers = initial_layers(cell, 0)
    problem = sample_arrays(cell, 0, "int8")
    matrix = end_to_end(layers)
    labels = np.einsum("iab,ab->i", problem.measurements, matrix)
    evaluate = Evaluator(Problem(problem.measurements, labels, matrix), cell.depth, evaluations, cell.dtype)
    values = evaluate([np.stack([w] * BLOCK) for w in layers], [True] * BLOCK)
    assert values["train_loss"][0] < 1e-28 * np.mean(labels**2)
    expected = hessian_trace(layers, problem.measurements.astype(float))
    assert values["hessian_trace"][0] == pytest.approx(expected, rel=1e-12)


def test_leading_axes_are_allowed_everywhere():
    layers, measurements, _ = interpolating(4, 7, (4, 9))
    stacked = [torch.stack([w, 2 * w]) for w in layers]
    both = hessian_trace(stacked, torch.stack([measurements, measurements]))
    assert float(both[0]) == pytest.approx(float(hessian_trace(layers, measurements)), rel=1e-12)
    assert float(both[1]) == pytest.approx(2**4 * float(both[0]), rel=1e-12)
    assert end_to_end(stacked).shape == (2, 4, 7)
