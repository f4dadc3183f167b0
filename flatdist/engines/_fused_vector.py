"""Vector instructions for the fused engine's inner loops, as Numba intrinsics that emit LLVM vector code.

Numba's loop vectoriser neither keeps a tile of a matrix product in registers nor fuses work over several drawn rows,
so the four inner loops that matter are emitted here with explicit vectors. Matrices are passed as integer addresses
of their first entry, and leading dimensions and offsets count entries. The order of every sum is fixed by
``VECTOR_BYTES`` alone: the bits of a result depend on the kind of processor, never on alignment or neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic


def _vector_bytes() -> int:
    """Width of the vectors: one 512-bit register where the processor has them, else one of 256 bits."""
    features = config.CPU_FEATURES
    if features is None:
        features = "" if config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    return 64 if "+avx512f" in features.split(",") else 32


VECTOR_BYTES = _vector_bytes()

INDEX = ir.IntType(64)


def lanes_of(dtype: str) -> int:
    """Entries of one vector for float32 or float64."""
    return VECTOR_BYTES // (4 if dtype == "float32" else 8)


class _Emitter:
    """Builds vector code for entries of one floating-point type."""

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type) -> None:
        self.builder = builder
        self.scalar = scalar
        self.bytes = 4 if isinstance(scalar, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(scalar, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def pointer(self, address: ir.Value, offset: ir.Value, element: ir.Type, size: int) -> ir.Value:
        byte = self.builder.add(address, self.builder.mul(offset, INDEX(size)))
        return self.builder.inttoptr(byte, element.as_pointer())

    def load(self, address: ir.Value, offset: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        return self.builder.load(self.pointer(address, offset, kind or self.vector, self.bytes), align=self.bytes)

    def store(self, value: ir.Value, address: ir.Value, offset: ir.Value) -> None:
        self.builder.store(value, self.pointer(address, offset, value.type, self.bytes), align=self.bytes)

    def splat(self, value: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        kind = kind or self.vector
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.IntType(32)(0))
        return self.shuffle(first, undefined, [0] * kind.count)

    def shuffle(self, a: ir.Value, b: ir.Value, mask: list[int]) -> ir.Value:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(mask)), mask))

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c in every lane, fused where the processor can."""
        kind = f"v{a.type.count}f{8 * self.bytes}"
        signature = ir.FunctionType(a.type, [a.type] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.fmuladd.{kind}")
        return self.builder.call(function, [a, b, c])

    def lanes_below(self, count: ir.Value) -> ir.Value:
        """Mask of the first ``count`` lanes."""
        integer = ir.IntType(32)
        undefined = ir.Constant(ir.VectorType(integer, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.trunc(count, integer), integer(0))
        limit = self.shuffle(first, undefined, [0] * self.lanes)
        lane = ir.Constant(ir.VectorType(integer, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", lane, limit)

    def variables(self, count: int) -> list[ir.Value]:
        """``count`` vectors, zero at first, that the optimiser keeps in registers."""
        slots = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        for slot in slots:
            self.builder.store(self.zero, slot)
        return slots


class _Rows(_Emitter):
    """Drawn measurements: rows of floats, or of +1 and -1 in int8, widened as they are read."""

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type, narrow: bool) -> None:
        super().__init__(builder, scalar)
        self.entry_bytes = 1 if narrow else self.bytes
        self.entries = ir.VectorType(ir.IntType(8), self.lanes) if narrow else self.vector
        self.narrow = narrow

    def addresses(self, base: ir.Value, pitch: ir.Value, indices: ir.Value, count: int) -> list[ir.Value]:
        """Addresses of the rows whose int32 numbers stand at ``indices``."""
        found = []
        for k in range(count):
            number = self.builder.load(self.pointer(indices, INDEX(k), ir.IntType(32), 4))
            row = self.builder.mul(self.builder.zext(number, INDEX), pitch)
            found.append(self.builder.add(base, self.builder.mul(row, INDEX(self.entry_bytes))))
        return found

    def _widen(self, entries: ir.Value) -> ir.Value:
        return self.builder.sitofp(entries, self.vector) if self.narrow else entries

    def row(self, address: ir.Value, offset: ir.Value) -> ir.Value:
        pointer = self.pointer(address, offset, self.entries, self.entry_bytes)
        return self._widen(self.builder.load(pointer, align=self.entry_bytes))

    def last_of_row(self, address: ir.Value, offset: ir.Value, mask: ir.Value) -> ir.Value:
        """The entries under the mask, zero elsewhere, touching no memory beyond them."""
        pointer = self.pointer(address, offset, self.entries, self.entry_bytes)
        kind = f"v{self.lanes}{'i8' if self.narrow else f'f{8 * self.bytes}'}"
        signature = ir.FunctionType(self.entries, [pointer.type, ir.IntType(32), mask.type, self.entries])
        function = cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.masked.load.{kind}.p0")
        zero = ir.Constant(self.entries, [0 if self.narrow else 0.0] * self.lanes)
        return self._widen(self.builder.call(function, [pointer, ir.IntType(32)(self.entry_bytes), mask, zero]))

    def gather(self, values: ir.Value, indices: ir.Value, count: int) -> ir.Value:
        """Vector of the ``count`` entries of ``values`` whose int32 numbers stand at ``indices``."""
        gathered: ir.Value = ir.Constant(ir.VectorType(self.scalar, count), ir.Undefined)
        for k in range(count):
            number = self.builder.load(self.pointer(indices, INDEX(k), ir.IntType(32), 4))
            entry = self.load(values, self.builder.zext(number, INDEX), self.scalar)
            gathered = self.builder.insert_element(gathered, entry, ir.IntType(32)(k))
        return gathered

    def sums(self, vectors: list[ir.Value]) -> ir.Value:
        """The sums over the lanes of 1, 2, 4 or 8 vectors, in one short vector: all at once, by halving."""
        builder, distance = self.builder, 1
        while len(vectors) > 1:
            low = [lane if lane & distance == 0 else self.lanes + lane for lane in range(self.lanes)]
            high = [lane + distance if lane & distance == 0 else self.lanes + lane - distance for lane in range(self.lanes)]
            vectors = [
                builder.fadd(self.shuffle(a, b, low), self.shuffle(a, b, high))
                for a, b in zip(vectors[0::2], vectors[1::2], strict=True)
            ]
            distance *= 2
        (vector,), count = vectors, distance
        while distance < self.lanes:
            vector = builder.fadd(vector, self.shuffle(vector, vector, [lane ^ distance for lane in range(self.lanes)]))
            distance *= 2
        return self.shuffle(vector, vector, list(range(count)))


def _blocks(emitter: _Emitter, length: ir.Value, unroll: int, body: Callable[[ir.Value, int], None]) -> ir.Value:
    """Loop over the whole vectors of ``length`` entries, ``unroll`` at a time; returns the first entry after them."""
    builder, lanes = emitter.builder, emitter.lanes
    block = INDEX(unroll * lanes)
    blocked = builder.mul(builder.udiv(length, block), block)
    with cgutils.for_range_slice(builder, INDEX(0), blocked, block, inc=True) as (offset, _):
        for part in range(unroll):
            body(builder.add(offset, INDEX(part * lanes)), part)
    whole = builder.mul(builder.udiv(length, INDEX(lanes)), INDEX(lanes))
    if unroll > 1:
        with cgutils.for_range_slice(builder, blocked, whole, INDEX(lanes), inc=True) as (offset, _):
            body(offset, 0)
    return whole


@intrinsic(prefer_literal=True)
def weigh_rows(  # type: ignore[no-untyped-def]
    typing_context, count, unroll, entry, share, noise, rows, pitch, indices, matrix, length, labels, normals, coefficients,
    squares,
):  # fmt: skip
    """Residuals of ``count`` drawn rows, each row read once and ``matrix`` once for all of them.

    With e_k = <row k, matrix> - labels[indices[k]]:  squares[k] += e_k^2,
    coefficients[k] = share * (e_k + noise * normals[k]). ``entry`` is any scalar of the rows' type.
    """
    group, steps = count.literal_value, unroll.literal_value
    addresses = (rows, pitch, indices, matrix, length, labels, normals, coefficients, squares)
    signature = types.void(count, unroll, entry, share, noise, *map(types.unliteral, addresses))
    is_narrow = types.unliteral(entry) == types.int8

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        share, noise, rows, pitch, indices, matrix, length, labels, normals, coefficients, squares = arguments[3:]
        emitter = _Rows(builder, share.type, is_narrow)
        here = emitter.addresses(rows, pitch, indices, group)
        partial = emitter.variables(group * steps)

        def accumulate(offset: ir.Value, part: int) -> None:
            weights = emitter.load(matrix, offset)
            for k in range(group):
                slot = partial[k * steps + part]
                builder.store(emitter.multiply_add(emitter.row(here[k], offset), weights, builder.load(slot)), slot)

        whole = _blocks(emitter, length, steps, accumulate)
        remaining = builder.sub(length, whole)
        with builder.if_then(builder.icmp_signed(">", remaining, INDEX(0))):
            mask = emitter.lanes_below(remaining)
            weights = emitter.load(matrix, whole)
            for k in range(group):
                slot = partial[k * steps]
                row = emitter.last_of_row(here[k], whole, mask)
                builder.store(emitter.multiply_add(row, weights, builder.load(slot)), slot)
        totals = []
        for k in range(group):
            total = builder.load(partial[k * steps])
            for part in range(1, steps):
                total = builder.fadd(total, builder.load(partial[k * steps + part]))
            totals.append(total)
        residuals = builder.fsub(emitter.sums(totals), emitter.gather(labels, indices, group))  # (count,)
        few = residuals.type
        before = emitter.load(squares, INDEX(0), few)
        emitter.store(emitter.multiply_add(residuals, residuals, before), squares, INDEX(0))
        noisy = emitter.multiply_add(emitter.splat(noise, few), emitter.load(normals, INDEX(0), few), residuals)
        emitter.store(builder.fmul(emitter.splat(share, few), noisy), coefficients, INDEX(0))
        return context.get_dummy_value()

    return signature, emit


@intrinsic(prefer_literal=True)
def add_rows(typing_context, count, unroll, entry, like, rows, pitch, indices, coefficients, matrix, length):  # type: ignore[no-untyped-def]
    """matrix += sum_k coefficients[k] * row k over ``count`` drawn rows."""
    group, steps, is_narrow = count.literal_value, unroll.literal_value, types.unliteral(entry) == types.int8
    signature = types.void(count, unroll, entry, like, rows, pitch, indices, coefficients, matrix, length)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        rows, pitch, indices, coefficients, matrix, length = arguments[4:]
        emitter = _Rows(builder, arguments[3].type, is_narrow)
        here = emitter.addresses(rows, pitch, indices, group)
        factor = [emitter.splat(emitter.load(coefficients, INDEX(k), emitter.scalar)) for k in range(group)]

        def accumulate(offset: ir.Value, part: int) -> None:
            total = emitter.load(matrix, offset)
            for k in range(group):
                total = emitter.multiply_add(emitter.row(here[k], offset), factor[k], total)
            emitter.store(total, matrix, offset)

        whole = _blocks(emitter, length, steps, accumulate)
        remaining = builder.sub(length, whole)
        with builder.if_then(builder.icmp_signed(">", remaining, INDEX(0))):
            mask = emitter.lanes_below(remaining)
            total = emitter.load(matrix, whole)
            for k in range(group):
                total = emitter.multiply_add(emitter.last_of_row(here[k], whole, mask), factor[k], total)
            emitter.store(total, matrix, whole)
        return context.get_dummy_value()

    return signature, emit


@intrinsic(prefer_literal=True)
def product_tile(typing_context, height, width, scale, accumulate, c, ldc, a, a_row, a_column, b, ldb, inner):  # type: ignore[no-untyped-def]
    """C = A B, or C += scale * A B where ``accumulate``, for ``height`` rows and ``width`` vectors of C.

    A's entry (i, k) stands at ``a + i * a_row + k * a_column``, so that A may be a transpose; B and C are row-major.
    """
    m, n = height.literal_value, width.literal_value
    signature = types.void(height, width, scale, *map(types.unliteral, (accumulate, c, ldc, a, a_row, a_column, b, ldb, inner)))

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        scale, accumulate, c, ldc, a, a_row, a_column, b, ldb, inner = arguments[2:]
        emitter = _Emitter(builder, scale.type)
        tile = emitter.variables(m * n)
        with cgutils.for_range(builder, inner) as loop:
            b_row = builder.mul(loop.index, ldb)
            right = [emitter.load(b, builder.add(b_row, INDEX(j * emitter.lanes))) for j in range(n)]
            a_here = builder.mul(loop.index, a_column)
            for i in range(m):
                entry = emitter.load(a, builder.add(a_here, builder.mul(a_row, INDEX(i))), emitter.scalar)
                left = emitter.splat(entry)
                for j in range(n):
                    slot = tile[i * n + j]
                    builder.store(emitter.multiply_add(left, right[j], builder.load(slot)), slot)
        factor = emitter.splat(scale)
        with builder.if_else(builder.icmp_unsigned("!=", accumulate, accumulate.type(0))) as (adding, replacing):
            for branch, adds in ((adding, True), (replacing, False)):
                with branch:
                    for i in range(m):
                        for j in range(n):
                            offset = builder.add(builder.mul(ldc, INDEX(i)), INDEX(j * emitter.lanes))
                            value = builder.load(tile[i * n + j])
                            if adds:
                                value = emitter.multiply_add(factor, value, emitter.load(c, offset))
                            emitter.store(value, c, offset)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def transpose_tile(typing_context, like, target, ldt, source, lds):  # type: ignore[no-untyped-def]
    """Transpose one square tile, as many rows as a vector has lanes, by exchanges over halving distances."""
    signature = types.void(like, target, ldt, source, lds)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        like, target, ldt, source, lds = arguments
        emitter = _Emitter(builder, like.type)
        lanes = emitter.lanes
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
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def copy_vector(typing_context, like, target, source, valid):  # type: ignore[no-untyped-def]
    """Copy one vector; lanes from ``valid`` on become zero."""
    signature = types.void(like, target, source, valid)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        like, target, source, valid = arguments
        emitter = _Emitter(builder, like.type)
        value = emitter.load(source, INDEX(0))
        kept = builder.select(emitter.lanes_below(valid), value, emitter.zero)
        emitter.store(kept, target, INDEX(0))
        return context.get_dummy_value()

    return signature, emit
