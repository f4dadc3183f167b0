"""Small dense linear algebra for the fused engine: products of zero-padded matrices, and work on drawn measurements.

Every matrix is row-major at an integer address, with rows and columns padded with zeros to whole vectors; leading
dimensions count entries. Drawn rows have no padding: they are read from memory once and used twice while they are in
the cache. If sizes are constants at the call, the machine code contains no other cases.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, call-arg, return-value"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from flatdist.engines._fused_layout import LARGEST_GROUP
from flatdist.engines._fused_vector import INDEX, INT32, VECTOR_BYTES, Emitter, blocks, emitted, tight_loop

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
        with blocks(builder, first, stop, length) as position:
            body(position, size)
        first = stop


@emitted
def product(builder, scale, add, c, ldc, a, a_row, a_column, b, ldb, rows, columns, inner):
    """C = A B, or C += scale * A B where ``add``.

    A's entry (i, k) stands at ``a + i * a_row + k * a_column``, so that A may be a transpose; B and C are row-major.
    C is (rows, columns) and A is (rows, inner).
    """
    emitter = Emitter(builder, scale.type)
    vectors = builder.udiv(builder.add(columns, INDEX(emitter.lanes - 1)), INDEX(emitter.lanes))

    def strip(column: ir.Value, form: tuple[int, tuple[int, ...]]) -> None:
        offset = builder.mul(column, INDEX(emitter.lanes))

        def tile(row: ir.Value, height: int) -> None:
            c_here, a_here = emitter.at(c, row, ldc, offset), emitter.at(a, row, a_row)
            b_here = emitter.at(b, offset, INDEX(1))
            _tile(emitter, height, form[0], scale, add, c_here, ldc, a_here, a_row, a_column, b_here, ldb, inner)

        _in_steps(builder, rows, form[1], tile)

    _in_steps(builder, vectors, TILES, strip)


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


@emitted
def transpose(builder, like, target, ldt, source, lds, rows, columns):
    """target (columns, rows) = source (rows, columns) transposed, padding included, in square tiles of vectors."""
    emitter = Emitter(builder, like.type)
    with (
        blocks(builder, INDEX(0), rows, emitter.lanes) as i,
        blocks(builder, INDEX(0), columns, emitter.lanes) as j,
    ):
        _transpose_tile(emitter, emitter.at(target, j, ldt, i), ldt, emitter.at(source, i, lds, j), lds)


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


@emitted
def copy_rows(builder, like, target, ldt, source, lds, rows, columns):
    """Copy rows of ``columns`` entries by whole vectors, entries beyond a row as zeros.

    Where ``ldt`` is ``columns``, a row's last vector reaches into the next row, which is written after it. Reads and
    writes up to a vector beyond the last row.
    """
    emitter = Emitter(builder, like.type)
    with blocks(builder, INDEX(0), rows, 1) as i, blocks(builder, INDEX(0), columns, emitter.lanes) as j:
        value = emitter.load(source, builder.add(builder.mul(i, lds), j))
        kept = builder.select(emitter.lanes_below(builder.sub(columns, j)), value, emitter.zero)
        emitter.store(kept, target, builder.add(builder.mul(i, ldt), j))


@emitted
def copy_row(builder, like, target, source, length):
    """Copy ``length`` entries to whole vectors, the rest of the last one zero; reads nothing beyond them."""
    emitter = Emitter(builder, like.type)

    def copy(offset: ir.Value, part: int, mask: ir.Value | None) -> None:
        emitter.store(emitter.row(source, offset, mask), target, offset)

    emitter.each_vector(length, 1, copy)


# Rows taken together: as many sums as hide the latency of a multiply-add, in as many vectors of each at a time.
GROUPS = (8, 4, 2, 1)


def _by_group(builder: ir.IRBuilder, count: ir.Value, emit: Callable[[int], None]) -> None:
    """Code for each of :data:`GROUPS`, of which the one with ``count`` rows runs."""
    for group in GROUPS:
        with builder.if_then(builder.icmp_signed("==", count, INDEX(group))):
            emit(group)


@emitted
def weigh_rows(builder, count, entry, share, noise, rows, length, indices, matrix, labels, normals, out, squares):
    """Residuals of ``count`` (8, 4, 2 or 1) drawn rows, each row read once and ``matrix`` once for all of them.

    With e_k = <row k, matrix> - labels[indices[k]]:  squares[k] += e_k^2,
    out[k] = share * (e_k + noise * normals[k]). ``entry`` is any scalar of the rows' type.
    """
    emitter = Emitter(builder, share.type, entry.type)

    def weigh(group: int) -> None:
        steps = LARGEST_GROUP // group
        here = emitter.rows(rows, length, indices, group)
        partial = emitter.variables(group * steps)

        def accumulate(offset: ir.Value, part: int, mask: ir.Value | None) -> None:
            weights = emitter.load(matrix, offset)
            for k in range(group):
                slot, row = partial[k * steps + part], emitter.row(here[k], offset, mask)
                builder.store(emitter.multiply_add(row, weights, builder.load(slot)), slot)

        emitter.each_vector(length, steps, accumulate)
        totals = []
        for k in range(group):
            total = builder.load(partial[k * steps])
            for part in range(1, steps):
                total = builder.fadd(total, builder.load(partial[k * steps + part]))
            totals.append(total)
        found = emitter.coefficients(emitter.sums(totals), share, noise, indices, labels, normals, squares)
        emitter.store(found, out, INDEX(0))

    _by_group(builder, count, weigh)


@emitted
def add_rows(builder, count, entry, like, rows, length, indices, coefficients, matrix):
    """matrix += sum_k coefficients[k] * row k over ``count`` (8, 4, 2 or 1) drawn rows."""
    emitter = Emitter(builder, like.type, entry.type)

    def add(group: int) -> None:
        here = emitter.rows(rows, length, indices, group)
        factor = [emitter.splat(emitter.load(coefficients, INDEX(k), emitter.scalar)) for k in range(group)]

        def accumulate(offset: ir.Value, part: int, mask: ir.Value | None) -> None:
            total = emitter.load(matrix, offset)
            for k in range(group):
                total = emitter.multiply_add(emitter.row(here[k], offset, mask), factor[k], total)
            emitter.store(total, matrix, offset)

        emitter.each_vector(length, 1 if group > 2 else 2, accumulate)

    _by_group(builder, count, add)


@emitted
def weigh_pairs(builder, count, share, noise, left, left_pad, right, images, pad, indices, labels, normals, squares):
    """Residuals of ``count`` (8, 4, 2 or 1) drawn pairs of factors, and the left factors times their coefficients.

    With e_k = <images k, right k> - labels[indices[k]]:  squares[k] += e_k^2,
    left k *= share * (e_k + noise * normals[k]). Rows are padded with zeros to whole vectors.
    """
    emitter = Emitter(builder, share.type)

    def weigh(group: int) -> None:
        partial = emitter.variables(group)
        with blocks(builder, INDEX(0), pad, emitter.lanes) as offset:
            for k in range(group):
                here = builder.add(builder.mul(pad, INDEX(k)), offset)
                a, b = emitter.load(images, here), emitter.load(right, here)
                builder.store(emitter.multiply_add(a, b, builder.load(partial[k])), partial[k])
        sums = emitter.sums([builder.load(slot) for slot in partial])
        coefficients = emitter.coefficients(sums, share, noise, indices, labels, normals, squares)
        factors = [emitter.splat(builder.extract_element(coefficients, INT32(k))) for k in range(group)]
        with blocks(builder, INDEX(0), left_pad, emitter.lanes) as offset:
            for k in range(group):
                here = builder.add(builder.mul(left_pad, INDEX(k)), offset)
                emitter.store(builder.fmul(emitter.load(left, here), factors[k]), left, here)

    _by_group(builder, count, weigh)
