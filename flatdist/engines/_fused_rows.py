"""Drawn measurements, several at a time: their residuals against M, and their weighted sum into the gradient.

A drawn row is read from memory once and used twice while it is in the cache. Rows are of floats, or of +1 and -1 in
int8, widened as they are read.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flatdist.engines._fused_layout import LARGEST_GROUP
from flatdist.engines._fused_vector import INDEX, Emitter

# How entries are kept that are widened as they are read: +1 and -1 as int8, float16 by its bits.
NARROW = {types.int8: ir.IntType(8), types.uint16: ir.IntType(16)}


class Rows(Emitter):
    """Drawn measurements: rows of floats, or of narrower entries that are widened as they are read.

    Args:
        builder: of the code.
        scalar: type of the sums.
        entry: Numba's type of an entry.
    """

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type, entry: Any) -> None:
        super().__init__(builder, scalar)
        self.entry = NARROW.get(entry, scalar)
        self.entry_bytes = self.entry.width // 8 if entry in NARROW else self.bytes
        self.entries = ir.VectorType(self.entry, self.lanes)

    def addresses(self, base: ir.Value, pitch: ir.Value, indices: ir.Value, count: int) -> list[ir.Value]:
        """Addresses of the rows whose int32 numbers stand at ``indices``."""
        found = []
        for k in range(count):
            number = self.builder.load(self.pointer(indices, INDEX(k), ir.IntType(32), 4))
            row = self.builder.mul(self.builder.zext(number, INDEX), pitch)
            found.append(self.builder.add(base, self.builder.mul(row, INDEX(self.entry_bytes))))
        return found

    def _widen(self, entries: ir.Value) -> ir.Value:
        if self.entry_bytes == 1:
            return self.builder.sitofp(entries, self.vector)
        if self.entry_bytes == 2:
            return self.builder.fpext(
                self.builder.bitcast(entries, ir.VectorType(ir.HalfType(), self.lanes)), self.vector
            )
        return entries

    def row(self, address: ir.Value, offset: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """A vector of a row's entries; those outside a mask are zero, and the memory they stand for is not touched."""
        pointer = self.pointer(address, offset, self.entries, self.entry_bytes)
        if mask is None:
            return self._widen(self.builder.load(pointer, align=self.entry_bytes))
        kind = f"v{self.lanes}{'f' if self.entry is self.scalar else 'i'}{8 * self.entry_bytes}"
        signature = ir.FunctionType(self.entries, [pointer.type, ir.IntType(32), mask.type, self.entries])
        function = cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.masked.load.{kind}.p0")
        zero = ir.Constant(self.entries, [0.0 if self.entry is self.scalar else 0] * self.lanes)
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
        if len(vectors) > self.lanes:  # float64 in 256 bits: 8 sums do not fit into one vector
            half = len(vectors) // 2
            return self.shuffle(self.sums(vectors[:half]), self.sums(vectors[half:]), list(range(2 * half)))
        builder, distance = self.builder, 1
        while len(vectors) > 1:
            low = [lane if lane & distance == 0 else self.lanes + lane for lane in range(self.lanes)]
            high = [
                lane + distance if lane & distance == 0 else self.lanes + lane - distance for lane in range(self.lanes)
            ]
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

    def coefficients(
        self, sums: ir.Value, share: ir.Value, noise: ir.Value, indices: ir.Value, labels: ir.Value, normals: ir.Value,
        squares: ir.Value,
    ) -> ir.Value:  # fmt: skip
        """share * (e + noise * normals) for the residuals e = sums - labels[indices], whose squares are added up."""
        residuals = self.builder.fsub(sums, self.gather(labels, indices, sums.type.count))  # (count,)
        few = residuals.type
        before = self.load(squares, INDEX(0), few)
        self.store(self.multiply_add(residuals, residuals, before), squares, INDEX(0))
        noisy = self.multiply_add(self.splat(noise, few), self.load(normals, INDEX(0), few), residuals)
        return self.builder.fmul(self.splat(share, few), noisy)


