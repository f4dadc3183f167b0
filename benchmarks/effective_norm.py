"""First successes of the flattest interpolator's local condition, with the nuclear norm's on the same streams.

    python -m benchmarks.effective_norm [--processes 2] [--seconds 120] [--sizes 8 12 ...] [--out DIR]

For each stream of nested measurements the smallest n, by bisection, at which the ground truth is a sharp local minimum
of F among the interpolators (nu < 1), at depths 2, 3, 4, 5 and infinity; at which it is the nuclear norm's minimiser
(the same condition with identity weights); and, at rank 1, two ablations of depth 3: F's own gradient with isotropic
normal weights, and the nuclear norm's gradient with F's normal weights. Then min_hessian_trace solves the streams of
small shapes at the first success and one measurement before it. Streams are those of nested cells, so that
``sweeps/effective_norm.yaml`` finds the same numbers. The work list is in order of value: what the time does not reach
is missing at its end, and reported. Rows that DIR has already are kept, so the same command continues.

Writes DIR/effective_norm.csv (one row per stream and norm) and DIR/effective_norm_solver.csv (one row per problem).
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.factorization.local_flatness import NormalCondition, normal_condition
from flatdist.factorization.products import end_to_end
from flatdist.theory import statistical_dimension
from flatdist.types import Array

NORMS = ("nuclear norm", "2", "3", "4", "5", "inf")
ABLATIONS = ("3, isotropic normal weights", "3, mean gradient")
# (d_out, d_in, rank, ensemble, streams, norms); round by round, so that an early end leaves every shape some streams.
STUDIES: tuple[tuple[int, int, int, str, int, tuple[str, ...]], ...] = (
    *((d, d, 1, "gaussian", 240, NORMS + ABLATIONS) for d in (8, 12, 16, 24)),
    (32, 32, 1, "gaussian", 120, NORMS + ABLATIONS),
    (48, 48, 1, "gaussian", 60, NORMS + ABLATIONS),
    (64, 64, 1, "gaussian", 30, NORMS),
    (96, 96, 1, "gaussian", 12, ("nuclear norm", "3", "5", "inf")),
    *((d, d, 2, "gaussian", 120, NORMS) for d in (8, 12, 16, 24)),
    *((d, d, 3, "gaussian", 120, NORMS) for d in (12, 16, 24)),
    (32, 32, 2, "gaussian", 36, NORMS),
    (32, 32, 3, "gaussian", 24, ("nuclear norm", "3", "inf")),
    *((d, 2 * d, 1, "gaussian", 120, NORMS) for d in (8, 12, 16)),
    (24, 48, 1, "gaussian", 36, NORMS),
    *((d, d, 1, "rademacher", 120, NORMS) for d in (8, 12, 16, 24)),
    *((20, 20, rank, "gaussian", 30, ("nuclear norm", "2", "3")) for rank in range(1, 19)),
)
SOLVED = (
    *(
        (*shape, "gaussian")
        for shape in ((8, 8, 1), (12, 12, 1), (16, 16, 1), (8, 8, 2), (12, 12, 2), (12, 12, 3), (8, 16, 1))
    ),
    *((*shape, "rademacher") for shape in ((8, 8, 1), (12, 12, 1), (8, 8, 2), (8, 16, 1))),
    *((*shape, "rank_one") for shape in ((8, 8, 1), (12, 12, 1))),
)
SOLVED_STREAMS, SOLVED_DEPTHS = 24, ("3", "4")


def conditions(stack: Array, truth: Array, norm: str) -> NormalCondition | None:
    """The local condition of one norm."""
    d_out, d_in = truth.shape
    identity = [(1.0, np.eye(d_out), np.eye(d_in))]
    if norm == "nuclear norm":
        return normal_condition(truth, stack, 2, terms=identity)
    if norm == "3, mean gradient":
        full = normal_condition(truth, stack, 3)
        mean = normal_condition(truth, stack, 2, terms=[(2.0, *identity[0][1:])])
        if full is None or mean is None:
            return None
        return replace(full, objective=mean.objective, constraints=mean.constraints)
    if norm == "3, isotropic normal weights":
        full = normal_condition(truth, stack, 3)
        if full is None:
            return None
        plain = [(w, np.eye(len(c)), np.eye(len(d))) for w, c, d in full.weights]
        plain = [(sum(w for w, _, _ in plain), *plain[0][1:])]
        return replace(full, weights=plain)
    return normal_condition(truth, stack, math.inf if norm == "inf" else int(norm))


def stream(d_out: int, d_in: int, rank: int, ensemble: str, replicate: int, n: int) -> tuple[Array, Array]:
    """Ground truth and the first n measurements of one nested stream."""
    cell = Cell(d_out=d_out, d_in=d_in, rank=rank, n=n, ensemble=ensemble, nested=True, method="min_nuclear_norm")
    problem = sample_arrays(cell, replicate)
    return problem.ground_truth, problem.measurements.astype(np.float64)


def first_success(d_out: int, d_in: int, rank: int, ensemble: str, replicate: int, norm: str) -> dict[str, Any]:
    """One row: the smallest n that succeeds, by bisection from the statistical dimension, and nu around it."""
    began = time.process_time()
    delta = statistical_dimension(d_out, d_in, rank)
    most = min(d_out * d_in, int(1.8 * delta) + 20)
    truth, stack = stream(d_out, d_in, rank, ensemble, replicate, most)
    brackets: dict[int, tuple[float, float]] = {most + 1: (0.0, 0.0)}

    def succeeds(n: int) -> bool:
        if n not in brackets:
            condition = conditions(stack[:n], truth, norm)
            brackets[n] = (math.inf, math.inf) if condition is None else condition.bracket(1e-6, decide=True)[:2]
        return brackets[n][1] < 1.0

    step = max(2, round(0.4 * math.sqrt(d_out * d_in)))
    high = min(most, int((0.9 if norm[0] in "345" and rank == 1 else 1.0) * delta))
    if succeeds(high):
        low = high - step
        while succeeds(low):
            high, low = low, low - step
    else:
        low, high = high, min(most + 1, high + step)
        while not succeeds(high):
            low, high = high, min(most + 1, high + step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if succeeds(middle) else (middle, high)
    return {
        "d_out": d_out,
        "d_in": d_in,
        "rank": rank,
        "ensemble": ensemble,
        "replicate": replicate,
        "norm": norm,
        "first_success": high if high <= most else None,
        "statdim": delta,
        "undecided": sum(low_nu <= 1.0 <= high_nu for low_nu, high_nu in brackets.values()),
        "seconds": round(time.process_time() - began, 3),
    }


def solved(d_out: int, d_in: int, rank: int, ensemble: str, replicate: int, norm: str) -> list[dict[str, Any]]:
    """What min_hessian_trace finds at the local condition's first success, and one measurement before it."""
    from flatdist.solvers.min_hessian_trace import min_hessian_trace

    first = first_success(d_out, d_in, rank, ensemble, replicate, norm)["first_success"]
    truth, stack = stream(d_out, d_in, rank, ensemble, replicate, first)
    rows = []
    for n in (first - 1, first):
        condition = conditions(stack[:n], truth, norm)
        low, high = (math.inf, math.inf) if condition is None else condition.bracket(1e-4)[:2]
        began = time.process_time()
        labels = stack[:n].reshape(n, -1) @ truth.ravel()
        layers, certificate = min_hessian_trace(stack[:n], labels, int(norm), return_certificate=True)
        error = float(np.sum((end_to_end(layers).numpy() - truth) ** 2) / np.sum(truth**2))
        rows.append(
            {"d_out": d_out, "d_in": d_in, "rank": rank, "ensemble": ensemble, "replicate": replicate, "depth": norm,
             "n": n, "nu_low": low, "nu_high": high, "relative_error": error, "certified": bool(certificate.converged),
             "seconds": round(time.process_time() - began, 3)}
        )  # fmt: skip
    return rows


