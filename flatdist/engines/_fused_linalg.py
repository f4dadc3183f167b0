"""Small dense linear algebra on zero-padded matrices, composed of the vector instructions of ``_fused_vector``.

Every matrix stands row-major at an integer address, its rows and columns padded with zeros to whole vectors; leading
dimensions count entries. ``like`` is any scalar of the floating-point type in use.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from flatdist.engines._fused_vector import (
    VECTOR_BYTES,
    add_rows,
    copy_vector,
    product_tile,
    transpose_tile,
    weigh_rows,
)

# Accumulators of a tile: as many as hide the latency of a multiply-add and still fit the registers.
WIDEST = 4 if VECTOR_BYTES == 64 else 2


@njit(nogil=True, error_model="numpy")
def _strip_4(scale: Any, add: int, c: int, ldc: int, a: int, a_row: int, a_column: int, b: int, ldb: int, rows: int, inner: int, size: int) -> None:
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


@njit(nogil=True, error_model="numpy")
def _strip_3(scale: Any, add: int, c: int, ldc: int, a: int, a_row: int, a_column: int, b: int, ldb: int, rows: int, inner: int, size: int) -> None:
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


@njit(nogil=True, error_model="numpy")
def _strip_2(scale: Any, add: int, c: int, ldc: int, a: int, a_row: int, a_column: int, b: int, ldb: int, rows: int, inner: int, size: int) -> None:
    i = 0
    while rows - i >= 10:
        product_tile(10, 2, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 10
    while rows - i >= 4:
        product_tile(4, 2, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 4
    while rows - i >= 1:
        product_tile(1, 2, scale, add, c + i * ldc * size, ldc, a + i * a_row * size, a_row, a_column, b, ldb, inner)
        i += 1


@njit(nogil=True, error_model="numpy")
def _strip_1(scale: Any, add: int, c: int, ldc: int, a: int, a_row: int, a_column: int, b: int, ldb: int, rows: int, inner: int, size: int) -> None:
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


@njit(nogil=True, error_model="numpy")
def product(scale: Any, add: int, c: int, ldc: int, a: int, a_row: int, a_column: int, b: int, ldb: int, rows: int, columns: int, inner: int, size: int) -> None:
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


@njit(nogil=True, error_model="numpy")
def transpose(like: Any, target: int, ldt: int, source: int, lds: int, rows: int, columns: int, size: int) -> None:
    """target (columns, rows) = source (rows, columns) transposed, padding included."""
    lanes = VECTOR_BYTES // size
    for i in range(0, rows, lanes):
        for j in range(0, columns, lanes):
            transpose_tile(like, target + (j * ldt + i) * size, ldt, source + (i * lds + j) * size, lds)


@njit(nogil=True, error_model="numpy")
def pack(like: Any, target: int, source: int, lds: int, rows: int, columns: int, size: int) -> None:
    """Padded rows to rows without padding; may write up to a vector beyond the last row."""
    lanes = VECTOR_BYTES // size
    for i in range(rows):
        # A row's last vector reaches into the next row, which is written after it.
        for j in range(0, columns, lanes):
            copy_vector(like, target + (i * columns + j) * size, source + (i * lds + j) * size, lanes)


@njit(nogil=True, error_model="numpy")
def unpack(like: Any, target: int, ldt: int, source: int, rows: int, columns: int, size: int) -> None:
    """Rows without padding to zero-padded rows; may read up to a vector beyond the last row."""
    lanes = VECTOR_BYTES // size
    for i in range(rows):
        for j in range(0, columns, lanes):
            copy_vector(like, target + (i * ldt + j) * size, source + (i * columns + j) * size, columns - j)


@njit(nogil=True, error_model="numpy")
def weigh_group(
    group: int, entry: Any, share: Any, noise: Any, rows: int, pitch: int, indices: int, matrix: int,
    length: int, labels: int, normals: int, coefficients: int, squares: int,
) -> None:  # fmt: skip
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


@njit(nogil=True, error_model="numpy")
def add_group(
    group: int, entry: Any, like: Any, rows: int, pitch: int, indices: int, coefficients: int, matrix: int, length: int
) -> None:
    """Add ``group`` (8, 4, 2 or 1) drawn rows, each times its coefficient, to a matrix."""
    if group == 8:
        add_rows(8, 1, entry, like, rows, pitch, indices, coefficients, matrix, length)
    elif group == 4:
        add_rows(4, 1, entry, like, rows, pitch, indices, coefficients, matrix, length)
    elif group == 2:
        add_rows(2, 2, entry, like, rows, pitch, indices, coefficients, matrix, length)
    else:
        add_rows(1, 2, entry, like, rows, pitch, indices, coefficients, matrix, length)