def each_vector(
    emitter: Rows, length: ir.Value, unroll: int, body: Callable[[ir.Value, int, ir.Value | None], None]
) -> None:
    """``body`` for the vectors of ``length`` entries, ``unroll`` at a time; what is left over comes with a mask."""
    builder, lanes = emitter.builder, emitter.lanes
    block = INDEX(unroll * lanes)
    blocked = builder.mul(builder.udiv(length, block), block)
    with cgutils.for_range_slice(builder, INDEX(0), blocked, block, inc=True) as (offset, _):
        for part in range(unroll):
            body(builder.add(offset, INDEX(part * lanes)), part, None)
    whole = builder.mul(builder.udiv(length, INDEX(lanes)), INDEX(lanes))
    if unroll > 1:
        with cgutils.for_range_slice(builder, blocked, whole, INDEX(lanes), inc=True) as (offset, _):
            body(offset, 0, None)
    remaining = builder.sub(length, whole)
    with builder.if_then(builder.icmp_signed(">", remaining, INDEX(0))):
        body(whole, 0, emitter.lanes_below(remaining))


def by_group(context: Any, builder: ir.IRBuilder, count: ir.Value, emit: Callable[[int], None]) -> Any:
    """Code for each of :data:`GROUPS`, of which the one with ``count`` rows runs."""
    for group in GROUPS:
        with builder.if_then(builder.icmp_signed("==", count, INDEX(group))):
            emit(group)
    return context.get_dummy_value()


# Rows taken together, and vectors of each at a time: as many sums as hide the latency of a multiply-add.
GROUPS = (8, 4, 2, 1)


@intrinsic
def weigh_rows(
    typing_context, count, entry, share, noise, rows, length, indices, matrix, labels, normals, out, squares
):
    """Residuals of ``count`` (8, 4, 2 or 1) drawn rows, each row read once and ``matrix`` once for all of them.

    With e_k = <row k, matrix> - labels[indices[k]]:  squares[k] += e_k^2,
    out[k] = share * (e_k + noise * normals[k]). ``entry`` is any scalar of the rows' type.
    """
    signature = types.void(count, entry, share, noise, rows, length, indices, matrix, labels, normals, out, squares)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return by_group(context, builder, arguments[0], lambda group: weigh(builder, group, *arguments[2:]))

    def weigh(builder: ir.IRBuilder, group: int, *arguments: Any) -> None:
        share, noise, rows, length, indices, matrix, labels, normals, out, squares = arguments
        emitter, steps = Rows(builder, share.type, entry), LARGEST_GROUP // group
        here = emitter.addresses(rows, length, indices, group)
        partial = emitter.variables(group * steps)

        def accumulate(offset: ir.Value, part: int, mask: ir.Value | None) -> None:
            weights = emitter.load(matrix, offset)
            for k in range(group):
                slot, row = partial[k * steps + part], emitter.row(here[k], offset, mask)
                builder.store(emitter.multiply_add(row, weights, builder.load(slot)), slot)

        each_vector(emitter, length, steps, accumulate)
        totals = []
        for k in range(group):
            total = builder.load(partial[k * steps])
            for part in range(1, steps):
                total = builder.fadd(total, builder.load(partial[k * steps + part]))
            totals.append(total)
        found = emitter.coefficients(emitter.sums(totals), share, noise, indices, labels, normals, squares)
        emitter.store(found, out, INDEX(0))

    return signature, emit


@intrinsic
def add_rows(typing_context, count, entry, like, rows, length, indices, coefficients, matrix):
    """matrix += sum_k coefficients[k] * row k over ``count`` (8, 4, 2 or 1) drawn rows."""
    signature = types.void(count, entry, like, rows, length, indices, coefficients, matrix)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return by_group(context, builder, arguments[0], lambda group: add(builder, group, *arguments[2:]))

    def add(builder: ir.IRBuilder, group: int, *arguments: Any) -> None:
        like, rows, length, indices, coefficients, matrix = arguments
        emitter = Rows(builder, like.type, entry)
        here = emitter.addresses(rows, length, indices, group)
        factor = [emitter.splat(emitter.load(coefficients, INDEX(k), emitter.scalar)) for k in range(group)]

        def accumulate(offset: ir.Value, part: int, mask: ir.Value | None) -> None:
            total = emitter.load(matrix, offset)
            for k in range(group):
                total = emitter.multiply_add(emitter.row(here[k], offset, mask), factor[k], total)
            emitter.store(total, matrix, offset)

        each_vector(emitter, length, 1 if group > 2 else 2, accumulate)

    return signature, emit
