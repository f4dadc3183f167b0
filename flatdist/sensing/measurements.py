"""Measurement matrices A_1 ... A_n as values: one class per way of storing them.

Code that works with measurements uses the methods of :class:`Measurements` and does not depend on how they are stored.
Matrices that are passed in or returned are of the same kind as the stored ones: numpy arrays, or torch tensors after
:meth:`Measurements.tensors`. P and Q stand for the products to the left and to the right of a layer; None is an
identity.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np

from flatdist.types import Array, aligned_zeros

BLOCK_ENTRIES = 2**18  # entries worked on at a time where conversions or temporaries would take much memory


class Measurements(ABC):
    """n matrices of shape (d_out, d_in)."""

    # Whether the quantities below cost so little that gathering moments of the measurements beforehand gains nothing.
    structured: bool = True
    kept: ClassVar[tuple[str, ...]]  # attributes: arrays with an entry or a row for each measurement

    @classmethod
    @abstractmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        """Storage for n measurements, to be filled by :meth:`put`."""

    @classmethod
    @abstractmethod
    def row_bytes(cls, d_out: int, d_in: int, dtype: str) -> int:
        """Bytes that one measurement takes."""

    @classmethod
    def narrowest(cls, dtype: str) -> str:
        """The narrowest type that stores them without loss for training in ``dtype``."""
        return dtype

    def put(self, start: int, block: Self) -> None:
        """Store the block's measurements from number ``start`` on."""
        for name in self.kept:
            getattr(self, name)[start : start + len(block)] = getattr(block, name)

    def select(self, rows: Any) -> Self:
        """Those with these numbers, or of this slice."""
        chosen = copy.copy(self)
        vars(chosen).update({name: getattr(self, name)[rows] for name in self.kept})
        return chosen

    def __len__(self) -> int:
        return len(getattr(self, self.kept[0]))

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""

    @property
    def dtype(self) -> Any:
        """Type of the stored numbers."""
        return getattr(self, self.kept[0]).dtype

    @abstractmethod
    def tensors(self, dtype: Any) -> Measurements:
        """The measurements as torch tensors of that dtype, copies on the CPU."""

    @abstractmethod
    def dense(self) -> Any:
        """All measurements as dense matrices, (n, d_out, d_in)."""

    @abstractmethod
    def apply(self, matrix: Any) -> Any:
        """<A_i, M> for M (..., d_out, d_in); returns (..., n)."""

    @abstractmethod
    def row_sums(self, matrix: Array) -> Array:
        """<A_i, M>, (n,), each summed separately, so that its bits do not depend on the other measurements."""

    @abstractmethod
    def adjoint(self, weights: Any) -> Any:
        """sum_i w_i A_i for w (n,); returns (d_out, d_in)."""

    @abstractmethod
    def compress(self, left: Any | None, right: Any | None) -> Any:
        """P^T A_i Q^T, (n, k, l), for P (d_out, k) and Q (l, d_in)."""

    @abstractmethod
    def squares(self, left: Any | None, right: Any | None) -> Any:
        """sum_i ||P^T A_i Q^T||_F^2, a term of Lemma 2, for P (..., d_out, k) and Q (..., l, d_in); returns (...)."""

    @abstractmethod
    def squares_gradient(self, left: Array | None, right: Array | None) -> tuple[float, Array | None, Array | None]:
        """:meth:`squares`, and half its gradients in P and in Q, None for an identity."""

    @abstractmethod
    def second_moments(self, dtype: Any = None) -> tuple[Array, Array]:
        """S_out = (1/n) sum_i A_i A_i^T and S_in = (1/n) sum_i A_i^T A_i, float64; summed in ``dtype`` or better."""


class Dense(Measurements):
    """All entries, (..., n, d_out, d_in), numpy or torch; leading axes (several problems) where a method says so."""

    structured = False
    kept = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    @classmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        return Dense(aligned_zeros((n, d_out, d_in), dtype))

    @classmethod
    def row_bytes(cls, d_out: int, d_in: int, dtype: str) -> int:
        return d_out * d_in * np.dtype(dtype).itemsize

    def __len__(self) -> int:
        return int(self.array.shape[-3])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.array.shape[-2]), int(self.array.shape[-1])

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


class Signs(Dense):
    """Entries +1 and -1 in int8, a quarter of the size of float32; signs stored as floats are :class:`Dense`."""

    @classmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        return cls(aligned_zeros((n, d_out, d_in), dtype)) if dtype == "int8" else super().zeros(n, d_out, d_in, dtype)

    @classmethod
    def narrowest(cls, dtype: str) -> str:
        return "int8"

    def _widened(self) -> Dense:
        return Dense(self.array.astype(np.float64))

    def adjoint(self, weights: Any) -> Any:
        return self._widened().adjoint(weights)

    def compress(self, left: Any | None, right: Any | None) -> Any:
        return self._widened().compress(left, right)

    def squares_gradient(self, left: Array | None, right: Array | None) -> tuple[float, Array | None, Array | None]:
        return self._widened().squares_gradient(left, right)


