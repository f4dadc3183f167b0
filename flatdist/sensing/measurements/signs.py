"""Measurements whose entries are +1 and -1, one byte each: a quarter of the size of float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from flatdist.sensing.measurements.base import Measurements
from flatdist.sensing.measurements.dense import Dense
from flatdist.types import Array, aligned_zeros


class Signs(Dense):
    """(n, d_out, d_in) int8; signs stored as floats are :class:`Dense`."""

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
