"""The statements of the theorems, measured on one problem: the ``quantities`` of a theorem_probe trial.

Isometry (Definition 3, Corollary 1); lower from alternating maximisation, upper from the Gram matrix:
    ``delta_1_lower``, ``delta_1_upper``, ``delta_2_lower``, ``delta_2_upper`` (rank 2 where the matrices allow it)
Lemma 2, where the layers are few enough for the whole Hessian; largest relative difference from autodiff:
    ``lemma2_on`` at interpolating layers, ``lemma2_off`` at layers that do not interpolate
Lemma 3, tr Hess / (2 R) over random layers and over layers that see only the isometry's worst rank-1 matrix:
    ``lemma3_low``, ``lemma3_high``
Lemma 4, at balanced layers of the ground truth: R over its bound minus 1, the product's relative error, and the lowest
R over the bound minus 1 among other factorizations of the ground truth:
    ``lemma4_excess``, ``lemma4_product``, ``lemma4_others``
Lemma 5, the largest | (1/n) sum <A_i, X>^2 - ||X||_F^2 | / ||X||_*^2 over the ground truth, random X and the isometry's
worst rank-1 and rank-2 matrices:
    ``lemma5_left``
Theorems 1, 5 and 7, the induced regularizer of the ground truth: optimised along geodesics and whether it is attained;
where Theorem 5 or 7 applies its closed form and, where that has a minimiser, the trace and the product's relative error
at it:
    ``regularizer``, ``attained``, ``closed_form``, ``closed_trace``, ``closed_product``
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import Problem, frobenius_norm
from flatdist.factorization.flatness import hessian_trace
from flatdist.factorization.isometry import IsometryBounds, isometry_bounds
from flatdist.factorization.products import end_to_end
from flatdist.factorization.regularizer import (
    balanced_factorization,
    balanced_minimum,
    balanced_norms,
    induced_regularizer,
)
from flatdist.sensing.draws import Stream
from flatdist.sensing.draws.stream import PROBE
from flatdist.types import Array

MOST_WEIGHTS = 200  # beyond this the whole Hessian is not computed
LARGEST_RANK = 6  # beyond this the induced regularizer is not optimised: its Hessian has (L - 1) r (r + 1) / 2 rows
DRAWS = 24  # random sets of layers, and of matrices
_LAYERS, _TURNS, _MATRICES = 0, 1000, 2000  # rows of the probe's random stream


def theorem_probe(cell: Cell, replicate: int, problem: Problem[Array]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The columns of a trial, with every quantity that this module lists, and no history."""
    stream = Stream.named(cell.problem_stream(), replicate, PROBE)
    stack, truth = problem.measurements, problem.ground_truth
    bounds = [isometry_bounds(stack, rank) for rank in (1, 2)[: min(cell.d_out, cell.d_in)]]
    random = [_random_layers(stream, cell.widths, draw) for draw in range(DRAWS)]
    turned = [_turned(stream, cell, truth, draw) for draw in range(DRAWS)]
    quantities: dict[str, float] = {}
    for delta in bounds:
        quantities[f"delta_{delta.rank}_lower"] = delta.lower
        quantities[f"delta_{delta.rank}_upper"] = delta.upper
    if sum(small * big for small, big in pairwise(cell.widths)) <= MOST_WEIGHTS:
        quantities["lemma2_on"] = max(_lemma_2_error(layers, problem) for layers in turned[:2])
        quantities["lemma2_off"] = max(_lemma_2_error(layers, problem) for layers in random[:2])
    some = [*random, *turned, *_worst_layers(cell, bounds[0])]
    ratios = [float(hessian_trace(layers, stack)) / (2.0 * float(balanced_norms(layers))) for layers in some]
    quantities |= {"lemma3_low": min(ratios), "lemma3_high": max(ratios)}
    layers = balanced_factorization(truth, cell.depth, cell.width)
    bound = float(balanced_minimum(truth, cell.depth))
    quantities["lemma4_excess"] = float(balanced_norms(layers)) / bound - 1.0
    quantities["lemma4_product"] = _relative_error(end_to_end(layers).numpy(), truth)
    quantities["lemma4_others"] = min(float(balanced_norms(others)) for others in turned) / bound - 1.0
    matrices = [truth, *(delta.witness for delta in bounds), *_random_matrices(stream, cell)]
    quantities["lemma5_left"] = max(_lemma_5_left(matrix, stack) for matrix in matrices)
    if cell.rank <= LARGEST_RANK:
        quantities |= _regularizer(cell, truth, stack)
    finite = all(np.isfinite(value) for value in quantities.values())
    return {
        "status": "converged" if finite else "budget_exhausted",
        "nuclear_norm_truth": float(np.linalg.svdvals(truth).sum()),
        "quantities": quantities,
    }, []


