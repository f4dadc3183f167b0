"""Arrays that start on a cache line: wide vector loads that straddle two lines cost twice."""

from __future__ import annotations

import math

import numpy as np

from flatdist.types import Array

LINE_BYTES = 64  # a cache line, and the widest vector register


def aligned_zeros(shape: int | tuple[int, ...], dtype: str) -> Array:
    """Zeros of this shape and dtype, C-contiguous, whose first entry starts a cache line."""
    shape = (shape,) if isinstance(shape, int) else shape
    size = math.prod(shape) * np.dtype(dtype).itemsize
    block = np.zeros(size + LINE_BYTES, dtype=np.uint8)
    start = -block.ctypes.data % LINE_BYTES
    return block[start : start + size].view(dtype).reshape(shape)
