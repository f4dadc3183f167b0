"""Measurements that look at one entry each, A_i = sqrt(d_out d_in) e_a e_b^T: two integers each."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from flatdist.sensing.measurements.base import Measurements
from flatdist.types import Array


class Entries(Measurements):
    """a_i in ``rows`` and b_i in ``columns``, (n,) integers each.

    The factor sqrt(d_out d_in) makes the mean of <A, X>^2 over all entries ||X||_F^2, as it is for independent entries
    of variance 1: learning rates, noise and losses keep their meaning.
    """

    def __init__(self, rows: Any, columns: Any, shape: tuple[int, int], dtype: Any = np.float64) -> None:
        self.rows, self.columns = rows, columns
        self._shape, self._dtype = shape, dtype
        self.scale = float(np.sqrt(shape[0] * shape[1]))

    @classmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        return cls(np.zeros(n, np.int32), np.zeros(n, np.int32), (d_out, d_in), np.dtype(dtype))

    @classmethod
    def row_bytes(cls, d_out: int, d_in: int, dtype: str) -> int:
        return 2 * np.dtype(np.int32).itemsize

    def put(self, start: int, block: Self) -> None:
        self.rows[start : start + len(block)] = block.rows
        self.columns[start : start + len(block)] = block.columns

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def dtype(self) -> Any:
        return self._dtype

    def select(self, rows: Any) -> Measurements:
        return Entries(self.rows[rows], self.columns[rows], self._shape, self._dtype)

    def tensors(self, dtype: Any) -> Measurements:
        import torch

        rows, columns = (torch.tensor(places).to(torch.int64) for places in (self.rows, self.columns))
        return Entries(rows, columns, self._shape, dtype)

    def dense(self) -> Any:
        whole = np.zeros((len(self), *self._shape), dtype=self._dtype)
        whole[np.arange(len(self)), self.rows, self.columns] = self.scale
        return whole

    def apply(self, matrix: Any) -> Any:
        return self.scale * matrix[..., self.rows, self.columns]

    def row_sums(self, matrix: Array) -> Array:
        sums: Array = self.apply(matrix)
        return sums

    def adjoint(self, weights: Any) -> Any:
        flat = self.rows.astype(np.int64) * self._shape[1] + self.columns
        total = np.bincount(flat, weights=weights, minlength=self._shape[0] * self._shape[1])
        return self.scale * total.reshape(self._shape)

    def compress(self, left: Any | None, right: Any | None) -> Any:
        by_row, by_column = self._lines(left, right)
        return self.scale * by_row[:, :, None] * by_column[:, None, :]

    def squares(self, left: Any | None, right: Any | None) -> Any:
        product = 1.0
        if left is not None:
            product = product * (left * left).sum(-1)[..., self.rows]  # (..., n)
        if right is not None:
            product = product * (right * right).sum(-2)[..., self.columns]
        total = len(self) if isinstance(product, float) else product.sum(-1)
        return self.scale**2 * total

    def squares_gradient(self, left: Array | None, right: Array | None) -> tuple[float, Array | None, Array | None]:
        d_out, d_in = self._shape
        by_row = np.ones(d_out) if left is None else np.vecdot(left, left)  # ||row a of P||^2
        by_column = np.ones(d_in) if right is None else (right * right).sum(axis=0)
        rows, columns = by_row[self.rows], by_column[self.columns]  # (n,)
        square = self.scale**2
        by_left = by_right = None
        if left is not None:
            by_left = square * np.bincount(self.rows, weights=columns, minlength=d_out)[:, None] * left
        if right is not None:
            by_right = square * right * np.bincount(self.columns, weights=rows, minlength=d_in)
        return square * float(rows @ columns), by_left, by_right

    def second_moments(self, dtype: Any = None) -> tuple[Array, Array]:
        share = self.scale**2 / len(self)
        d_out, d_in = self._shape
        s_out = np.diag(share * np.bincount(self.rows, minlength=d_out))
        return s_out, np.diag(share * np.bincount(self.columns, minlength=d_in))

    def _lines(self, left: Any | None, right: Any | None) -> tuple[Any, Any]:
        """Row a_i of P and column b_i of Q, (n, k) and (n, l)."""
        d_out, d_in = self._shape
        by_row = np.eye(d_out)[self.rows] if left is None else left[self.rows]
        by_column = np.eye(d_in)[self.columns] if right is None else right.T[self.columns]
        return by_row, by_column
