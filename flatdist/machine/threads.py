"""Every thread pool of the process, set in one place.

Trials size their engine's pool by the CPUs they were given. BLAS always runs on one thread: the products here are
small, and a second BLAS thread slows them down and changes their bits.
"""

from __future__ import annotations

import os
import sys

from flatdist.machine.extras import load

ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")


def set_threads(threads: int) -> None:
    """Give numba, torch and OpenMP ``threads`` threads and every BLAS one.

    A BLAS or OpenMP library that is loaded later starts with the same setting. Pools of numba and torch that are not
    loaded yet are not changed; call this again after loading them.

    Args:
        threads: at least 1; capped at the number that numba was started with.
    """
    if threads < 1:
        raise ValueError(f"{threads} threads cannot run anything; give at least 1")
    limit_pools = load("threadpoolctl:threadpool_limits")
    os.environ.update(ONE_BLAS_THREAD, OMP_NUM_THREADS=str(threads))
    # numba first: starting its pool sets OpenMP's to all processors.
    if "numba" in sys.modules:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
    limit_pools({"blas": 1, "openmp": threads})
