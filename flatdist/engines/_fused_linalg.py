"""Small dense linear algebra on zero-padded matrices: Numba intrinsics that emit LLVM vector code where called.

Every matrix is row-major at an integer address, with rows and columns padded with zeros to whole vectors; leading
dimensions count entries. If sizes are constants at the call, the machine code contains no other cases.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, call-arg, return-value"

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from flatdist.engines._fused_vector import INDEX, VECTOR_BYTES, Emitter, tight_loop

# Called from compiled code alone: no wrappers for Python, which take a tenth of the compile time.
HELPER: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

# Tiles of a product: width in vectors and heights in rows, the first that still fits counts. A tile has as many
# accumulators as hide the latency of a multiply-add and still fit the registers, of which there are 32 or 16.
# Before a wider one, a width leaves what is odd. How a product is tiled shows in none of its bits.
TILES = (
    ((4, (6, 4, 2, 1)), (3, (8, 4, 1)), (2, (10, 4, 2, 1)), (1, (12, 4, 1)))
    if VECTOR_BYTES == 64
    else ((2, (6, 4, 2, 1)), (3, (4, 2, 1)), (1, (12, 4, 1)))
)


# Numba compiles a function anew for each literal argument: typed constants and addresses keep one version of each.
@njit(**HELPER)
def address_of(array: Any) -> int:
    """Address of an array's first entry, int64."""
    return np.int64(array.ctypes.data)


@intrinsic
def bytes_of(typing_context, array):
    """Bytes of an array's entry, a constant of its type; ``array.itemsize`` is read from memory."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return INDEX(array.dtype.bitwidth // 8)

    return types.int64(array), emit


@contextlib.contextmanager
def _blocks(builder: ir.IRBuilder, first: Any, stop: Any, step: int) -> Iterator[ir.Value]:
    """Loop over first, first + step, ... below ``stop``."""
    with cgutils.for_range_slice(builder, first, stop, INDEX(step), inc=True) as (position, _):
        yield position


def _in_steps(builder: ir.IRBuilder, count: Any, sizes: Any, body: Callable[[ir.Value, Any], None]) -> None:
    """Share ``count`` out among blocks of these sizes, the largest first; ``body`` gets a block's start and size."""
    first, lengths = INDEX(0), [size[0] if isinstance(size, tuple) else size for size in sizes]
    for size, length, following in zip(sizes, lengths, [*lengths[1:], 0], strict=True):
        left = builder.sub(count, first)
        if following > length:  # a wider block follows, for a rest that is odd
            wider = builder.icmp_unsigned(">=", left, INDEX(following))
            odd = builder.and_(builder.and_(left, INDEX(1)), builder.zext(wider, INDEX))
            left = builder.sub(left, builder.mul(odd, INDEX(following)))
        whole = builder.mul(builder.udiv(left, INDEX(length)), INDEX(length))
        stop = builder.add(first, whole)
        with _blocks(builder, first, stop, length) as position:
            body(position, size)
        first = stop


@intrinsic
def product(typing_context, scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, columns, inner):
    """C = A B, or C += scale * A B where ``add``.

    A's entry (i, k) stands at ``a + i * a_row + k * a_column``, so that A may be a transpose; B and C are row-major.
    C is (rows, columns) and A is (rows, inner).
    """
    signature = types.void(scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, columns, inner)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, columns, inner = arguments
        emitter = Emitter(builder, scale.type)
        vectors = builder.udiv(builder.add(columns, INDEX(emitter.lanes - 1)), INDEX(emitter.lanes))

        def strip(column: ir.Value, form: tuple[int, tuple[int, ...]]) -> None:
            width, heights = form
            offset = builder.mul(column, INDEX(emitter.lanes))

            def tile(row: ir.Value, height: int) -> None:
                c_here = emitter.address(c, builder.add(builder.mul(row, ldc), offset))
                a_here = emitter.address(a, builder.mul(row, a_row))
                b_here = emitter.address(b, offset)
                _tile(emitter, height, width, scale, add, c_here, ldc, a_here, a_row, a_column, b_here, ldb, inner)

            _in_steps(builder, rows, heights, tile)

        _in_steps(builder, vectors, TILES, strip)
        return context.get_dummy_value()

    return signature, emit


