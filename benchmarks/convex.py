"""Time of minimum-nuclear-norm interpolation, compared with a plain first-order method and CVXPY with SCS.

    python benchmarks/convex.py                    # the large problem, then the small cells
    python benchmarks/convex.py --no-scs --replicates 20 --json convex.json

The large problem (d = 60, n = 1200, rank 3) is solved three ways in one process on one thread: by flatdist, by plain
Douglas-Rachford splitting (written here as a user would: singular-value thresholding, cached Cholesky factor of the
Gram matrix), and by CVXPY with SCS; each reports its time and its error against the ground truth. The small cells show
how time and certificates are distributed across the transition. Times are CPU time of this process.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.machine.threads import set_threads
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.theory import statistical_dimension

LARGE = {"d_out": 60, "d_in": 60, "rank": 3, "n": 1200}
SMALL = [(12, 1), (12, 3), (20, 2), (20, 4)]
RATIOS = (0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.15, 1.3, 1.5, 2.0)


def douglas_rachford(measurements: np.ndarray, labels: np.ndarray, accuracy: float) -> tuple[np.ndarray, int]:
    """min ||M||_* subject to A(M) = b by splitting, until successive feasible points agree to ``accuracy``."""
    rows = measurements.reshape(len(labels), -1)
    inverse = np.linalg.inv(np.linalg.cholesky(rows @ rows.T))
    orthonormal, target = inverse @ rows, inverse @ labels
    shape = measurements.shape[1:]
    shadow = (orthonormal.T @ target).reshape(shape)
    feasible, threshold = shadow, 0.1 * np.linalg.norm(shadow, 2)
    steps, moved = 0, math.inf
    while moved > accuracy * np.linalg.norm(feasible) and steps < 20_000:
        steps += 1
        left, spectrum, right = np.linalg.svd(2 * feasible - shadow, full_matrices=False)
        shadow = shadow + (left * np.maximum(spectrum - threshold, 0)) @ right - feasible
        before, feasible = feasible, shadow + (orthonormal.T @ (target - orthonormal @ shadow.ravel())).reshape(shape)
        moved = np.linalg.norm(feasible - before)
    return feasible, steps


def scs(measurements: np.ndarray, labels: np.ndarray, accuracy: float) -> np.ndarray:
    """The same by CVXPY with SCS."""
    import cvxpy

    matrix = cvxpy.Variable(measurements.shape[1:])
    rows = measurements.reshape(len(labels), -1)
    constraint = rows @ cvxpy.vec(matrix, order="C") == labels
    task = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(matrix)), [constraint])
    task.solve(solver="SCS", eps_abs=accuracy, eps_rel=accuracy, max_iters=50_000)
    return np.asarray(matrix.value)


def large(repeat: int, with_scs: bool) -> list[dict[str, Any]]:
    """Seconds and accuracy of each way on the large problem, and the ratio to flatdist's time."""
    cell = Cell(**LARGE, method="min_nuclear_norm")
    task = sample_arrays(cell, 0)
    truth = task.ground_truth

    def error(matrix: Any) -> float:
        return float(np.linalg.norm(np.asarray(matrix) - truth) / np.linalg.norm(truth))

    rows, seconds = [], []
    for _ in range(repeat):
        began = time.process_time()
        solution, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
        seconds.append(time.process_time() - began)
    rows.append({"solver": "flatdist", "seconds": statistics.median(seconds), "error": error(solution)})
    rows[0]["certificate"] = certificate.value
    began = time.process_time()
    feasible, steps = douglas_rachford(task.measurements, task.labels, 1e-9)
    rows.append({"solver": f"Douglas-Rachford, {steps} steps", "seconds": time.process_time() - began})
    rows[-1]["error"] = error(feasible)
    if with_scs:
        began = time.process_time()
        matrix = scs(task.measurements, task.labels, 1e-6)
        rows.append({"solver": "CVXPY + SCS", "seconds": time.process_time() - began, "error": error(matrix)})
    for row in rows:
        row["ratio"] = row["seconds"] / rows[0]["seconds"]
        print(
            f"{row['solver']:32s} {row['seconds']:8.2f} s   error {row['error']:.1e}   {row['ratio']:6.1f} x flatdist"
        )
    return rows


def small(replicates: int) -> list[dict[str, Any]]:
    """Times and certificates of small cells across the transition."""
    rows = []
    print(" d  r    n  n/statdim   ms: median   90 %    max   iterations   worst certificate  uncertified  recovered")
    for size, rank in SMALL:
        for ratio in RATIOS:
            n = math.ceil(ratio * statistical_dimension(size, size, rank))
            if n > size * size:
                continue
            cell = Cell(d_out=size, d_in=size, rank=rank, n=n, method="min_nuclear_norm")
            times, certificates, iterations, recovered = [], [], [], 0
            for replicate in range(replicates):
                task = sample_arrays(cell, replicate)
                began = time.process_time()
                solution, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
                times.append(1e3 * (time.process_time() - began))
                certificates.append(certificate)
                iterations.append(int(certificate.iterations))
                recovered += bool(np.linalg.norm(solution.numpy() - task.ground_truth) < 1e-6)
            row = {
                "d": size,
                "rank": rank,
                "n": n,
                "ratio": ratio,
                "milliseconds": times,
                "iterations": iterations,
                "worst": max(certificate.value for certificate in certificates),
                "uncertified": sum(not certificate.converged for certificate in certificates),
                "recovered": recovered / replicates,
            }
            rows.append(row)
            print(
                f"{size:2d} {rank:2d} {n:4d}  {ratio:9.2f}   {statistics.median(times):10.1f} "
                f"{np.quantile(times, 0.9):6.1f} {max(times):6.1f}   {statistics.median(iterations):10.0f}   "
                f"{row['worst']:17.0e}  {row['uncertified']:11d}  {row['recovered']:9.2f}",
                flush=True,
            )
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=20, help="replicates of each small cell (0: none)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of flatdist on the large problem")
    parser.add_argument("--no-scs", action="store_true", help="leave CVXPY out")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args()
    set_threads(1)
    torch.linalg.svd(torch.eye(2))  # first use loads the library
    figures = {"large": large(options.repeat, not options.no_scs)}
    if options.replicates:
        figures["small"] = small(options.replicates)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
