"""Small dense linear algebra on zero-padded matrices, composed of the vector instructions of ``_fused_vector``.

Every matrix stands row-major at an integer address, its rows and columns padded with zeros to whole vectors; leading
dimensions count entries. ``like`` is any scalar of the floating-point type in use.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, call-arg, return-value"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from flatdist.engines._fused_rows import add_rows, weigh_rows
from flatdist.engines._fused_vector import VECTOR_BYTES, copy_vector, product_tile, transpose_tile

# Called from compiled code alone: no wrappers for Python, which take a tenth of the compile time.
HELPER: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


# Numba compiles a function anew for each literal argument: typed constants and addresses keep one version of each.
@njit(**HELPER)
def address_of(array: Any) -> int:
    """Address of an array's first entry, int64."""
    return np.int64(array.ctypes.data)


# A tile has as many accumulators as hide the latency of a multiply-add and still fit the registers: 32 or 16 of them.
WIDEST = 4 if VECTOR_BYTES == 64 else 2
HEIGHT_2 = 10 if VECTOR_BYTES == 64 else 6  # rows of a tile that is two vectors wide


@njit(**HELPER)
def _strip_4(scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, inner, size):
    i = 0
    while rows - i >= 6:
        product_tile(6, 4, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 6
    if rows - i >= 4:
        product_tile(4, 4, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 4
    while rows - i >= 2:
        product_tile(2, 4, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 2
    if rows - i >= 1:
        product_tile(1, 4, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)


@njit(**HELPER)
def _strip_3(scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, inner, size):
    i = 0
    while rows - i >= 8:
        product_tile(8, 3, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 8
    if rows - i >= 4:
        product_tile(4, 3, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 4
    while rows - i >= 1:
        product_tile(1, 3, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 1


@njit(**HELPER)
def _strip_2(scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, inner, size):
    i = 0
    while rows - i >= HEIGHT_2:
        product_tile(
            HEIGHT_2, 2, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner
        )
        i += HEIGHT_2
    while rows - i >= 4:
        product_tile(4, 2, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 4
    while rows - i >= 1:
        product_tile(1, 2, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 1


@njit(**HELPER)
def _strip_1(scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, inner, size):
    i = 0
    while rows - i >= 12:
        product_tile(12, 1, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 12
    while rows - i >= 4:
        product_tile(4, 1, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 4
    while rows - i >= 1:
        product_tile(1, 1, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 1


@njit(**HELPER)
def product(scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, columns, inner, size):
    """C = A B, or C += scale * A B where ``add``, in tiles of ``WIDEST`` vectors or fewer.

    Args:
        a_row, a_column: steps between A's rows and columns, in entries; swapped, they make A a transpose.
        rows, columns, inner: C is (rows, columns) and A is (rows, inner).
        size: bytes of an entry.
    """
    lanes = VECTOR_BYTES // size
    vectors = (columns + lanes - 1) // lanes
    j = 0
    while j < vectors:
        left = vectors - j
        c_here = c + j * lanes * size
        b_here = b + j * lanes * size
        if WIDEST == 4 and left >= 4 and left != 5:
            _strip_4(scale, add, c_here, ldc, a, a_row, a_column, b_here, ldb, rows, inner, size)
            j += 4
        elif WIDEST == 4 and left >= 3:
            _strip_3(scale, add, c_here, ldc, a, a_row, a_column, b_here, ldb, rows, inner, size)
            j += 3
        elif left >= 2:
            _strip_2(scale, add, c_here, ldc, a, a_row, a_column, b_here, ldb, rows, inner, size)
            j += 2
        else:
            _strip_1(scale, add, c_here, ldc, a, a_row, a_column, b_here, ldb, rows, inner, size)
            j += 1


@njit(**HELPER)
def transpose(like, target, ldt, source, lds, rows, columns, size):
    """target (columns, rows) = source (rows, columns) transposed, padding included."""
    lanes = VECTOR_BYTES // size
    for i in range(0, rows, lanes):
        for j in range(0, columns, lanes):
            transpose_tile(like, target + (j * ldt + i) * size, ldt, source + (i * lds + j) * size, lds)


@njit(**HELPER)
def pack(like, target, source, lds, rows, columns, size):
    """Padded rows to rows without padding; may write up to a vector beyond the last row."""
    lanes = VECTOR_BYTES // size
    for i in range(rows):
        # A row's last vector reaches into the next row, which is written after it.
        for j in range(0, columns, lanes):
            copy_vector(like, target + (i * columns + j) * size, source + (i * lds + j) * size, lanes)


@njit(**HELPER)
def unpack(like, target, ldt, source, rows, columns, size):
    """Rows without padding to zero-padded rows; may read up to a vector beyond the last row."""
    lanes = VECTOR_BYTES // size
    for i in range(rows):
        for j in range(0, columns, lanes):
            copy_vector(like, target + (i * ldt + j) * size, source + (i * columns + j) * size, columns - j)


@njit(**HELPER)
def weigh_group(
    group, entry, share, noise, rows, pitch, indices, matrix, length, labels, normals, coefficients, squares
):
    """Residuals and coefficients of ``group`` (8, 4, 2 or 1) drawn rows; see ``weigh_rows``."""
    if group == 8:
        weigh_rows(
            8, 1, entry, share, noise, rows, pitch, indices, matrix, length, labels, normals, coefficients, squares,
        )  # fmt: skip
    elif group == 4:
        weigh_rows(
            4, 2, entry, share, noise, rows, pitch, indices, matrix, length, labels, normals, coefficients, squares,
        )  # fmt: skip
    elif group == 2:
        weigh_rows(
            2, 4, entry, share, noise, rows, pitch, indices, matrix, length, labels, normals, coefficients, squares,
        )  # fmt: skip
    else:
        weigh_rows(
            1, 8, entry, share, noise, rows, pitch, indices, matrix, length, labels, normals, coefficients, squares,
        )  # fmt: skip


@njit(**HELPER)
def add_group(group, entry, like, rows, pitch, indices, coefficients, matrix, length):
    """Add ``group`` (8, 4, 2 or 1) drawn rows, each times its coefficient, to a matrix."""
    if group == 8:
        add_rows(8, 1, entry, like, rows, pitch, indices, coefficients, matrix, length)
    elif group == 4:
        add_rows(4, 1, entry, like, rows, pitch, indices, coefficients, matrix, length)
    elif group == 2:
        add_rows(2, 2, entry, like, rows, pitch, indices, coefficients, matrix, length)
    else:
        add_rows(1, 2, entry, like, rows, pitch, indices, coefficients, matrix, length)
