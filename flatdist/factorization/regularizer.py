"""Flatness as a function of the end-to-end matrix: R(W), Lemma 4's minimiser, and the induced regularizer F(M).

    F(M) = inf { tr Hess L(W) : W_L ... W_1 = M }                                          (Definition 1)

Theorem 5 gives F for two layers and Theorem 7 for one measurement. In general, for M of rank r, let
P_j = W_L ... W_{j+1} and X_j = P_j P_j^T. Layers of rank r suffice: going down from W_L, cut out of each W_j what
W_{j+1} does not read (no P_k changes, W_j ... W_1 shrinks), then going up from W_1 cut out of each W_{j+1} what
W_j ... W_1 does not reach; no term of Lemma 2's sum can grow. Then

    (W_{j-1} ... W_1)^T (W_{j-1} ... W_1) = M^T X_{j-1}^+ M,

    F(M) / 2 = min over X_1, ..., X_{L-1} of sum_{j=1}^{L} (1/n) sum_i tr( A_i (M^T X_{j-1}^+ M) A_i^T X_j ),

with X_L = I and M^T X_0^+ M = I. The X_j are free positive definite matrices on the column space of M, each term is a
trace against X_j (x) X_{j-1}^{-1}, and such traces are convex along the geodesics X(t) = G exp(t S) G^T of positive
definite matrices: sums of exponentials of t with weights of at least 0. So F(M) has no local minimum but the global
one, at any depth and for any measurements, and a Newton iteration along geodesics finds it. (Descending on layers
instead may stop at layers that have lost rank.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from flatdist.errors import SolverError
from flatdist.factorization.geodesics import RANK, minimise_along_geodesics, thin_svd
from flatdist.factorization.products import all_widths, partial_products
from flatdist.types import Array

Formula = Literal["auto", "theorem 5", "theorem 7", "optimise"]


@dataclass(frozen=True)
class InducedRegularizer:
    """F(M) of one matrix.

    Attributes:
        value: the infimum, in units of the trace of the Hessian.
        attained: whether some layers have this trace; otherwise sequences that approach it escape to infinity.
        layers: the minimiser where attained, W_1 ... W_L with hidden widths rank M; otherwise None.
        formula: ``theorem 5``, ``theorem 7`` or ``optimise``: where the value comes from.
    """

    value: float
    attained: bool
    layers: list[torch.Tensor] | None
    formula: str


def balanced_norms(layers: Sequence[torch.Tensor | Array]) -> torch.Tensor:
    """R(W) of (10), the trace of the Hessian over 2 for ideal measurements (delta = 0).

    R(W) = d_in ||W_L...W_2||_F^2 + sum_{j=2}^{L-1} ||W_L...W_{j+1}||_F^2 ||W_{j-1}...W_1||_F^2
           + d_out ||W_{L-1}...W_1||_F^2, shape (...), float64, for layers (..., d_j, d_{j-1}).
    """
    tensors = [torch.as_tensor(layer).to(torch.float64) for layer in layers]
    d_in, d_out = tensors[0].shape[-1], tensors[-1].shape[-2]
    total = torch.zeros(tensors[0].shape[:-2], dtype=torch.float64)
    for left, right in zip(*partial_products(tensors), strict=True):
        by_left = d_out if left is None else left.square().sum((-2, -1))
        by_right = d_in if right is None else right.square().sum((-2, -1))
        total = total + by_left * by_right
    return total


def balanced_minimum(matrix: torch.Tensor | Array, depth: int) -> torch.Tensor:
    """Lemma 4's bound (12): min { R(W) : W_L ... W_1 = M } = L (d_in d_out)^{1/L} ||M||_*^{2(L-1)/L}, (...,)."""
    tensor = torch.as_tensor(matrix).to(torch.float64)
    d_out, d_in = tensor.shape[-2:]
    nuclear = torch.linalg.matrix_norm(tensor, ord="nuc")
    bound: torch.Tensor = depth * (d_in * d_out) ** (1.0 / depth) * nuclear ** (2.0 * (depth - 1) / depth)
    return bound


