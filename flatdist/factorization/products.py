"""Deep matrix factorization M = W_L ... W_1: products, derivatives through them, widths, initial layers.

Functions of layers accept numpy arrays and torch tensors, with any leading axes: ``layers[j]`` is W_{j+1}, of shape
(..., d_{j+1}, d_j), with d_0 = d_in and d_L = d_out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.errors import SolverError
from flatdist.sensing.draws import Stream
from flatdist.sensing.draws.stream import INITIALISATION
from flatdist.types import Array

Matrix = TypeVar("Matrix")


def end_to_end(layers: Sequence[Matrix]) -> Matrix:
    """The end-to-end matrix W_L ... W_1 (equation 1), shape (..., d_out, d_in).

    Example:
        >>> import numpy as np
        >>> from flatdist import end_to_end
        >>> end_to_end([np.ones((2, 3)), np.ones((1, 2))]).tolist()  # W_2 W_1
        [[2.0, 2.0, 2.0]]
    """
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product  # type: ignore[operator]
    return product


def partial_products(layers: Sequence[Matrix]) -> tuple[list[Matrix | None], list[Matrix | None]]:
    """The factors to the left and to the right of each layer in the end-to-end product.

    Returns:
        ``left[j]`` = W_L ... W_{j+2}, shape (..., d_out, d_{j+1}), None for the last layer (an empty product), and
        ``right[j]`` = W_j ... W_1, shape (..., d_j, d_in), None for the first layer; j counts from 0.
    """
    depth = len(layers)
    left: list[Matrix | None] = [None] * depth
    right: list[Matrix | None] = [None] * depth
    for j in range(1, depth):
        right[j] = layers[0] if j == 1 else layers[j - 1] @ right[j - 1]  # type: ignore[operator]
        k = depth - 1 - j
        left[k] = layers[-1] if j == 1 else left[k + 1] @ layers[k + 1]  # type: ignore[operator]
    return left, right


def prediction_jacobian(layers: Sequence[Array], stack: Array) -> Array:
    """d<A_i, W_L ... W_1>/dW for the A_i of a stack (n, d_out, d_in): (n, weights), W_1 first."""
    blocks = []
    for left, right in zip(*partial_products(layers), strict=True):
        block = stack if left is None else left.T @ stack
        block = block if right is None else block @ right.T
        blocks.append(block.reshape(len(block), -1))
    return np.concatenate(blocks, axis=1)


def pulled_back(
    layers: Sequence[Array],
    products: tuple[list[Array | None], list[Array | None]],
    by_left: Sequence[Array | float],
    by_right: Sequence[Array | float],
) -> list[Array]:
    """Gradients in the layers from those in ``products``, their :func:`partial_products`; 0 where that is None."""
    lefts, rights = products
    gradients: list[Array] = [np.zeros_like(layer) for layer in layers]
    pulled = by_left[0]
    for j in range(1, len(layers)):  # lefts[j - 1] = lefts[j] W_{j+1}
        left = lefts[j]
        gradients[j] = gradients[j] + (pulled if left is None else left.T @ pulled)
        pulled = 0.0 if left is None else by_left[j] + pulled @ layers[j].T
    pulled = by_right[-1]
    for j in range(len(layers) - 2, -1, -1):  # rights[j + 1] = W_{j+1} rights[j]
        right = rights[j]
        gradients[j] = gradients[j] + (pulled if right is None else pulled @ right.T)
        pulled = 0.0 if right is None else by_right[j] + layers[j].T @ pulled
    return gradients


def all_widths(depth: int, width: int | Sequence[int] | None, d_out: int, d_in: int, where: str) -> tuple[int, ...]:
    """Layer widths d_0 ... d_L from one hidden width or depth - 1 of them, by default max(d_out, d_in), checked.

    Raises:
        SolverError: there are fewer than 2 layers, the number of widths is wrong, or one is below min(d_out, d_in).
    """
    if depth < 2:
        raise SolverError(f"{where}: depth is {depth}; a factorization has at least 2 layers")
    if width is None:
        width = max(d_out, d_in)
    hidden = tuple(width) if isinstance(width, Sequence) else (width,) * (depth - 1)
    if len(hidden) != depth - 1:
        raise SolverError(
            f"{where}: width has {len(hidden)} entries {list(hidden)}; depth {depth} has {depth - 1} hidden layers. "
            "Give one number, or one for each"
        )
    if min(hidden) < min(d_out, d_in):
        raise SolverError(
            f"{where}: hidden width {min(hidden)} is smaller than min(d_out, d_in) = {min(d_out, d_in)}, so the layers "
            "cannot reach every matrix; give hidden widths of at least that"
        )
    return (d_in, *(int(one) for one in hidden), d_out)


def initial_layers(cell: Cell, replicate: int, drawn: Sequence[Array] | None = None) -> list[Array]:
    """Starting layers of one replicate, float64, from its stream's normals unless ``drawn`` holds those of each layer.

    ``gaussian``: W_j ~ N(0, init_scale^2 / d_{j-1}).

    ``symmetric``: with V, O_j, U uniformly distributed with orthonormal columns, and rows of U, and s = init_scale,

        W_1 = s / sqrt(2) [V; V],   W_j = s diag(O_j, O_j),   W_L = s / sqrt(2) [U, -U].

    The product is 0, and a small step on the layers moves it along s^{2(L-1)} L times the loss's gradient, the same in
    every direction. So as s grows, gradient descent ends at the interpolator of minimum Frobenius norm (Chizat,
    Oyallon, Bach 2019).

    They depend only on the problem, the replicate and the shape, so methods are compared from the same initialization,
    which ``init_scale`` only scales.
    """
    stream = Stream.named(cell.problem_stream(), replicate, INITIALISATION)
    symmetric, depth, layers = cell.init == "symmetric", cell.depth, []

    def normals(j: int, rows: int, columns: int) -> Array:
        of_layer = stream.normals(np.array([j]), rows * columns) if drawn is None else drawn[j][: rows * columns]
        return of_layer.reshape(rows, columns)

    for j, (fan_in, fan_out) in enumerate(zip(cell.widths[:-1], cell.widths[1:], strict=True)):
        if symmetric:
            rows, columns = (fan_out if j == depth - 1 else fan_out // 2), (fan_in // 2 if j else fan_in)
            half = cell.init_scale * _orthogonal(normals(j, rows, columns))
            empty = np.zeros_like(half)
            ends = {0: [[half], [half]], depth - 1: [[half, -half]]}
            blocks = ends.get(j, [[half, empty], [empty, half]])
            layers.append(np.block(blocks) * (np.sqrt(0.5) if j in ends else 1.0))
        else:
            layers.append(cell.init_scale / np.sqrt(fan_in) * normals(j, fan_out, fan_in))
    return layers


def _orthogonal(normals: Array) -> Array:
    """The matrix with orthonormal columns or rows that normal entries make uniformly distributed."""
    if len(normals) < normals.shape[1]:
        return _orthogonal(normals.T).T
    q, r = np.linalg.qr(normals)
    return np.asarray(q * np.sign(np.diag(r)))
