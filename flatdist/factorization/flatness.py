"""Flatness: the trace of the training loss's Hessian (Lemma 2 of Gatmiry et al. 2023).

    tr Hess L(W) = (2/n) sum_i sum_j || (W_L ... W_{j+1})^T A_i (W_{j-1} ... W_1)^T ||_F^2

With X_j = P P^T, P = W_L ... W_{j+1}, and Y_j = Q^T Q, Q = W_{j-1} ... W_1, the j-th term is the linear form
2 <X_j, (1/n) sum_i A_i Y_j A_i^T> of the measurements' second moments: the outer terms need only
S_out = (1/n) sum_i A_i A_i^T and S_in = (1/n) sum_i A_i^T A_i.

Away from interpolation the Hessian has a further term, (2/n) sum_i (<A_i, M> - b_i) Hess <A_i, M>. Its trace is zero,
since M is linear in each layer: the second derivative of <A_i, M> in any one weight vanishes. So Lemma 2's sum is the
trace at every W, interpolating or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flatdist.factorization.products import partial_products, pulled_back
from flatdist.sensing.measurements import BLOCK_ENTRIES, Dense, Measurements, as_measurements
from flatdist.types import Array

VANISHING = 1e-140  # of J J^T: its square has no float, and the layers are zero for all that matters


def hessian_trace(layers: Sequence[Any], measurements: Any) -> Any:
    """Trace of the Hessian of the training loss, Lemma 2's sum.

    Args:
        layers: W_1 ... W_L as numpy arrays or torch tensors, ``layers[j]`` of shape (..., d_{j+1}, d_j).
        measurements: (..., n, d_out, d_in), of the same kind, or as an ensemble stores them.

    Returns:
        Shape (...): the trace, in units of the squared labels over the squared weights.

    Example:
        >>> import numpy as np
        >>> from flatdist import hessian_trace
        >>> float(hessian_trace([np.eye(2)] * 2, np.eye(2)[None]))  # one label, tr(W_2 W_1)
        8.0
    """
    stored = as_measurements(measurements)
    total = 0.0
    for left, right in zip(*partial_products(layers), strict=True):
        total = total + stored.squares(left, right)
    return total * (2.0 / len(stored))


def sharpness(layers: Sequence[Any], measurements: Any) -> float:
    """Largest eigenvalue of the Hessian of the training loss at interpolating layers, (2/n) lambda_max(J J^T).

    J is the Jacobian of the n predictions. The entries of J J^T are sum_j <X_j A_i Y_j, A_k>, with X_j and Y_j of the
    module's docstring, so a product with it costs one pass over the measurements; the Lanczos iteration needs a few
    dozen. Away from interpolation this is the Gauss-Newton part of the Hessian.

    Args:
        layers: W_1 ... W_L, one set, numpy or torch.
        measurements: (n, d_out, d_in), or as an ensemble keeps them.

    Example:
        >>> import numpy as np
        >>> from flatdist import sharpness
        >>> round(sharpness([np.eye(2)] * 2, np.eye(2)[None]), 3)  # one label, tr(W_2 W_1): J has 4 entries of 1
        8.0
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    stored, arrays = as_measurements(measurements), [np.asarray(layer, dtype=np.float64) for layer in layers]
    if not isinstance(measurements, Measurements):
        stored = as_measurements(np.asarray(measurements))
    factors = [
        (None if left is None else left @ left.T, None if right is None else right.T @ right)
        for left, right in zip(*partial_products(arrays), strict=True)
    ]
    n = len(stored)

    def product(vector: Array) -> Array:
        pulled = np.asarray(stored.adjoint(vector.reshape(n)), dtype=np.float64)
        moved = np.zeros_like(pulled)
        for outer, inner in factors:
            part = pulled if outer is None else outer @ pulled
            moved += part if inner is None else part @ inner
        return np.asarray(stored.apply(moved), dtype=np.float64)

    if n <= 3:
        return 2.0 / n * float(np.linalg.eigvalsh(np.array([product(unit) for unit in np.eye(n)]))[-1])
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    start = np.asarray(stored.apply(np.ones(stored.shape)), dtype=np.float64) + 1.0
    if np.abs(product(start)).max() < VANISHING:
        return 0.0
    return 2.0 / n * float(eigsh(operator, k=1, which="LA", v0=start, return_eigenvectors=False)[0])


def second_moments(stack: Array) -> tuple[Array, Array]:
    """S_out and S_in of a stack (n, d_out, d_in)."""
    n = len(stack)
    return np.tensordot(stack, stack, ((0, 2), (0, 2))) / n, np.tensordot(stack, stack, ((0, 1), (0, 1))) / n