def work() -> Iterator[tuple[Any, ...]]:
    """Every task in order of value: streams of all shapes in turn, the solver's problems among the first."""
    for replicate in range(max(streams for *_, streams, _ in STUDIES)):
        for d_out, d_in, rank, ensemble, streams, norms in STUDIES:
            # a shape with half as many streams takes every second turn
            turns = max(count for *_, count, _ in STUDIES) // streams
            if replicate % turns == 0 and replicate // turns < streams:
                yield from (("first", d_out, d_in, rank, ensemble, replicate // turns, norm) for norm in norms)
        if replicate % 2 == 0 and replicate // 2 < SOLVED_STREAMS:
            yield from (("solved", *shape, replicate // 2, depth) for shape in SOLVED for depth in SOLVED_DEPTHS)


def perform(task: tuple[Any, ...]) -> tuple[str, list[dict[str, Any]]]:
    """Run one task in a worker."""
    warnings.simplefilter("ignore")
    kind, *arguments = task
    return kind, solved(*arguments) if kind == "solved" else [first_success(*arguments)]


def _key(kind: str, row: dict[str, Any]) -> tuple[Any, ...]:
    """The task that a row is of."""
    shape = (int(row["d_out"]), int(row["d_in"]), int(row["rank"]), row["ensemble"])
    return kind, *shape, int(row["replicate"]), row["depth" if kind == "solved" else "norm"]


def main() -> None:
    """Compute for the time given and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120.0, help="start no further work after this many seconds")
    parser.add_argument("--sizes", type=int, nargs="+", help="only shapes with so many rows; 20 has all ranks")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {"first": options.out / "effective_norm.csv", "solved": options.out / "effective_norm_solver.csv"}
    kept = {kind: list(csv.DictReader(path.open())) if path.exists() else [] for kind, path in tables.items()}
    done = {_key(kind, row) for kind, rows in kept.items() for row in rows}
    tasks = [task for task in work() if options.sizes is None or task[1] in options.sizes]
    missing, end, computed = [task for task in tasks if task not in done], time.monotonic() + options.seconds, 0
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        results = pool.imap_unordered(perform, missing)
        while computed < len(missing):
            try:
                kind, rows = results.next(timeout=max(0.0, end - time.monotonic()))
            except multiprocessing.TimeoutError:
                break
            computed += 1
            with tables[kind].open("a", newline="") as table:
                writer = csv.DictWriter(table, list(rows[0]))
                if not table.tell():
                    writer.writeheader()
                writer.writerows(rows)
        pool.terminate()
    print(f"{len(tasks) - len(missing) + computed} of {len(tasks)} tasks; {', '.join(map(str, tables.values()))}")


if __name__ == "__main__":
    main()
