"""Memory of one trial: the measurements of the replicates that it holds at once dominate."""

from __future__ import annotations

import os
from itertools import pairwise

from flatdist.cell import Cell
from flatdist.ensembles import ENSEMBLES
from flatdist.methods.base import GradientMethod

PROCESS_BYTES = 400 * 2**20  # a Python process with torch, numba and ray loaded
FLOAT64 = 8


def memory_bytes(cell: Cell, replicates: int, engine: str = "fused") -> int:
    """Peak memory of a trial that runs some replicates of one cell together, in bytes.

    Args:
        cell: the configuration.
        replicates: how many are held at once.
        engine: what takes the steps; the fused engine keeps signs as single bytes.
    """
    entries = cell.n * cell.d_out * cell.d_in
    if not isinstance(cell.spec, GradientMethod):  # solved one after the other; the Gram matrix and its factorization
        return PROCESS_BYTES + FLOAT64 * (3 * entries + 3 * cell.n**2)
    itemsize = 8 if cell.dtype == "float64" else 4
    held = 1 if engine == "fused" and ENSEMBLES[cell.ensemble].signs else itemsize
    widths = cell.widths
    weights = sum(a * b for a, b in pairwise(widths))
    history = 12 * FLOAT64 * cell.evaluations
    layers = (FLOAT64 * 2 + itemsize * 34) * weights  # current, previous, and a block of snapshots to be evaluated
    return PROCESS_BYTES + 2 * FLOAT64 * entries + replicates * (entries * held + layers + history)


def replicates_that_fit(cell: Cell, limit: int, engine: str = "fused") -> int:
    """How many replicates a trial may hold at once within a limit in bytes; at least one is tried."""
    one, two = memory_bytes(cell, 1, engine), memory_bytes(cell, 2, engine)
    return max(1, 1 + (limit - one) // max(1, two - one)) if limit > one else 1


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