def trace_gradient(layers: Sequence[Array], measurements: Array | Measurements) -> tuple[float, list[Array]]:
    """Lemma 2's trace and its gradient in W_1 ... W_L, for measurements as :func:`hessian_trace` takes them."""
    stored = as_measurements(measurements)
    factor, products = 2.0 / len(stored), partial_products(layers)
    terms = [stored.squares_gradient(left, right) for left, right in zip(*products, strict=True)]
    trace = sum(factor * squares for squares, _, _ in terms)
    by_left = [0.0 if slope is None else 2.0 * factor * slope for _, slope, _ in terms]
    by_right = [0.0 if slope is None else 2.0 * factor * slope for _, _, slope in terms]
    return trace, pulled_back(layers, products, by_left, by_right)


class MomentTrace:
    """Lemma 2's trace for many layers of one problem, from moments of its measurements gathered once.

    The outer terms cost O(d^2) each. A middle term is the bilinear form x^T H y of the packed symmetric matrices X_j
    and Y_j, where H packs the fourth moments (1/n) sum_i A_i (x) A_i: O(d_out^2 d_in^2 / 4) instead of O(n d^3). If H
    costs more to gather than it saves, or if the measurements have a structure that makes their products cheap, middle
    terms are contracted with the measurements themselves.
    """

    def __init__(
        self, measurements: Array | Measurements, depth: int, evaluations: int, dtype: str = "float32"
    ) -> None:
        """Gather the moments of measurements (n, d_out, d_in), or as an ensemble keeps them, for so many evaluations.

        ``dtype`` is the least precision of the sums; float32 sums signs exactly, but not their products with layers.
        """
        self.measurements = as_measurements(measurements)
        self._dtype = np.result_type(self.measurements.dtype, dtype)  # of the measurements, or better
        self.n, (self.d_out, self.d_in) = len(self.measurements), self.measurements.shape
        self.fourth = None
        if isinstance(self.measurements, Dense):
            contracted, gathered = _middle_costs(self.n, self.d_out, self.d_in, depth, evaluations)
            self.fourth = self._gather_fourth(self.measurements) if gathered < contracted else None
        if self.fourth is None:
            self.s_out, self.s_in = self.measurements.second_moments(self._dtype)
        else:  # sums over the fourth moments' diagonal pairs
            self.s_out, self.s_in = np.empty((self.d_out, self.d_out)), np.empty((self.d_in, self.d_in))
            rows, columns = np.triu_indices(self.d_out), np.triu_indices(self.d_in)
            self.s_out[rows] = self.fourth[:, columns[0] == columns[1]].sum(axis=1)
            self.s_in[columns] = self.fourth[rows[0] == rows[1]].sum(axis=0)
            self.s_out.T[rows], self.s_in.T[columns] = self.s_out[rows], self.s_in[columns]

    def __call__(self, layers: Sequence[Array]) -> Array:
        """The trace at each of several sets of layers, float64 (sets, d_{j+1}, d_j) each; returns (sets,)."""
        lefts, rights = partial_products(layers)
        outer = [left @ left.mT for left in lefts if left is not None]  # X_1 ... X_{L-1}
        inner = [right.mT @ right for right in rights if right is not None]  # Y_2 ... Y_L
        sets = len(layers[0])
        total = np.vecdot(outer[0].reshape(sets, -1), self.s_out.ravel())
        total += np.vecdot(inner[-1].reshape(sets, -1), self.s_in.ravel())
        if len(layers) > 2 and isinstance(self.measurements, Dense):
            total += self._middle(self.measurements, np.stack(outer[1:]), np.stack(inner[:-1]))
        elif len(layers) > 2:
            for left, right in zip(lefts[1:-1], rights[1:-1], strict=True):
                assert left is not None
                assert right is not None
                for k in range(sets):  # one at a time: the same bits in any company, and small temporaries
                    total[k] += self.measurements.squares(left[k], right[k]) / self.n
        doubled: Array = 2.0 * total
        return doubled

    def _middle(self, measurements: Dense, x: Array, y: Array) -> Array:
        """The sum over terms of <X, (1/n) sum_i A_i Y A_i^T>; x (terms, sets, d_out, d_out), y alike."""
        terms, sets = x.shape[:2]
        if self.fourth is not None:
            forms = np.vecdot(_pack(x) @ self.fourth, _pack(y))
            return np.asarray(forms.reshape(terms, sets).sum(axis=0))
        total = np.zeros(sets)
        inner = y.astype(self._dtype)
        for block in measurements.blocks(self._dtype, BLOCK_ENTRIES // 4):
            by_row = block.transpose(1, 0, 2).reshape(self.d_out, -1)
            for j, k in np.ndindex(terms, sets):
                if x[j, k].any():  # an empty slot costs nothing
                    weighted = (block.reshape(-1, self.d_in) @ inner[j, k]).reshape(block.shape)  # A_i Y
                    moment = by_row @ weighted.transpose(1, 0, 2).reshape(self.d_out, -1).T  # sum_i A_i Y A_i^T
                    total[k] += np.vdot(x[j, k], moment)
        average: Array = total / self.n
        return average

    def _gather_fourth(self, measurements: Dense) -> Array:
        """H[(a,b), (c,e)] = (1/n) sum_i A_i[a,c] A_i[b,e], symmetrised, over pairs a <= b and c <= e.

        Rows a are taken together as long as the blocks of all their products stay small.
        """
        rows, columns = np.triu_indices(self.d_out), np.triu_indices(self.d_in)
        upper, lower = columns[0] * self.d_in + columns[1], columns[1] * self.d_in + columns[0]
        fourth = np.zeros((len(rows[0]), len(upper)))
        together = max(1, BLOCK_ENTRIES // (self.d_out * self.d_in**2))
        for block in measurements.blocks(self._dtype, 16 * BLOCK_ENTRIES):
            flat = block.reshape(len(block), -1)
            for first in range(0, self.d_out, together):
                start, stop = first * self.d_in, (first + together) * self.d_in
                products = flat[:, start:stop].T @ flat[:, start:]
                products = products.reshape(-1, self.d_in, self.d_out - first, self.d_in)
                chosen = np.flatnonzero((rows[0] >= first) & (rows[0] < first + together))
                pairs = products[rows[0][chosen] - first, :, rows[1][chosen] - first].reshape(len(chosen), -1)
                fourth[chosen] += pairs[:, upper]
                fourth[chosen] += pairs[:, lower]
        fourth /= 2.0 * self.n
        return fourth


def trace_cost(n: int, d_out: int, d_in: int, depth: int, evaluations: int, storage: type[Measurements] = Dense) -> int:
    """Floating-point operations of a :class:`MomentTrace` for this many traces, moments included."""
    if storage.structured:
        return evaluations * depth * n * (d_out**2 + d_in**2) * 2
    outer = 4 * d_out * d_in * (n * max(d_out, d_in) + evaluations * depth * max(d_out, d_in))
    return outer + min(_middle_costs(n, d_out, d_in, depth, evaluations))


def _middle_costs(n: int, d_out: int, d_in: int, depth: int, evaluations: int) -> tuple[int, int]:
    """Operations of all middle terms, contracted with the measurements each time or with gathered fourth moments."""
    entries, terms = d_out * d_in, (depth - 2) * evaluations
    contracted = 2 * n * entries * (d_out + d_in) * terms
    return contracted, 2 * n * entries**2 + entries**2 // 2 * terms if terms else contracted


def _pack(symmetric: Array) -> Array:
    """Upper triangles of symmetric matrices (..., d, d) as rows, off-diagonal entries doubled: sums count both."""
    size = symmetric.shape[-1]
    rows, columns = np.triu_indices(size)
    return symmetric.reshape(-1, size**2)[:, rows * size + columns] * np.where(rows == columns, 1.0, 2.0)


def flatness_terms(
    layers: Sequence[Any], trace: Callable[[Any], Any], squares: Callable[[Any], Any]
) -> tuple[list[Any], list[Any]]:
    """||X_j|| ||Y_j|| (a bound) and tr X_j tr Y_j of each layer, (replicates,).

    Spectral norms are bounded by Schatten 8-norms, which takes two squarings of each X_j and Y_j: exact where one
    direction dominates, as it does at a flat solution of rank one, and at most d^(1/8) too large.

    Args:
        layers: any matrices (replicates, d_{j+1}, d_j) with ``@``, ``/``, ``mT`` and ``shape``.
        trace: of such matrices, (replicates,).
        squares: sum of the squares of their entries, (replicates,).
    """

    def norm_and_trace(square: Any) -> tuple[Any, Any]:
        size = trace(square)
        scale = size.clip(np.finfo(np.float64).tiny)
        power = square / scale[..., None, None]  # of trace 1: no power of it overflows
        power = power @ power
        return scale * squares(power @ power) ** 0.125, size

    tops, traces = [], []
    for left, right in zip(*partial_products(layers), strict=True):  # an empty product is an identity
        outer = (1.0, layers[-1].shape[-2]) if left is None else norm_and_trace(left @ left.mT)
        inner = (1.0, layers[0].shape[-1]) if right is None else norm_and_trace(right.mT @ right)
        tops.append(outer[0] * inner[0])
        traces.append(outer[1] * inner[1])
    return tops, traces
