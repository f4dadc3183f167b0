"""The flattest interpolator's solver: seconds, certificates, and the same problems solved by an earlier release.

    git worktree add ../flatdist-0.1.0 fe91866
    python -m benchmarks.flattest --baseline ../flatdist-0.1.0 [--out flattest.csv] [--seconds 1200]
    python -m benchmarks.flattest --nu

With ``--nu`` it times ``flatdist.local_flatness`` alone, at 8 x 8 and at 48 x 48, rank 3.

One row per problem, n = ceil(factor x statistical dimension): CPU seconds on one core, the trace, the relative error,
what is certified, and the bracket of nu at the answer. With a baseline, its CPU seconds, trace, error and verdict in
the same run, one after the other, and nu at its answer: a certified answer with nu > 1 is a saddle. The summary counts
higher and lower traces (relative difference above 1e-9), differing decisions (relative error below 1e-6) and saddles.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.errors import SolverError
from flatdist.factorization.flatness import hessian_trace
from flatdist.factorization.local_flatness import local_flatness, normal_condition
from flatdist.factorization.products import end_to_end
from flatdist.machine.threads import set_threads
from flatdist.solvers.min_hessian_trace import min_hessian_trace
from flatdist.theory import statistical_dimension
from flatdist.types import Array

# (d_out, d_in, rank, depth, factors, replicates, whether the baseline is affordable)
STUDIES = (
    (12, 12, 1, 3, (0.8, 0.9, 1.0, 1.1, 1.2), 16, True),
    (12, 12, 2, 3, (0.8, 0.9, 1.0, 1.1, 1.2), 6, True),
    (12, 12, 3, 3, (0.9, 1.0, 1.1, 1.2), 4, True),
    (16, 16, 1, 3, (0.8, 0.9, 1.0, 1.2), 6, True),
    (8, 16, 1, 3, (0.8, 1.0, 1.2), 6, True),
    (12, 12, 1, 4, (0.8, 1.0, 1.2), 6, True),
    (10, 10, 1, 5, (0.8, 1.0), 3, True),
    (24, 24, 1, 3, (0.8, 1.0, 1.2), 4, True),
    (24, 24, 2, 3, (0.9, 1.2), 2, True),
    (32, 32, 1, 3, (0.8, 1.2), 2, True),
    (30, 30, 2, 3, (0.9,), 2, True),
    (40, 40, 1, 3, (1.2,), 2, True),
    (48, 48, 1, 3, (1.2,), 1, True),
    (64, 64, 1, 3, (1.2,), 2, False),
    (64, 64, 1, 3, (0.8,), 1, False),
    (60, 60, 3, 3, (1.2,), 1, False),
)
WORKER = """
import json, sys, time, warnings
import numpy as np, torch, flatdist
warnings.simplefilter("ignore"); torch.set_num_threads(1)
for line in sys.stdin:
    given = np.load(line.strip())
    measurements, labels, depth = given["measurements"], given["labels"], int(given["depth"])
    began = time.process_time()
    layers, certificate = flatdist.min_hessian_trace(measurements, labels, depth, return_certificate=True)
    seconds = time.process_time() - began
    matrix = flatdist.end_to_end(layers).numpy()
    np.save(line.strip() + ".npy", matrix)
    trace = float(flatdist.hessian_trace([layer.numpy() for layer in layers], measurements))
    print(json.dumps([seconds, trace, bool(certificate.converged)]), flush=True)
"""


class Baseline:
    """Another checkout's solver, in a process of its own."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORKER]
        self.scratch = scratch / "problem.npz"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=scratch
        )

    def __call__(self, measurements: Array, labels: Array, depth: int) -> tuple[float, float, bool, Array]:
        """Seconds, trace, verdict and matrix."""
        import json

        np.savez(self.scratch, measurements=measurements, labels=labels, depth=depth)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.scratch}\n")
        self.process.stdin.flush()
        seconds, trace, verdict = json.loads(self.process.stdout.readline())
        return seconds, trace, verdict, np.load(f"{self.scratch}.npy")


def nu_at(matrix: Array, measurements: Array, depth: int) -> tuple[float, float]:
    """The bracket of nu at an answer, singular values below 1e-7 of the largest cut off."""
    left, spectrum, right = np.linalg.svd(matrix)
    rank = int(np.sum(spectrum > 1e-7 * spectrum[0]))
    cut = (left[:, :rank] * spectrum[:rank]) @ right[:rank] / spectrum[0]
    try:
        condition = normal_condition(cut, measurements, depth, smooth=True)
    except SolverError:
        return np.nan, np.nan
    return (np.inf, np.inf) if condition is None else condition.bracket(1e-4, decide=True)[:2]


