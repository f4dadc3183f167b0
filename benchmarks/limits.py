"""Lower limits of a step: its multiply-adds at the core's peak, and its drawn rows at the speed of random reads.

    arithmetic = floating-point operations of a step / peak of the core, measured with independent multiply-adds alone
    rows       = time in which rows drawn at random from the same measurements are read, and nothing done with them

A step takes at least the longer of the two, and their sum where nothing overlaps. Both are measured on one thread, in
turn with the engines, so that the clock of the core is the same.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from flatdist.engines._fused_vector import INDEX, VECTOR_BYTES, Emitter, tight_loop
from flatdist.types import Array

ACCUMULATORS = 12  # independent sums: enough for two multiply-adds a cycle of a latency of 4 or 5
BURST = 100_000  # turns of the loop of multiply-adds


def product_shapes(widths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(rows, columns, inner) of a step's layer products."""
    shapes = []
    for inner, outer in pairwise(widths[1:]):
        # W_j P_{j-1},  W_j^T H_j,  H_j P_{j-1}^T
        shapes += [(outer, widths[0], inner), (inner, widths[0], outer), (outer, inner, widths[0])]
    return shapes


def step_flops(widths: tuple[int, ...], batch: int) -> int:
    """Floating-point operations of a step: products, residuals and the weighted sum of the drawn rows."""
    return sum(2 * m * n * k for m, n, k in product_shapes(widths)) + 4 * batch * widths[0] * widths[-1]


def _first_lane_of_sum(builder: ir.IRBuilder, slots: list[ir.Value]) -> ir.Value:
    """Uses every accumulator, so that the compiler leaves none out."""
    total = builder.load(slots[0])
    for slot in slots[1:]:
        total = builder.fadd(total, builder.load(slot))
    return builder.extract_element(total, ir.IntType(32)(0))


@intrinsic
def _multiply_adds(typing_context, factor, turns):
    """``ACCUMULATORS`` vectors, each multiplied and added to itself ``turns`` times; their sum over everything."""
    signature = factor(factor, turns)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        factor, turns = arguments
        emitter = Emitter(builder, factor.type)
        slots, splat = emitter.variables(ACCUMULATORS), emitter.splat(factor)
        with tight_loop(builder, turns, unrolled=False):
            for slot in slots:
                builder.store(emitter.multiply_add(splat, builder.load(slot), splat), slot)
        return _first_lane_of_sum(builder, slots)

    return signature, emit


@njit(nogil=True)
def _burst(factor: float, turns: int) -> float:
    return _multiply_adds(factor, turns)


@intrinsic
def _row_sum(typing_context, address, length):
    """Sum of the whole vectors of a float32 row, eight independent ones at a time."""
    signature = types.float32(address, length)

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        address, length = arguments
        emitter = Emitter(builder, ir.FloatType())
        slots = emitter.variables(8)
        block = INDEX(8 * emitter.lanes)
        stop = builder.mul(builder.udiv(length, block), block)
        whole = builder.mul(builder.udiv(length, INDEX(emitter.lanes)), INDEX(emitter.lanes))
        for first, last, together in ((INDEX(0), stop, 8), (stop, whole, 1)):
            step = INDEX(together * emitter.lanes)
            with cgutils.for_range_slice(builder, first, last, step, inc=True) as (offset, _):
                for k, slot in enumerate(slots[:together]):
                    here = emitter.load(address, builder.add(offset, INDEX(k * emitter.lanes)))
                    builder.store(builder.fadd(builder.load(slot), here), slot)
        return _first_lane_of_sum(builder, slots)

    return signature, emit


@njit(nogil=True)
def _read_rows(rows: Array, indices: Array) -> float:
    total = np.float32(0)
    address, pitch = np.int64(rows.ctypes.data), np.int64(rows.shape[1])
    for i in indices:
        total += _row_sum(address + i * pitch * 4, pitch)
    return total


class Limits:
    """Bursts of multiply-adds and of row reads, to be timed in turn with the engines.

    Args:
        widths: d_0 ... d_L.
        rows: (n, d_out * d_in) float32 measurements of one replicate.
        batch: rows drawn per step.
    """

    def __init__(self, widths: tuple[int, ...], rows: Array, batch: int) -> None:
        self.flops = step_flops(widths, batch)
        self.rows, self.batch = rows, batch
        self.indices = np.random.default_rng(1).integers(0, len(rows), (512, batch))
        self.best: dict[str, float] = {}
        self.turn = 0

    def burst(self) -> None:
        """Time everything once; the shortest time of all bursts counts."""
        operations = 2 * ACCUMULATORS * (VECTOR_BYTES // 4) * BURST
        self._record("operation", lambda: _burst(np.float32(0.5), np.int64(BURST)), operations)
        steps = max(1, int(2e7 / (self.batch * self.rows.shape[1] * 4)))
        drawn = self.indices[(self.turn + np.arange(steps)) % len(self.indices)].ravel()
        self.turn += steps
        self._record("rows", lambda: _read_rows(self.rows, drawn), steps)

    def _record(self, key: str, work: Callable[[], object], count: int) -> None:
        start = time.thread_time()
        work()
        self.best[key] = min(self.best.get(key, np.inf), (time.thread_time() - start) / count)

    @property
    def peak(self) -> float:
        """Floating-point operations per second of the core."""
        return 1.0 / self.best["operation"]

    @property
    def arithmetic(self) -> float:
        """Seconds of a step's arithmetic at the peak."""
        return self.flops * self.best["operation"]

    @property
    def reading(self) -> float:
        """Seconds of reading a step's drawn rows."""
        return self.best["rows"]
