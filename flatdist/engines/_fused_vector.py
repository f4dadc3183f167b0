"""Vector instructions for the fused engine's inner loops, as Numba intrinsics that emit LLVM vector code.

Numba's loop vectoriser neither keeps a tile of a matrix product in registers nor fuses work over several drawn rows,
so the inner loops that matter are emitted with explicit vectors. Matrices are passed as integer addresses of their
first entry, and leading dimensions and offsets count entries. The order of every sum is fixed by ``VECTOR_BYTES``
alone: the bits of a result depend on the kind of processor, never on alignment or neighbours.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined"

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import wraps
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
INDEX, INT32 = ir.IntType(64), ir.IntType(32)


def lanes_of(dtype: str) -> int:
    """Entries of one vector for float32 or float64."""
    return VECTOR_BYTES // (4 if dtype == "float32" else 8)


def emitted(emit: Callable[..., None]) -> Any:
    """An intrinsic that returns nothing: ``emit(builder, *arguments)`` writes its code wherever it is called."""

    @wraps(emit)
    def definition(typing_context: Any, *kinds: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*kinds), lower

    return intrinsic(definition)


class Emitter:
    """Builds vector code for entries of one floating-point type.

    Args:
        builder: of the code.
        scalar: type of the entries and sums.
        entry: type of the entries of drawn rows, widened as they are read: int8 for +1 and -1, int16 for the bits of
            float16; ``scalar`` by default.
    """

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type, entry: ir.Type | None = None) -> None:
        self.builder, self.scalar, self.entry = builder, scalar, entry or scalar
        self.bytes = 4 if isinstance(scalar, ir.FloatType) else 8
        self.entry_bytes = self.entry.width // 8 if isinstance(self.entry, ir.IntType) else self.bytes
        self.lanes = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(scalar, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def at(self, base: ir.Value, row: ir.Value, pitch: ir.Value, column: ir.Value | None = None) -> ir.Value:
        """Address of an entry of a matrix at ``base`` whose rows are ``pitch`` entries apart."""
        offset = self.builder.mul(row, pitch)
        offset = offset if column is None else self.builder.add(offset, column)
        return self.builder.add(base, self.builder.mul(offset, INDEX(self.bytes)))

    def pointer(self, address: ir.Value, offset: ir.Value, element: ir.Type, size: int) -> ir.Value:
        byte = self.builder.add(address, self.builder.mul(offset, INDEX(size)))
        return self.builder.inttoptr(byte, element.as_pointer())

    def load(self, address: ir.Value, offset: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        return self.builder.load(self.pointer(address, offset, kind or self.vector, self.bytes), align=self.bytes)

    def store(self, value: ir.Value, address: ir.Value, offset: ir.Value) -> None:
        self.builder.store(value, self.pointer(address, offset, value.type, self.bytes), align=self.bytes)

    def number(self, indices: ir.Value, k: int) -> ir.Value:
        """The k-th of the int32 numbers at ``indices``."""
        return self.builder.zext(self.builder.load(self.pointer(indices, INDEX(k), INT32, 4)), INDEX)

    def splat(self, value: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        kind = kind or self.vector
        undefined = ir.Constant(kind, ir.Undefined)
        return self.shuffle(self.builder.insert_element(undefined, value, INT32(0)), undefined, [0] * kind.count)

    def shuffle(self, a: ir.Value, b: ir.Value, mask: list[int]) -> ir.Value:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(mask)), mask))

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c in every lane, fused where the processor can."""
        kind = f"v{a.type.count}f{8 * self.bytes}"
        signature = ir.FunctionType(a.type, [a.type] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.fmuladd.{kind}")
        return self.builder.call(function, [a, b, c])

    def lanes_below(self, count: ir.Value) -> ir.Value:
        """Mask of the first ``count`` lanes."""
        kind = ir.VectorType(INT32, self.lanes)
        limit = self.splat(self.builder.trunc(count, INT32), kind)
        return self.builder.icmp_signed("<", ir.Constant(kind, list(range(self.lanes))), limit)

    def variables(self, count: int) -> list[ir.Value]:
        """``count`` vectors, zero at first, that the optimiser keeps in registers."""
        slots = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        for slot in slots:
            self.builder.store(self.zero, slot)
        return slots

    def rows(self, base: ir.Value, pitch: ir.Value, indices: ir.Value, count: int) -> list[ir.Value]:
        """Addresses of the drawn rows whose int32 numbers stand at ``indices``."""
        starts = (self.builder.mul(self.number(indices, k), pitch) for k in range(count))
        return [self.builder.add(base, self.builder.mul(start, INDEX(self.entry_bytes))) for start in starts]

    def row(self, address: ir.Value, offset: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """A vector of a row's entries; those outside a mask are zero, and the memory they stand for is not touched."""
        entries = ir.VectorType(self.entry, self.lanes)
        pointer = self.pointer(address, offset, entries, self.entry_bytes)
        if mask is None:
            return self._widen(self.builder.load(pointer, align=self.entry_bytes))
        kind = f"v{self.lanes}{'f' if self.entry is self.scalar else 'i'}{8 * self.entry_bytes}"
        signature = ir.FunctionType(entries, [pointer.type, INT32, mask.type, entries])
        function = cgutils.get_or_insert_function(self.builder.module, signature, f"llvm.masked.load.{kind}.p0")
        zero = ir.Constant(entries, [0.0 if self.entry is self.scalar else 0] * self.lanes)
        return self._widen(self.builder.call(function, [pointer, INT32(self.entry_bytes), mask, zero]))

    def _widen(self, entries: ir.Value) -> ir.Value:
        if self.entry_bytes == 1:
            return self.builder.sitofp(entries, self.vector)
        if self.entry_bytes == 2:
            halves = ir.VectorType(ir.HalfType(), self.lanes)
            return self.builder.fpext(self.builder.bitcast(entries, halves), self.vector)
        return entries

    def sums(self, vectors: list[ir.Value]) -> ir.Value:
        """The sums over the lanes of 1, 2, 4 or 8 vectors, in one short vector: all at once, by halving."""
        if len(vectors) > self.lanes:  # float64 in 256 bits: 8 sums do not fit into one vector
            half = len(vectors) // 2
            return self.shuffle(self.sums(vectors[:half]), self.sums(vectors[half:]), list(range(2 * half)))
        lanes, distance = range(self.lanes), 1
        while len(vectors) > 1:
            low = [lane if lane & distance == 0 else self.lanes + lane for lane in lanes]
            high = [lane + distance if lane & distance == 0 else self.lanes + lane - distance for lane in lanes]
            vectors = [
                self.builder.fadd(self.shuffle(a, b, low), self.shuffle(a, b, high))
                for a, b in zip(vectors[0::2], vectors[1::2], strict=True)
            ]
            distance *= 2
        (vector,), count = vectors, distance
        while distance < self.lanes:
            vector = self.builder.fadd(vector, self.shuffle(vector, vector, [lane ^ distance for lane in lanes]))
            distance *= 2
        return self.shuffle(vector, vector, list(range(count)))

    def coefficients(
        self, sums: ir.Value, share: ir.Value, noise: ir.Value, indices: ir.Value, labels: ir.Value, normals: ir.Value,
        squares: ir.Value,
    ) -> ir.Value:  # fmt: skip
        """share * (e + noise * normals) for the residuals e = sums - labels[indices], whose squares are added up."""
        few = sums.type  # (count,)
        gathered: ir.Value = ir.Constant(few, ir.Undefined)
        for k in range(few.count):
            label = self.load(labels, self.number(indices, k), self.scalar)
            gathered = self.builder.insert_element(gathered, label, INT32(k))
        residuals = self.builder.fsub(sums, gathered)
        before = self.load(squares, INDEX(0), few)
        self.store(self.multiply_add(residuals, residuals, before), squares, INDEX(0))
        noisy = self.multiply_add(self.splat(noise, few), self.load(normals, INDEX(0), few), residuals)
        return self.builder.fmul(self.splat(share, few), noisy)

    def each_vector(
        self, length: ir.Value, unroll: int, body: Callable[[ir.Value, int, ir.Value | None], None]
    ) -> None:
        """``body`` for the vectors of ``length`` entries, ``unroll`` at a time; what is left over comes with a mask."""
        builder, block = self.builder, unroll * self.lanes
        blocked = builder.mul(builder.udiv(length, INDEX(block)), INDEX(block))
        with blocks(builder, INDEX(0), blocked, block) as offset:
            for part in range(unroll):
                body(builder.add(offset, INDEX(part * self.lanes)), part, None)
        whole = builder.mul(builder.udiv(length, INDEX(self.lanes)), INDEX(self.lanes))
        if unroll > 1:
            with blocks(builder, blocked, whole, self.lanes) as offset:
                body(offset, 0, None)
        remaining = builder.sub(length, whole)
        with builder.if_then(builder.icmp_signed(">", remaining, INDEX(0))):
            body(whole, 0, self.lanes_below(remaining))


@contextlib.contextmanager
def blocks(builder: ir.IRBuilder, first: Any, stop: Any, step: int) -> Iterator[ir.Value]:
    """Loop over first, first + step, ... below ``stop``."""
    with cgutils.for_range_slice(builder, first, stop, INDEX(step), inc=True) as (position, _):
        yield position


@contextlib.contextmanager
def tight_loop(builder: ir.IRBuilder, count: ir.Value, unrolled: bool) -> Iterator[ir.Value]:
    """Loop over 0 .. count-1, at least once, that LLVM may unroll or not.

    The optimiser runs once for every level of callers that a tile is inlined into. Each time it may unroll the loop
    further, until the accumulators of a large tile no longer fit the registers and the step is a quarter slower.
    """
    before = builder.block
    body, after = builder.append_basic_block("tile"), builder.append_basic_block("tile.end")
    builder.branch(body)
    builder.position_at_end(body)
    position = builder.phi(INDEX)
    position.add_incoming(INDEX(0), before)
    yield position
    following = builder.add(position, INDEX(1))
    position.add_incoming(following, builder.block)
    back = builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    if not unrolled:
        disabled = builder.module.add_metadata(["llvm.loop.unroll.disable"])
        identity = builder.module.add_metadata([disabled, INT32(len(builder.module.metadata))])
        identity.operands = (identity, disabled)  # a loop's identity names itself first
        back.set_metadata("llvm.loop", identity)
    builder.position_at_end(after)
