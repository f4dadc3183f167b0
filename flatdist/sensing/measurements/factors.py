"""Measurements of rank one by their factors, A_i = u_i v_i^T: d_out + d_in numbers each."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from flatdist.sensing.measurements.base import Measurements
from flatdist.types import Array, aligned_zeros


class Factors(Measurements):
    """u_i as the rows of ``left`` (n, d_out) and v_i as those of ``right`` (n, d_in), numpy or torch."""

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    @classmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        return cls(aligned_zeros((n, d_out), dtype), aligned_zeros((n, d_in), dtype))

    @classmethod
    def row_bytes(cls, d_out: int, d_in: int, dtype: str) -> int:
        return (d_out + d_in) * np.dtype(dtype).itemsize

    def put(self, start: int, block: Self) -> None:
        self.left[start : start + len(block)] = block.left
        self.right[start : start + len(block)] = block.right

    def __len__(self) -> int:
        return len(self.left)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.left.shape[1]), int(self.right.shape[1])

    @property
    def dtype(self) -> Any:
        return self.left.dtype

    def select(self, rows: Any) -> Measurements:
        return Factors(self.left[rows], self.right[rows])

    def tensors(self, dtype: Any) -> Measurements:
        import torch

        return Factors(torch.tensor(self.left).to(dtype), torch.tensor(self.right).to(dtype))

    def dense(self) -> Any:
        return self.left[:, :, None] * self.right[:, None, :]

    def apply(self, matrix: Any) -> Any:
        return ((self.left @ matrix) * self.right).sum(-1)

    def row_sums(self, matrix: Array) -> Array:
        images = (self.left[:, :, None] * matrix).sum(axis=1)  # u_i^T M, (n, d_in)
        sums: Array = (images * self.right).sum(axis=1)
        return sums

    def adjoint(self, weights: Any) -> Any:
        return (self.left * weights[:, None]).T @ self.right

    def compress(self, left: Any | None, right: Any | None) -> Any:
        by_row = self.left if left is None else self.left @ left  # (n, k)
        by_column = self.right if right is None else self.right @ right.T  # (n, l)
        return by_row[:, :, None] * by_column[:, None, :]

    def squares(self, left: Any | None, right: Any | None) -> Any:
        by_row = self.left if left is None else self.left @ left  # (..., n, k)
        by_column = self.right if right is None else self.right @ right.mT  # (..., n, l)
        return ((by_row * by_row).sum(-1) * (by_column * by_column).sum(-1)).sum(-1)

    def squares_gradient(self, left: Array | None, right: Array | None) -> tuple[float, Array | None, Array | None]:
        by_row = self.left if left is None else self.left @ left  # (n, k)
        by_column = self.right if right is None else self.right @ right.T  # (n, l)
        rows, columns = np.vecdot(by_row, by_row), np.vecdot(by_column, by_column)  # (n,) each
        by_left = None if left is None else (self.left * columns[:, None]).T @ by_row
        by_right = None if right is None else (by_column * rows[:, None]).T @ self.right
        return float(rows @ columns), by_left, by_right

    def second_moments(self, dtype: Any = None) -> tuple[Array, Array]:
        left, right = (factor.astype(np.float64, copy=False) for factor in (self.left, self.right))
        rows, columns = np.vecdot(left, left), np.vecdot(right, right)  # ||u_i||^2, ||v_i||^2
        s_out, s_in = (left * columns[:, None]).T @ left, (right * rows[:, None]).T @ right
        return s_out / len(self), s_in / len(self)