def balanced_factorization(
    matrix: torch.Tensor | Array, depth: int, width: int | Sequence[int] | None = None
) -> list[torch.Tensor]:
    """Layers that attain Lemma 4's minimum of R(W) at a matrix.

    With M = U Lambda V^T: W_1 = a Lambda^{1/2} V^T, W_L = e U Lambda^{1/2} and middle layers c times the identity (a
    partial isometry once padded), with a, c, e such that the product is M and the L terms of (10) are equal.

    Args:
        matrix: M, (..., d_out, d_in), not zero.
        depth: L, at least 2.
        width: one hidden width or depth - 1 of them, at least min(d_out, d_in); default max(d_out, d_in).

    Returns:
        W_1 ... W_L, each (..., d_j, d_{j-1}), float64.

    Raises:
        SolverError: the depth or the widths are invalid.

    Example:
        >>> import numpy as np
        >>> from flatdist import balanced_factorization, end_to_end
        >>> layers = balanced_factorization(np.diag([8.0, 1.0]), depth=3)
        >>> end_to_end(layers).round(decimals=6).tolist()
        [[8.0, 0.0], [0.0, 1.0]]
    """
    tensor = torch.as_tensor(matrix).to(torch.float64)
    d_out, d_in = tensor.shape[-2:]
    small = min(d_out, d_in)
    widths = all_widths(depth, width, d_out, d_in, "balanced_factorization")
    u, spectrum, vh = torch.linalg.svd(tensor, full_matrices=False)
    nuclear = spectrum.sum(-1)[..., None, None]
    root = spectrum.sqrt()
    # The terms of (10) are d_in e^2 c^{2L-4} nuc, e^2 a^2 c^{2L-6} nuc^2 for each middle layer, d_out a^2 c^{2L-4} nuc.
    # They are equal, and a e c^{L-2} = 1, where c^L = nuc / sqrt(d_in d_out) and e/a = sqrt(d_out / d_in).
    middle = torch.where(nuclear > 0.0, (nuclear / (d_in * d_out) ** 0.5) ** (1.0 / depth), 1.0)
    share = middle ** (-(depth - 2) / 2.0)
    cores = [share * (d_in / d_out) ** 0.25 * root[..., :, None] * vh]
    cores += [middle * torch.eye(small, dtype=torch.float64, device=tensor.device)] * (depth - 2)
    cores.append(share * (d_out / d_in) ** 0.25 * u * root[..., None, :])
    return [
        torch.nn.functional.pad(core, (0, less - core.shape[-1], 0, big - core.shape[-2]))
        for core, (less, big) in zip(cores, pairwise(widths), strict=True)
    ]


def induced_regularizer(
    matrix: torch.Tensor | Array, measurements: torch.Tensor | Array, depth: int, formula: Formula = "auto"
) -> InducedRegularizer:
    """The induced regularizer F(M) of Definition 1, (4) and (7): the least trace among all layers with product M.

    Args:
        matrix: M, (d_out, d_in).
        measurements: (n, d_out, d_in).
        depth: L, at least 2.
        formula: ``auto`` uses Theorem 5 for two layers, Theorem 7 for one measurement, and otherwise optimises; a name
            chooses one of them, to compare.

    Returns:
        The infimum, whether it is attained, and a minimiser.

    Raises:
        SolverError: the shapes do not fit, or the formula does not apply.

    Example:
        >>> import numpy as np
        >>> from flatdist import induced_regularizer
        >>> induced_regularizer(np.diag([3.0, 1.0]), np.eye(4).reshape(4, 2, 2), depth=2).attained
        True
    """
    target = torch.as_tensor(matrix).to(torch.float64).numpy()
    stack = torch.as_tensor(measurements).to(torch.float64).numpy()
    if target.ndim != 2 or stack.ndim != 3 or stack.shape[1:] != target.shape or not len(stack):
        raise SolverError(
            f"induced_regularizer: a matrix of shape {target.shape} and measurements of shape {stack.shape} do not fit"
            "; give (d_out, d_in) and (n, d_out, d_in) with n >= 1"
        )
    if depth < 2:
        raise SolverError(f"induced_regularizer: depth is {depth}; a factorization has at least 2 layers")
    if formula == "auto":
        formula = "theorem 5" if depth == 2 else "theorem 7" if len(stack) == 1 else "optimise"
    if (formula == "theorem 5" and depth != 2) or (formula == "theorem 7" and len(stack) != 1):
        raise SolverError(
            f"induced_regularizer: {formula} needs {'depth 2' if formula == 'theorem 5' else 'one measurement'}; here "
            f"depth is {depth} and n is {len(stack)}. Use formula='auto' or 'optimise'"
        )
    if not target.any():
        return InducedRegularizer(0.0, True, balanced_factorization(target, depth), formula)
    solve = {"theorem 5": _theorem_5, "theorem 7": _theorem_7, "optimise": minimise_along_geodesics}[formula]
    value, found = solve(target, stack, depth)
    layers = None if found is None else [torch.from_numpy(np.ascontiguousarray(layer)) for layer in found]
    return InducedRegularizer(value, layers is not None, layers, formula)


