"""The symmetric start: products that cancel, one kernel in every direction, minimum Frobenius norm at its limit."""

import numpy as np
import pytest
from gradients import layer_gradients

from flatdist import min_frobenius_norm
from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.errors import CellError
from flatdist.factorization.products import end_to_end, initial_layers, partial_products
from flatdist.trials.run import run_replicates

FIELDS = {"rank": 1, "n": 14, "method": "gradient_descent", "init": "symmetric"}


@pytest.mark.parametrize(("d_out", "d_in", "depth"), [(4, 6, 3), (5, 5, 2), (6, 3, 4)])
def test_the_product_is_zero_and_gradients_move_it_alike_in_every_direction(d_out, d_in, depth):
    cell = Cell(d_out=d_out, d_in=d_in, depth=depth, init_scale=1.5, **FIELDS)
    layers = initial_layers(cell, 2)
    assert [layer.shape for layer in layers] == list(zip(cell.widths[1:], cell.widths[:-1], strict=True))
    np.testing.assert_allclose(end_to_end(layers), 0.0, atol=1e-14)
    gradient = np.random.default_rng(0).standard_normal((d_out, d_in))
    moved = np.zeros((d_out, d_in))
    for left, right, slope in zip(*partial_products(layers), layer_gradients(layers, gradient), strict=True):
        part = slope if left is None else left @ slope
        moved += part if right is None else part @ right
    np.testing.assert_allclose(moved, depth * 1.5 ** (2 * (depth - 1)) * gradient, rtol=1e-12)


def test_gradient_descent_from_large_starts_ends_at_the_minimum_frobenius_norm():
    distances = []
    for scale in (1.5, 3.0, 6.0):
        cell = Cell(d_out=6, d_in=5, init_scale=scale, **FIELDS)
        problem = sample_arrays(cell, 0)
        stack, labels = problem.measurements.astype(float), problem.labels
        rows = stack.reshape(14, -1)
        largest = 2 / 14 * 3 * scale**4 * np.linalg.norm(rows, 2) ** 2
        layers = initial_layers(cell, 0)
        for _ in range(600):
            slope = ((rows @ end_to_end(layers).ravel() - labels) @ rows).reshape(6, 5) * (2 / 14)
            layers = [w - g / largest for w, g in zip(layers, layer_gradients(layers, slope), strict=True)]
        assert rows @ end_to_end(layers).ravel() == pytest.approx(labels, abs=1e-6)
        distances.append(np.linalg.norm(end_to_end(layers) - min_frobenius_norm(stack, labels).numpy()))
    assert distances[2] < 1e-4
    first, second = distances[0] / distances[1], distances[1] / distances[2]
    assert first == pytest.approx(64, rel=0.5), "the layers' relative change squared, scale^-2L, is left"
    assert second == pytest.approx(64, rel=0.2)


def test_hidden_layers_must_hold_both_halves():
    assert Cell(d_out=4, d_in=6, **FIELDS).width == (12, 12)
    assert Cell(d_out=4, d_in=6, **FIELDS).replace(depth=2).width == (12,)
    for width in (6, 13, [12, 14]):
        with pytest.raises(CellError, match=r"an? even width of at least 2\*max\(d_out, d_in\) = 12|one even width"):
            Cell(d_out=4, d_in=6, width=width, **FIELDS)
    solver = Cell(d_out=4, d_in=6, rank=1, n=14, method="min_hessian_trace", init="symmetric")
    assert solver.cell_id == Cell(d_out=4, d_in=6, rank=1, n=14, method="min_hessian_trace").cell_id


def test_cells_run_from_it():
    cell = Cell(d_out=4, d_in=4, init_scale=3.0, steps=400, evaluations=2, dtype="float64", **FIELDS)
    (outcome,) = run_replicates(cell.replace(n=8), [0])
    problem = sample_arrays(cell.replace(n=8), 0)
    least = min_frobenius_norm(problem.measurements, problem.labels).numpy()
    error = np.sum((least - problem.ground_truth) ** 2) / np.sum(problem.ground_truth**2)
    assert outcome.trial["relative_error"] == pytest.approx(error, rel=1e-3)
