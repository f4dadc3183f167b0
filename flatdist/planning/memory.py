"""Memory of one trial: the measurements of the replicates that it holds at once dominate."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise

from flatdist.cells.cell import Cell
from flatdist.cells.problems import storage_dtype
from flatdist.errors import LaunchError
from flatdist.factorization.evaluation import BLOCK
from flatdist.sensing.ensembles import ENSEMBLES

# A Python process that is ready to run cells, measured with benchmarks/memory.py and in Ray's workers.
PROCESS_BYTES = {"fused": 185 * 10**6, "solver": 250 * 10**6}
PROCESS_WITH_TORCH_BYTES = 290 * 10**6
RAY_BYTES = 185 * 10**6  # what Ray's libraries add to a worker
WORKING_BYTES = 15 * 10**6  # temporaries of sampling and evaluating one replicate
FLOAT64 = 8


def memory_bytes(cell: Cell, replicates: int, engine: str = "fused", executor: str = "ray") -> int:
    """Peak memory of the process of a trial that runs some replicates of one cell together, in bytes."""
    entries = cell.n * cell.d_out * cell.d_in
    launcher = RAY_BYTES if executor == "ray" else 0
    if not cell.spec.takes_steps:
        # Solved one after the other, measurements written out; the Gram matrix and its factorization.
        return launcher + PROCESS_BYTES["solver"] + FLOAT64 * (3 * entries + 3 * cell.n**2)
    itemsize = 8 if cell.dtype == "float64" else 4
    storage = ENSEMBLES[cell.ensemble].storage
    measurements = cell.n * storage.row_bytes(cell.d_out, cell.d_in, storage_dtype(cell, engine))
    copies = 1 if engine == "fused" else 2  # torch's tensors beside the arrays that evaluations read
    weights = sum(a * b for a, b in pairwise(cell.widths))
    history = 12 * FLOAT64 * cell.evaluations
    layers = (FLOAT64 * (BLOCK + 2) + itemsize * 3) * weights  # a block of snapshots to be evaluated, and the weights
    # Evaluations multiply all factors at once; entries written out are worked on in blocks.
    products = 4 * FLOAT64 * cell.n * (cell.d_out + cell.d_in) if storage.structured else 0
    process = PROCESS_BYTES.get(engine, PROCESS_WITH_TORCH_BYTES) + WORKING_BYTES + products
    return launcher + process + replicates * (copies * measurements + layers + history)


def pack_bytes(items: Iterable[tuple[Cell, int]], engine: str, executor: str) -> int:
    """Peak memory of the process of a trial that holds replicates of several cells, (cell, how many), at once."""
    parts = [
        (memory_bytes(cell, 0, engine, executor), memory_bytes(cell, count, engine, executor)) for cell, count in items
    ]
    return max(empty for empty, _ in parts) + sum(whole - empty for empty, whole in parts)


def replicates_that_fit(cell: Cell, limit: int, engine: str = "fused", executor: str = "ray") -> int:
    """How many replicates a trial may hold at once within a limit in bytes; at least one is tried."""
    one, two = (memory_bytes(cell, count, engine, executor) for count in (1, 2))
    return max(1, 1 + (limit - one) // max(1, two - one)) if limit > one else 1


def require_room(cells: Iterable[tuple[Cell, str]], free: int, executor: str) -> None:
    """Reject cells, each with its engine, if not even one replicate fits into this machine's free memory.

    Raises:
        LaunchError: names the largest such cell, what it needs and what is free.
    """
    needs = ((memory_bytes(cell, 1, engine, executor), cell) for cell, engine in cells)
    need, cell = max(needs, key=lambda pair: pair[0], default=(0, None))
    if cell is not None and need > free:
        raise LaunchError(
            f"one replicate of {cell.method} with d_out={cell.d_out}, d_in={cell.d_in}, n={cell.n} needs "
            f"{need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are available here; take a smaller n, or run it on a "
            "cluster with --address"
        )


def available_bytes() -> int | None:
    """Memory of this machine that is free for use, or None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None