def solved(
    d_out: int, d_in: int, rank: int, depth: int, factor: float, replicate: int, baseline: Baseline | None
) -> Any:
    """One row."""
    n = int(np.ceil(factor * statistical_dimension(d_out, d_in, rank)))
    cell = Cell(d_out=d_out, d_in=d_in, rank=rank, n=n, depth=depth, method="min_hessian_trace")
    problem = sample_arrays(cell, replicate)
    measurements, truth = problem.measurements.astype(np.float64), problem.ground_truth
    began = time.process_time()
    layers, certificate = min_hessian_trace(measurements, problem.labels, depth, return_certificate=True)
    seconds = time.process_time() - began
    layers = [layer.numpy() for layer in layers]
    row = {
        "d_out": d_out, "d_in": d_in, "rank": rank, "depth": depth, "factor": factor, "n": n, "replicate": replicate,
        "seconds": round(seconds, 4), "trace": float(hessian_trace(layers, measurements)),
        "error": float(np.sum((end_to_end(layers) - truth) ** 2) / np.sum(truth**2)),
        "certified": bool(certificate.converged), "spread": float(certificate.spread),
        "nu_low": float(certificate.nu_low), "nu_high": float(certificate.nu_high),
        "starts": int(np.sum(np.isfinite(certificate.traces))), "steps": int(certificate.iterations),
    }  # fmt: skip
    if baseline is not None:
        before, trace, verdict, matrix = baseline(measurements, problem.labels, depth)
        row |= {
            "baseline_seconds": round(before, 4), "baseline_trace": trace, "baseline_certified": verdict,
            "baseline_error": float(np.sum((matrix - truth) ** 2) / np.sum(truth**2)),
        }  # fmt: skip
        row["baseline_nu_low"], row["baseline_nu_high"] = nu_at(matrix, measurements, depth)
    return row


def summary(table: pd.DataFrame) -> None:
    """Print medians by study, and how the two agree."""
    keys = ["d_out", "d_in", "rank", "depth", "factor"]
    table["ratio"] = table.get("baseline_seconds", np.nan) / table["seconds"]
    shown = table.groupby(keys).agg(
        problems=("seconds", "size"), seconds=("seconds", "median"), slowest=("seconds", "max"),
        ratio=("ratio", "median"), certified=("certified", "sum"),
    )  # fmt: skip
    print(shown.round(3).to_string())
    print(f"{len(table)} problems, {table['certified'].sum()} certified")
    if "baseline_trace" not in table:
        return
    both = table.dropna(subset=["baseline_trace"])
    change = both["trace"] / both["baseline_trace"] - 1.0
    differ = (both["error"] < 1e-12) != (both["baseline_error"] < 1e-12)
    certified = both[both["baseline_certified"].astype(bool)]
    lower = certified[certified["trace"] < certified["baseline_trace"] * (1 - 1e-9)]
    print(
        f"{len(both)} problems by both: trace higher in {np.sum(change > 1e-9)} (by {change.max():.1e} at most), "
        f"lower in {np.sum(change < -1e-9)} (by {-change.min():.1e} at most); decisions differ in {differ.sum()}; "
        f"CPU seconds {both['seconds'].sum():.1f} against {both['baseline_seconds'].sum():.1f}"
    )
    print(
        f"of {len(certified)} answers that the baseline certified: {np.sum(certified['baseline_nu_low'] > 1.0)} are "
        f"saddles (nu > 1), {len(lower)} have a higher trace than the new answer"
    )
    odd = both[(change.abs() > 1e-9) | differ | ~both["certified"].astype(bool)]
    if len(odd):
        columns = [
            *keys,
            "replicate",
            "trace",
            "baseline_trace",
            "error",
            "baseline_error",
            "certified",
            "baseline_certified",
        ]
        print(odd[[*columns, "nu_high", "baseline_nu_low"]].to_string())


def time_nu() -> None:
    """Print CPU seconds of the bracket of nu at the statistical dimension, by shape, rank and depth."""
    for d, rank in ((8, 1), (48, 3)):
        cell = Cell(d_out=d, d_in=d, rank=rank, n=int(statistical_dimension(d, d, rank)), method="min_nuclear_norm")
        problem = sample_arrays(cell, 0)
        for depth in (3, 4, 6, np.inf):
            began = time.process_time()
            low, high = local_flatness(problem.ground_truth, problem.measurements, depth)
            print(
                f"{d} x {d}, rank {rank}, depth {depth}: {time.process_time() - began:.3f} s, {low:.4f} to {high:.4f}"
            )


def main() -> None:
    """Solve, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="a checkout of another release")
    parser.add_argument("--out", type=Path, default=Path("flattest.csv"))
    parser.add_argument("--seconds", type=float, default=np.inf, help="start no further problem after this long")
    parser.add_argument("--largest", type=int, default=64, help="largest d")
    parser.add_argument("--nu", action="store_true", help="time the local condition alone")
    options = parser.parse_args()
    set_threads(1)
    if options.nu:
        time_nu()
        return
    warnings.simplefilter("ignore")
    end = time.monotonic() + options.seconds
    tasks = [
        (replicate, d_out, d_in, rank, depth, factor, affordable)
        for d_out, d_in, rank, depth, factors, replicates, affordable in STUDIES
        for factor in factors
        for replicate in range(replicates)
        if max(d_out, d_in) <= options.largest
    ]
    rows: list[Any] = []
    with tempfile.TemporaryDirectory() as scratch:
        baseline = Baseline(options.baseline, Path(scratch)) if options.baseline else None
        solved(8, 8, 1, 3, 1.0, 0, baseline)  # imports and compiles
        for replicate, d_out, d_in, rank, depth, factor, affordable in sorted(
            tasks, key=lambda task: (max(task[1:3]) > 16, task[0])
        ):
            if time.monotonic() > end:
                break
            rows.append(solved(d_out, d_in, rank, depth, factor, replicate, baseline if affordable else None))
        if baseline is not None:
            baseline.process.terminate()
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, max(rows, key=len))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} of {len(tasks)} problems in the time")
    summary(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
