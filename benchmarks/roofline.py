"""What a step cannot do without: its products at BLAS speed, and its drawn rows at the speed of random rows.

    roofline = BLAS time of the 3 (depth - 1) layer products, one after the other
             + bytes of the drawn rows / bandwidth at which rows drawn at random from the same measurements are read

Both are measured, on one thread, beside the engines. The faster of two BLAS libraries counts: the one Numba calls
(SciPy's OpenBLAS) and torch's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numba import njit

from flatdist.types import Array


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


@njit(nogil=True)
def _multiply(left: Array, right: Array, out: Array, repeats: int) -> None:
    for _ in range(repeats):
        np.dot(left, right, out)


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _read_rows(rows: Array, indices: Array) -> float:
    total = 0.0
    for i in indices:
        part = rows[0, 0]
        for j in range(rows.shape[1]):
            part += rows[i, j]
        total += part
    return total


class Roofline:
    """Bursts of a step's products and of its row reads, to be timed in turn with the engines.

    Args:
        widths: d_0 ... d_L.
        rows: (n, d_out * d_in) measurements of one replicate.
        batch: rows drawn per step.
    """

    def __init__(self, widths: tuple[int, ...], rows: Array, batch: int) -> None:
        rng = np.random.default_rng(1)
        self.rows, self.batch = rows, batch
        self.indices = rng.integers(0, len(rows), (512, batch))
        kinds: dict[tuple[int, int, int], int] = {}
        for shape in product_shapes(widths):
            kinds[shape] = kinds.get(shape, 0) + 1
        self.kinds = kinds
        self.operands = {
            (m, n, k): tuple(rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n), (m, n)))
            for m, n, k in kinds
        }
        self.best: dict[object, float] = {}
        self.turn = 0

    def burst(self) -> None:
        """Time everything once; the shortest time of all bursts counts."""
        for shape, (left, right, out) in self.operands.items():
            repeats = min(5000, max(20, int(5e7 / np.prod(shape, dtype=float))))  # about a millisecond
            self._record(("numba", shape), lambda a=left, b=right, c=out, r=repeats: _multiply(a, b, c, r), repeats)
            tensors = [torch.from_numpy(a) for a in (left, right, out)]

            def with_torch(tensors: list[torch.Tensor] = tensors, repeats: int = min(repeats, 400)) -> None:
                for _ in range(repeats):
                    torch.mm(tensors[0], tensors[1], out=tensors[2])

            self._record(("torch", shape), with_torch, min(repeats, 400))
        steps = max(1, int(2e7 / (self.batch * self.rows.shape[1] * 4)))
        drawn = self.indices[(self.turn + np.arange(steps)) % len(self.indices)].ravel()
        self.turn += steps
        self._record("rows", lambda: _read_rows(self.rows, drawn), steps)

    def _record(self, key: object, work: Callable[[], object], count: int) -> None:
        start = time.perf_counter()
        work()
        elapsed = (time.perf_counter() - start) / count
        self.best[key] = min(self.best.get(key, np.inf), elapsed)

    @property
    def products(self) -> float:
        """Seconds per step of the layer products at BLAS speed."""
        return sum(
            count * min(self.best["numba", shape], self.best["torch", shape]) for shape, count in self.kinds.items()
        )

    @property
    def reading(self) -> float:
        """Seconds per step of reading the drawn rows."""
        return self.best["rows"]

    @property
    def bandwidth(self) -> float:
        """Bytes per second at which drawn rows are read."""
        return self.batch * self.rows.shape[1] * self.rows.itemsize / self.reading