def _tile(
    emitter: Emitter, m: int, n: int, scale: Any, add: Any, c: Any, ldc: Any, a: Any, a_row: Any, a_column: Any,
    b: Any, ldb: Any, inner: Any,
) -> None:  # fmt: skip
    """``m`` rows and ``n`` vectors of a product, in registers."""
    builder = emitter.builder
    tile = emitter.variables(m * n)
    with tight_loop(builder, inner, unrolled=n <= 2) as position:
        b_row = builder.mul(position, ldb)
        right = [emitter.load(b, builder.add(b_row, INDEX(j * emitter.lanes))) for j in range(n)]
        a_here = builder.mul(position, a_column)
        for i in range(m):
            entry = emitter.load(a, builder.add(a_here, builder.mul(a_row, INDEX(i))), emitter.scalar)
            left = emitter.splat(entry)
            for j in range(n):
                slot = tile[i * n + j]
                builder.store(emitter.multiply_add(left, right[j], builder.load(slot)), slot)
    factor = emitter.splat(scale)
    with builder.if_else(builder.icmp_unsigned("!=", add, add.type(0))) as (adding, replacing):
        for branch, adds in ((adding, True), (replacing, False)):
            with branch:
                for i in range(m):
                    for j in range(n):
                        offset = builder.add(builder.mul(ldc, INDEX(i)), INDEX(j * emitter.lanes))
                        value = builder.load(tile[i * n + j])
                        if adds:
                            value = emitter.multiply_add(factor, value, emitter.load(c, offset))
                        emitter.store(value, c, offset)


@intrinsic
def transpose(typing_context, like, target, ldt, source, lds, rows, columns):
    """target (columns, rows) = source (rows, columns) transposed, padding included, in square tiles of vectors."""
    signature = types.void(like, target, ldt, source, lds, rows, columns)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        like, target, ldt, source, lds, rows, columns = arguments
        emitter = Emitter(builder, like.type)
        with (
            _blocks(builder, INDEX(0), rows, emitter.lanes) as i,
            _blocks(builder, INDEX(0), columns, emitter.lanes) as j,
        ):
            here = emitter.address(source, builder.add(builder.mul(i, lds), j))
            _transpose_tile(emitter, emitter.address(target, builder.add(builder.mul(j, ldt), i)), ldt, here, lds)
        return context.get_dummy_value()

    return signature, emit


def _transpose_tile(emitter: Emitter, target: Any, ldt: Any, source: Any, lds: Any) -> None:
    """One square tile, as many rows as a vector has lanes, by exchanges over halving distances."""
    builder, lanes = emitter.builder, emitter.lanes
    rows = [emitter.load(source, builder.mul(lds, INDEX(i))) for i in range(lanes)]
    distance = lanes // 2
    while distance:
        near = [lane if lane & distance == 0 else lanes + lane - distance for lane in range(lanes)]
        far = [lane + distance if lane & distance == 0 else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if i & distance == 0:
                a, b = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = emitter.shuffle(a, b, near), emitter.shuffle(a, b, far)
        distance //= 2
    for i in range(lanes):
        emitter.store(rows[i], target, builder.mul(ldt, INDEX(i)))


@intrinsic
def copy_rows(typing_context, like, target, ldt, source, lds, rows, columns):
    """Copy rows of ``columns`` entries by whole vectors, entries beyond a row as zeros.

    Where ``ldt`` is ``columns``, a row's last vector reaches into the next row, which is written after it. Reads and
    writes up to a vector beyond the last row.
    """
    signature = types.void(like, target, ldt, source, lds, rows, columns)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        like, target, ldt, source, lds, rows, columns = arguments
        emitter = Emitter(builder, like.type)
        with (
            _blocks(builder, INDEX(0), rows, 1) as i,
            _blocks(builder, INDEX(0), columns, emitter.lanes) as j,
        ):
            value = emitter.load(source, builder.add(builder.mul(i, lds), j))
            kept = builder.select(emitter.lanes_below(builder.sub(columns, j)), value, emitter.zero)
            emitter.store(kept, target, builder.add(builder.mul(i, ldt), j))
        return context.get_dummy_value()

    return signature, emit