def _theorem_5(matrix: Array, stack: Array, depth: int) -> tuple[float, list[Array] | None]:
    """F(M) = 4 || S_out^{1/2} M S_in^{1/2} ||_*; attained where no part of M is invisible to the measurements."""
    assert depth == 2
    columns, spectrum, rows = thin_svd(matrix)
    # On the column and row space of M the weights are invertible where the infimum is attained.
    seen_out, seen_in = columns.T @ stack, stack @ rows.T
    out = _square_roots(np.einsum("iab,icb->ac", seen_out, seen_out) / len(stack))
    into = _square_roots(np.einsum("iab,iac->bc", seen_in, seen_in) / len(stack))
    u, weighted, vh = np.linalg.svd((out[0] * spectrum) @ into[0])
    value = 4.0 * float(weighted.sum())
    if out[1] is None or into[1] is None:
        return value, None
    root = np.sqrt(weighted)
    return value, [root[:, None] * (vh @ into[1] @ rows), columns @ out[1] @ u * root]


def _theorem_7(matrix: Array, stack: Array, depth: int) -> tuple[float, list[Array] | None]:
    """F(M) = 2L || (A^T M)^{L-1} A^T ||_{S_{2/L}}^{2/L}; attained where K = (A^T M)^{L-1} A^T has the rank of M."""
    measurement = stack[0]
    if matrix.shape[0] > matrix.shape[1]:
        value, layers = _theorem_7(matrix.T, stack.transpose(0, 2, 1), depth)
        return value, None if layers is None else [layer.T for layer in reversed(layers)]
    frame, spectrum, _ = thin_svd(matrix)
    rank = len(spectrum)
    left, scaled, _ = np.linalg.svd(np.linalg.matrix_power(measurement.T @ matrix, depth - 1) @ measurement.T)
    kept = scaled[:rank]
    value = 2.0 * depth * float(np.sum(kept ** (2.0 / depth)))
    if len(kept) < rank or kept[-1] <= RANK ** (depth / 2.0) * kept[0] or kept[0] == 0.0:
        return value, None
    # S_j = (M A^T)^{-(j-1)} (A^T)^+ U s^j with K = U s^L V^T and the inverse taken on the column space of M.
    scale = kept ** (1.0 / depth)
    core = np.linalg.inv(frame.T @ matrix @ measurement.T @ frame)
    reach = frame.T @ np.linalg.pinv(measurement.T) @ left[:, :rank]
    blocks = [frame @ (np.linalg.matrix_power(core, j - 1) @ reach * scale**j) for j in range(1, depth)]
    layers = [np.linalg.pinv(blocks[0]) @ matrix]
    layers += [np.linalg.pinv(after) @ before for before, after in pairwise(blocks)]
    return value, [*layers, blocks[-1]]


def _square_roots(symmetric: Array) -> tuple[Array, Array | None]:
    """The square root of a positive semidefinite matrix, and its inverse where it has one."""
    values, vectors = np.linalg.eigh(symmetric)
    root = np.sqrt(np.maximum(values, 0.0))
    inverse = (vectors / root) @ vectors.T if values[0] > RANK * values[-1] else None
    return (vectors * root) @ vectors.T, inverse
