"""The type of arrays, and arrays that start on a cache line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""A numpy array; its shape and dtype stand in the docstring or in a trailing comment."""

LINE_BYTES = 64  # a cache line, and the widest vector register: loads that straddle two lines cost twice


def aligned_zeros(shape: int | tuple[int, ...], dtype: str) -> Array:
    """Zeros of this shape and dtype, C-contiguous, whose first entry starts a cache line."""
    shape = (shape,) if isinstance(shape, int) else shape
    size = math.prod(shape) * np.dtype(dtype).itemsize
    block = np.zeros(size + LINE_BYTES, dtype=np.uint8)
    start = -block.ctypes.data % LINE_BYTES
    return block[start : start + size].view(dtype).reshape(shape)
