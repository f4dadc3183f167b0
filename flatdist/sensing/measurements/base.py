"""The interface of measurements A_1 ... A_n, however they are stored.

Matrices that are passed in or returned are of the same kind as the stored ones: numpy arrays, or torch tensors after
:meth:`Measurements.tensors`. P and Q stand for the products to the left and to the right of a layer; None is an
identity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from flatdist.types import Array


class Measurements(ABC):
    """n matrices of shape (d_out, d_in)."""

    # Whether the quantities below cost so little that gathering moments of the measurements beforehand gains nothing.
    structured: bool = True

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

    @abstractmethod
    def put(self, start: int, block: Self) -> None:
        """Store the block's measurements from number ``start`` on."""

    @abstractmethod
    def __len__(self) -> int:
        """n."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """Type of the stored numbers."""

    @abstractmethod
    def select(self, rows: Any) -> Measurements:
        """Those with these numbers, or of this slice."""

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