class Factors(Measurements):
    """Rank one, A_i = u_i v_i^T: u_i as the rows of ``left`` (n, d_out) and v_i as those of ``right`` (n, d_in)."""

    kept = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    @classmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        return cls(aligned_zeros((n, d_out), dtype), aligned_zeros((n, d_in), dtype))

    @classmethod
    def row_bytes(cls, d_out: int, d_in: int, dtype: str) -> int:
        return (d_out + d_in) * np.dtype(dtype).itemsize

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.left.shape[1]), int(self.right.shape[1])

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
        by_row, by_column = self._images(left, right)
        return by_row[:, :, None] * by_column[:, None, :]

    def squares(self, left: Any | None, right: Any | None) -> Any:
        by_row, by_column = self._images(left, right)
        return ((by_row * by_row).sum(-1) * (by_column * by_column).sum(-1)).sum(-1)

    def squares_gradient(self, left: Array | None, right: Array | None) -> tuple[float, Array | None, Array | None]:
        by_row, by_column = self._images(left, right)
        rows, columns = np.vecdot(by_row, by_row), np.vecdot(by_column, by_column)  # (n,) each
        by_left = None if left is None else (self.left * columns[:, None]).T @ by_row
        by_right = None if right is None else (by_column * rows[:, None]).T @ self.right
        return float(rows @ columns), by_left, by_right

    def second_moments(self, dtype: Any = None) -> tuple[Array, Array]:
        left, right = (factor.astype(np.float64, copy=False) for factor in (self.left, self.right))
        rows, columns = np.vecdot(left, left), np.vecdot(right, right)  # ||u_i||^2, ||v_i||^2
        s_out, s_in = (left * columns[:, None]).T @ left, (right * rows[:, None]).T @ right
        return s_out / len(self), s_in / len(self)

    def _images(self, left: Any | None, right: Any | None) -> tuple[Any, Any]:
        """P^T u_i and Q v_i, (..., n, k) and (..., n, l)."""
        return (
            self.left if left is None else self.left @ left,
            self.right if right is None else self.right @ right.mT,
        )


class Entries(Measurements):
    """Single entries, A_i = sqrt(d_out d_in) e_a e_b^T: a_i in ``rows`` and b_i in ``columns``, (n,) integers each.

    The factor makes the mean of <A, X>^2 over all entries ||X||_F^2, as it is for independent entries of variance 1:
    learning rates, noise and losses keep their meaning.
    """

    kept = ("rows", "columns")
    shape: tuple[int, int] = (0, 0)
    dtype: Any = np.float64

    def __init__(self, rows: Any, columns: Any, shape: tuple[int, int], dtype: Any = np.float64) -> None:
        self.rows, self.columns = rows, columns
        self.shape, self.dtype = shape, dtype
        self.scale = float(np.sqrt(shape[0] * shape[1]))

    @classmethod
    def zeros(cls, n: int, d_out: int, d_in: int, dtype: str) -> Measurements:
        return cls(np.zeros(n, np.int32), np.zeros(n, np.int32), (d_out, d_in), np.dtype(dtype))

    @classmethod
    def row_bytes(cls, d_out: int, d_in: int, dtype: str) -> int:
        return 2 * np.dtype(np.int32).itemsize

    def tensors(self, dtype: Any) -> Measurements:
        import torch

        rows, columns = (torch.tensor(places).to(torch.int64) for places in (self.rows, self.columns))
        return Entries(rows, columns, self.shape, dtype)

    def dense(self) -> Any:
        whole = np.zeros((len(self), *self.shape), dtype=self.dtype)
        whole[np.arange(len(self)), self.rows, self.columns] = self.scale
        return whole

    def apply(self, matrix: Any) -> Any:
        return self.scale * matrix[..., self.rows, self.columns]

    row_sums = apply

    def adjoint(self, weights: Any) -> Any:
        d_out, d_in = self.shape
        flat = self.rows.astype(np.int64) * d_in + self.columns
        return self.scale * np.bincount(flat, weights=weights, minlength=d_out * d_in).reshape(d_out, d_in)

    def compress(self, left: Any | None, right: Any | None) -> Any:
        d_out, d_in = self.shape
        by_row = np.eye(d_out)[self.rows] if left is None else left[self.rows]  # row a_i of P, (n, k)
        by_column = np.eye(d_in)[self.columns] if right is None else right.T[self.columns]  # column b_i of Q, (n, l)
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
        d_out, d_in = self.shape
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
        d_out, d_in = self.shape
        s_out = np.diag(share * np.bincount(self.rows, minlength=d_out))
        return s_out, np.diag(share * np.bincount(self.columns, minlength=d_in))


def as_measurements(given: Any) -> Measurements:
    """Measurements as they are, or an array (..., n, d_out, d_in) of them, numpy or torch, not copied."""
    if isinstance(given, Measurements):
        return given
    return Signs(given) if str(given.dtype).removeprefix("torch.") == "int8" else Dense(given)


def _einsum(form: str, *arrays: Any) -> Any:
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.einsum(form, *arrays)
    import torch

    return torch.einsum(form, *arrays)
