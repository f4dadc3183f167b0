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
from collections.abc import Iterator

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config
from numba.core import cgutils


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


class Emitter:
    """Builds vector code for entries of one floating-point type."""

    def __init__(self, builder: ir.IRBuilder, scalar: ir.Type) -> None:
        self.builder = builder
        self.scalar = scalar
        self.bytes = 4 if isinstance(scalar, ir.FloatType) else 8
        self.lanes = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(scalar, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def address(self, base: ir.Value, offset: ir.Value) -> ir.Value:
        """Address of the entry ``offset`` entries after ``base``."""
        return self.builder.add(base, self.builder.mul(offset, INDEX(self.bytes)))

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
        identity = builder.module.add_metadata([disabled, ir.IntType(32)(len(builder.module.metadata))])
        identity.operands = (identity, disabled)  # a loop's identity names itself first
        back.set_metadata("llvm.loop", identity)
    builder.position_at_end(after)