def _random_layers(stream: Stream, widths: Sequence[int], draw: int) -> list[Array]:
    """Gaussian layers; every third set of rank 1, where the trace strays farthest from its mean."""
    layers = []
    for j, (small, big) in enumerate(pairwise(widths)):
        row = np.array([_LAYERS + draw * (len(widths) - 1) + j])
        if draw % 3 == 0:
            entries = stream.normals(row, small + big)[0]
            layers.append(np.outer(entries[:big], entries[big:]))
        else:
            layers.append(stream.normals(row, small * big).reshape(big, small) / np.sqrt(small))
    return layers


def _turned(stream: Stream, cell: Cell, matrix: Array, draw: int) -> list[Array]:
    """Layers with this product: the balanced ones with an invertible matrix and its inverse between neighbours."""
    layers = [layer.numpy() for layer in balanced_factorization(matrix, cell.depth, cell.width)]
    for j, width in enumerate(cell.width):
        row = np.array([_TURNS + draw * len(cell.width) + j])
        turn = np.eye(width) + 0.3 * stream.normals(row, width * width).reshape(width, width) / np.sqrt(width)
        layers[j] = turn @ layers[j]
        layers[j + 1] = np.linalg.solve(turn.T, layers[j + 1].T).T
    return layers


def _random_matrices(stream: Stream, cell: Cell) -> list[Array]:
    """Gaussian matrices of rank 1, 2, ..., over and over."""
    matrices = []
    for draw in range(DRAWS):
        rank = 1 + draw % min(cell.d_out, cell.d_in)
        entries = stream.normals(np.array([_MATRICES + draw]), rank * (cell.d_out + cell.d_in))[0]
        left, right = np.split(entries, [rank * cell.d_out])
        matrices.append(left.reshape(cell.d_out, rank) @ right.reshape(rank, cell.d_in))
    return matrices


def _lemma_2_error(layers: Sequence[Array], problem: Problem[Array]) -> float:
    """Relative difference between Lemma 2's sum and the trace of the Hessian by automatic differentiation."""
    shapes = [layer.shape for layer in layers]
    sizes = [layer.size for layer in layers]
    stack, labels = torch.from_numpy(np.array(problem.measurements)), torch.from_numpy(np.array(problem.labels))

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = [part.reshape(shape) for part, shape in zip(torch.split(vector, sizes), shapes, strict=True)]
        return ((torch.einsum("iab,ab->i", stack, end_to_end(parts)) - labels) ** 2).mean()

    point = torch.from_numpy(np.concatenate([layer.ravel() for layer in layers]))
    hessian: Any = torch.autograd.functional.hessian(loss, point)  # type: ignore[no-untyped-call]
    exact = float(torch.trace(hessian))
    return abs(float(hessian_trace(layers, problem.measurements)) - exact) / abs(exact)


def _worst_layers(cell: Cell, bound: IsometryBounds) -> list[list[Array]]:
    """Layers whose trace is that of the worst rank-1 matrix alone: from depth 3 on Lemma 3 is sharp at them.

    With W_1 = e y^T, W_L = x e^T, the layers between e e^T except one that is zero, only the term that leaves the zero
    layer out is left.
    """
    if cell.depth < 3:
        return []
    left, spectrum, right = np.linalg.svd(bound.witness)
    layers = [np.zeros((big, small)) for small, big in pairwise(cell.widths)]
    for layer in layers[2:]:
        layer[0, 0] = 1.0
    layers[0][0] = spectrum[0] * right[0]
    layers[-1][:, 0] = left[:, 0]
    return [layers]


def _lemma_5_left(matrix: Array, stack: Array) -> float:
    form = float(np.mean(np.einsum("iab,ab->i", stack, matrix) ** 2))
    return abs(form - frobenius_norm(matrix) ** 2) / float(np.linalg.svd(matrix, compute_uv=False).sum()) ** 2


def _regularizer(cell: Cell, truth: Array, stack: Array) -> dict[str, float]:
    """F(M*) optimised, and by Theorem 5 or 7 where one applies."""
    optimised = induced_regularizer(truth, stack, cell.depth, "optimise")
    quantities = {"regularizer": optimised.value, "attained": float(optimised.attained)}
    if cell.depth == 2 or len(stack) == 1:
        closed = induced_regularizer(truth, stack, cell.depth)
        quantities["closed_form"] = closed.value
        if closed.layers is not None:
            layers = [layer.numpy() for layer in closed.layers]
            quantities["closed_trace"] = float(hessian_trace(layers, stack))
            quantities["closed_product"] = _relative_error(end_to_end(layers), truth)
    return quantities


def _relative_error(found: Array, truth: Array) -> float:
    return frobenius_norm(found - truth) / frobenius_norm(truth)
