"""The largest eigenvalue of the Hessian, and the method that lowers it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_stored
from flatdist.factorization.flatness import sharpness
from flatdist.factorization.products import end_to_end
from flatdist.trials.run import run_cell


@pytest.mark.parametrize("ensemble", ["gaussian", "rademacher", "rank_one", "entries"])
@pytest.mark.parametrize(("depth", "n"), [(2, 9), (3, 2), (3, 11), (4, 7)])
def test_sharpness_is_the_hessians_largest_eigenvalue_at_interpolation(ensemble, depth, n):
    problem = sample_stored(Cell(d_out=4, d_in=3, rank=1, n=n, ensemble=ensemble), 0)
    dense = torch.as_tensor(np.asarray(problem.measurements.dense(), dtype=np.float64))
    generator = np.random.default_rng(depth)
    shapes = [(big, small) for small, big in pairwise((3, *[4] * (depth - 1), 4))]
    layers = [torch.tensor(generator.standard_normal(shape)) for shape in shapes]
    labels = torch.einsum("iab,ab->i", dense, end_to_end(layers))  # these layers interpolate them
    sizes = [layer.numel() for layer in layers]

    def loss(x):
        parts = [part.reshape(shape) for part, shape in zip(torch.split(x, sizes), shapes, strict=True)]
        return torch.mean((torch.einsum("iab,ab->i", dense, end_to_end(parts)) - labels) ** 2)

    hessian = torch.autograd.functional.hessian(loss, torch.cat([layer.reshape(-1) for layer in layers]))
    expected = float(torch.linalg.eigvalsh(hessian)[-1])
    assert sharpness([layer.numpy() for layer in layers], problem.measurements) == pytest.approx(expected, rel=1e-9)
    assert sharpness(layers, dense) == pytest.approx(expected, rel=1e-9)


def test_full_batch_sam_is_gradient_descent_at_radius_zero_and_lowers_the_sharpness():
    common = {"d_out": 6, "d_in": 6, "rank": 1, "n": 30, "depth": 2, "init_scale": 1.0, "learning_rate": 0.01,
              "steps": 6000, "evaluations": 4, "dtype": "float64"}  # fmt: skip
    plain, _ = run_cell(Cell(method="gradient_descent", **common), replicates=range(3))
    still, _ = run_cell(Cell(method="sam", batch_size="full", sam_radius=0.0, **common), replicates=range(3))
    sam, _ = run_cell(Cell(method="sam", batch_size="full", sam_radius=0.1, **common), replicates=range(3))
    assert np.allclose(still["hessian_trace"], plain["hessian_trace"], rtol=1e-6)
    assert (sam["sharpness"] < 0.99 * plain["sharpness"]).all()
    assert sam["batch_size"].isna().all()


def test_engines_agree_on_full_batch_sam():
    cell = Cell(d_out=5, d_in=6, rank=1, n=15, depth=3, method="sam", batch_size="full", steps=200, learning_rate=0.01,
                evaluations=3)  # fmt: skip
    reference, _ = run_cell(cell, replicates=[0], engine="reference")
    for engine in ("fused", "batched"):
        trials, _ = run_cell(cell, replicates=[0], engine=engine)
        assert trials["population_loss"].iloc[0] == pytest.approx(reference["population_loss"].iloc[0], rel=1e-4)


def test_one_sam_says_that_it_draws_one():
    cell = Cell(d_out=4, d_in=4, rank=1, n=9, method="sam", batch_size=7, steps=20, evaluations=2)
    assert cell == Cell(d_out=4, d_in=4, rank=1, n=9, method="sam", batch_size=7, steps=20, evaluations=2)
    assert cell.cell_id == Cell(d_out=4, d_in=4, rank=1, n=9, method="sam", steps=20, evaluations=2).cell_id
    trials, _ = run_cell(cell, replicates=[0])
    assert trials["batch_size"].tolist() == [1]
