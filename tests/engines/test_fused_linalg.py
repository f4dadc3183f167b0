"""The fused engine's small matrix routines against numpy, at every remainder of the tiles."""

import itertools

import numpy as np
import pytest
from numba import njit

from flatdist.engines._fused_layout import padded
from flatdist.engines._fused_linalg import copy_rows, product, transpose
from flatdist.engines._fused_vector import lanes_of
from flatdist.types import aligned_zeros


@njit
def multiply(scale, add, c, a, transposed, b, rows, columns, inner):
    step, stride = (np.int64(1), a.shape[1]) if transposed else (a.shape[1], np.int64(1))
    product(
        scale, add, np.int64(c.ctypes.data), c.shape[1], np.int64(a.ctypes.data), step, stride,
        np.int64(b.ctypes.data), b.shape[1], rows, columns, inner,
    )  # fmt: skip


@njit
def move(like, transposed, flat, back, source, rows, columns):
    at = np.int64(source.ctypes.data)
    lds = source.shape[1]
    transpose(like, np.int64(transposed.ctypes.data), transposed.shape[1], at, lds, rows, columns)
    copy_rows(like, np.int64(flat.ctypes.data), columns, at, lds, rows, columns)
    copy_rows(like, np.int64(back.ctypes.data), lds, np.int64(flat.ctypes.data), columns, rows, columns)


def matrix(rows, columns, dtype, seed):
    """A zero-padded random matrix."""
    lanes = lanes_of(dtype)
    block = aligned_zeros((padded(rows, lanes), padded(columns, lanes)), dtype)
    block[:rows, :columns] = np.random.default_rng(seed).standard_normal((rows, columns))
    return block


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", [False, True])
def test_products(dtype, transposed):
    kind = np.dtype(dtype).type
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    for rows, columns in itertools.product([1, 2, 3, 5, 7, 12, 13, 23], [1, 15, 16, 17, 40, 60, 70, 100, 130]):
        inner = 1 + (rows + columns) % 9
        a, b = matrix(rows, inner, dtype, 1), matrix(inner, columns, dtype, 2)
        if transposed:
            a = matrix(inner, rows, dtype, 1)
        left = (a.T if transposed else a)[:rows, :inner].astype(float)
        expected = left @ b[:inner, :columns].astype(float)
        c = matrix(rows, columns, dtype, 3)
        before = c.copy().astype(float)
        multiply(kind(-0.5), 1, c, a, transposed, b, rows, columns, inner)
        np.testing.assert_allclose(c[:rows, :columns], before[:rows, :columns] - 0.5 * expected, atol=tolerance)
        multiply(kind(7.0), 0, c, a, transposed, b, rows, columns, inner)
        np.testing.assert_allclose(c[:rows, :columns], expected, atol=tolerance)
        assert not c[rows:].any()
        assert not c[:, columns:].any(), "the padding stays zero"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (16, 16), (17, 33), (60, 60), (30, 20)])
def test_transposing_and_packing(dtype, shape):
    rows, columns = shape
    source = matrix(rows, columns, dtype, 4)
    transposed = np.full(source.T.shape, np.nan, dtype=dtype)
    flat = np.full(rows * columns + lanes_of(dtype), np.nan, dtype=dtype)
    back = np.zeros_like(source)
    move(np.dtype(dtype).type(0), transposed, flat, back, source, rows, columns)
    np.testing.assert_array_equal(transposed, source.T)
    np.testing.assert_array_equal(flat[: rows * columns].reshape(shape), source[:rows, :columns])
    np.testing.assert_array_equal(back, source)
