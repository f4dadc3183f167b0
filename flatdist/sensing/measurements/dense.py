"""Measurements as one array of all their entries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from flatdist.sensing.measurements.base import Measurements
from flatdist.types import Array, aligned_zeros

BLOCK_ENTRIES = 2**18  # entries worked on at a time where conversions or temporaries would take much memory


class Dense(Measurements):
    """(..., n, d_out, d_in), numpy or torch; leading axes, several problems, only where a method says so."""

    structured = False

    def __init__(self, array: Any) -> None:
        self.array = array

    @classmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        return Dense(aligned_zeros((n, d_out, d_in), dtype))

    @classmethod
    def row_bytes(cls, d_out: int, d_in: int, dtype: str) -> int:
        return d_out * d_in * np.dtype(dtype).itemsize

    def put(self, start: int, block: Self) -> None:
        self.array[start : start + len(block)] = block.array

    def __len__(self) -> int:
        return int(self.array.shape[-3])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.array.shape[-2]), int(self.array.shape[-1])

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def select(self, rows: Any) -> Measurements:
        return type(self)(self.array[rows])

    def tensors(self, dtype: Any) -> Measurements:
        import torch

        return Dense(torch.tensor(self.array).to(dtype))

    def dense(self) -> Any:
        return self.array

    def apply(self, matrix: Any) -> Any:
        if matrix.ndim == 2:
            return _einsum("iab,ab->i", self.array, matrix)
        columns = matrix.reshape(-1, self.array[0].size).T
        found = np.empty((len(self), columns.shape[1]), dtype=matrix.dtype)
        start = 0
        for block in self.blocks(matrix.dtype):
            found[start : start + len(block)] = block.reshape(len(block), -1) @ columns
            start += len(block)
        return found.T.reshape(*matrix.shape[:-2], len(self))

    def row_sums(self, matrix: Array) -> Array:
        sums: Array = (self.array * matrix).reshape(len(self), -1).sum(axis=1)
        return sums

    def adjoint(self, weights: Any) -> Any:
        return _einsum("i,iab->ab", weights, self.array)

    def compress(self, left: Any | None, right: Any | None) -> Any:
        block = self.array if left is None else left[..., None, :, :].mT @ self.array
        return block if right is None else block @ right[..., None, :, :].mT  # (..., n, k, l)

    def squares(self, left: Any | None, right: Any | None) -> Any:
        block = self.compress(left, right)
        return (block * block).sum((-3, -2, -1))

    def squares_gradient(self, left: Array | None, right: Array | None) -> tuple[float, Array | None, Array | None]:
        after = self.array if right is None else self.array @ right.T  # (n, d_out, l)
        before = self.array if left is None else left.T @ self.array  # (n, k, d_in)
        block = after if left is None else left.T @ after  # (n, k, l)
        by_left = None if left is None else np.einsum("iab,icb->ac", after, block, optimize=True)
        by_right = None if right is None else np.einsum("iab,iac->bc", block, before, optimize=True)
        return float(np.vdot(block, block)), by_left, by_right

    def second_moments(self, dtype: Any = None) -> tuple[Array, Array]:
        d_out, d_in = self.shape
        s_out, s_in = np.zeros((d_out, d_out)), np.zeros((d_in, d_in))
        for block in self.blocks(np.result_type(self.dtype, dtype or "float64")):
            by_row = block.transpose(0, 2, 1).reshape(-1, d_out)
            by_column = block.reshape(-1, d_in)
            s_out += by_row.T @ by_row
            s_in += by_column.T @ by_column
        return s_out / len(self), s_in / len(self)

    def blocks(self, dtype: Any, entries: int = BLOCK_ENTRIES) -> Iterator[Array]:
        """The entries in blocks of bounded size and one precision: nothing is converted whole."""
        rows = max(1, entries // self.array[0].size)
        for start in range(0, len(self), rows):
            yield self.array[start : start + rows].astype(dtype, copy=False)


def _einsum(form: str, *arrays: Any) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.einsum(form, *arrays)
    import torch

    return torch.einsum(form, *arrays)
