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

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flatdist.factorization import partial_products
from flatdist.types import Array


def hessian_trace(layers: Sequence[Any], measurements: Any) -> Any:
    """Trace of the Hessian of the training loss, Lemma 2's sum.

    Args:
        layers: W_1 ... W_L as numpy arrays or torch tensors, ``layers[j]`` of shape (..., d_{j+1}, d_j).
        measurements: (..., n, d_out, d_in), of the same kind.

    Returns:
        Shape (...): the trace, in units of the squared labels over the squared weights.
    """
    n = measurements.shape[-3]
    total = 0.0
    for left, right in zip(*partial_products(layers), strict=True):
        block = measurements if left is None else left[..., None, :, :].mT @ measurements
        block = block if right is None else block @ right[..., None, :, :].mT  # (..., n, d_j, d_{j-1})
        total = total + (block * block).sum((-3, -2, -1))
    return total * (2.0 / n)


class MomentTrace:
    """Lemma 2's trace for many layers of one problem, from moments of its measurements gathered once.

    The outer terms cost O(d^2) each. A middle term is the bilinear form x^T H y of the packed symmetric matrices X_j
    and Y_j, where H packs the fourth moments (1/n) sum_i A_i (x) A_i: O(d_out^2 d_in^2 / 4) instead of O(n d^3). Where
    H would cost more to gather than it saves, middle terms are contracted with the measurements themselves.
    """

    def __init__(self, measurements: Array, depth: int, evaluations: int) -> None:
        """Gather the moments.

        Args:
            measurements: (n, d_out, d_in), float or int8.
            depth: number of layers that will be given.
            evaluations: how many traces will be asked for.
        """
        self.n, self.d_out, self.d_in = measurements.shape
        self.measurements = measurements
        self.s_out = np.zeros((self.d_out, self.d_out))
        self.s_in = np.zeros((self.d_in, self.d_in))
        for block in _blocks(measurements):
            by_row = block.transpose(1, 0, 2).reshape(self.d_out, -1)
            by_column = block.transpose(2, 0, 1).reshape(self.d_in, -1)
            self.s_out += by_row @ by_row.T / self.n
            self.s_in += by_column @ by_column.T / self.n
        contracted, gathered = _middle_costs(self.n, self.d_out, self.d_in, depth, evaluations)
        self.fourth = self._gather_fourth() if gathered < contracted else None

    def __call__(self, layers: Sequence[Array]) -> Array:
        """The trace at each of several sets of layers, float64 (sets, d_{j+1}, d_j) each; returns (sets,)."""
        lefts, rights = partial_products(layers)
        total: Array = np.sum((lefts[0] @ lefts[0].mT) * self.s_out, axis=(-2, -1))  # type: ignore[union-attr]
        total += np.sum((rights[-1].mT @ rights[-1]) * self.s_in, axis=(-2, -1))  # type: ignore[union-attr]
        for left, right in zip(lefts[1:-1], rights[1:-1], strict=True):
            total += self._middle(left @ left.mT, right.mT @ right)  # type: ignore[union-attr]
        total *= 2.0
        return total

    def _middle(self, x: Array, y: Array) -> Array:
        """<X, (1/n) sum_i A_i Y A_i^T> for each of several X and Y."""
        if self.fourth is not None:
            term: Array = np.sum((_pack(x) @ self.fourth) * _pack(y), axis=-1)
            return term
        total = np.zeros(len(x))
        for block in _blocks(self.measurements):
            for k in range(len(x)):
                total[k] += np.vdot(np.matmul(x[k], block), np.matmul(block, y[k]))
        total /= self.n
        return total

    def _gather_fourth(self) -> Array:
        """H[(a,b), (c,e)] = (1/n) sum_i A_i[a,c] A_i[b,e], symmetrised, over pairs a <= b and c <= e."""
        entries = self.d_out * self.d_in
        gram = np.zeros((entries, entries))
        for block in _blocks(self.measurements):
            flat = block.reshape(len(block), entries)
            gram += flat.T @ flat
        pairs = gram.reshape(self.d_out, self.d_in, self.d_out, self.d_in).transpose(0, 2, 1, 3)  # [a, b, c, e]
        a, b = np.triu_indices(self.d_out)
        c, e = np.triu_indices(self.d_in)
        upper = pairs[a, b]  # (pairs out, d_in, d_in)
        packed: Array = upper[:, c, e] + upper[:, e, c]
        packed /= 2.0 * self.n
        return packed


def trace_cost(n: int, d_out: int, d_in: int, depth: int, evaluations: int) -> int:
    """Floating-point operations of asking a :class:`MomentTrace` for so many traces, its moments included."""
    outer = 4 * d_out * d_in * (n * max(d_out, d_in) + evaluations * depth * max(d_out, d_in))
    return outer + min(_middle_costs(n, d_out, d_in, depth, evaluations))


def _middle_costs(n: int, d_out: int, d_in: int, depth: int, evaluations: int) -> tuple[int, int]:
    """Operations of all middle terms, contracted with the measurements each time or with gathered fourth moments."""
    entries, terms = d_out * d_in, (depth - 2) * evaluations
    contracted = 2 * n * entries * (d_out + d_in) * terms
    return contracted, 2 * n * entries**2 + entries**2 // 2 * terms if terms else contracted


def _pack(symmetric: Array) -> Array:
    """Upper triangles of symmetric matrices (..., d, d), off-diagonal entries doubled: sums over a <= b count both."""
    rows, columns = np.triu_indices(symmetric.shape[-1])
    return symmetric[..., rows, columns] * np.where(rows == columns, 1.0, 2.0)


def _blocks(measurements: Array, entries: int = 2**18) -> Iterator[Array]:
    """The measurements in float64 blocks of bounded size: int8 and float32 are never converted whole."""
    rows = max(1, entries // measurements[0].size)
    for start in range(0, len(measurements), rows):
        yield measurements[start : start + rows].astype(np.float64)
