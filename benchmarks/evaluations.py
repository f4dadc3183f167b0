"""What the problems and the history cost: sampling, metrics, their moments and step sizes, beside the steps themselves.

    python -m benchmarks.evaluations [--quick] [--json FILE]

Moments, trace and rest make up metrics; both is metrics and sampling.

Everything is timed in this thread's processor seconds, on the fused engine with one thread and 8 replicates, and the
metrics right after steps, as in training: caches are cold then. Columns are shares of the training steps of a cell with
the defaults: 40,000 steps, 64 evaluations. ``trace`` tells at how many of them the Hessian's trace is evaluated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tasks import task_of
from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_stored, storage_dtype
from flatdist.engines import load_engine
from flatdist.factorization.evaluation import BLOCK, Evaluator, trace_evaluations
from flatdist.machine.threads import set_threads
from flatdist.theory import statistical_dimension
from flatdist.trials.learning_rate import estimate_steps, stable_learning_rate

SHAPES = ((12, 12, 1), (20, 20, 2), (30, 20, 2), (40, 40, 2), (60, 60, 3))
QUICK_SHAPES = SHAPES[:2]
DEPTHS = (2, 3, 5)
REPLICATES = 8


def seconds(action: Callable[[], Any]) -> float:
    """Processor seconds of this thread."""
    began = time.thread_time()
    action()
    return time.thread_time() - began


def measure(cell: Cell, repeat: int = 5) -> dict[str, Any]:
    """Shares of one cell's training time."""
    dtype = storage_dtype(cell, "fused")
    sampling = REPLICATES * statistics.median(seconds(lambda: sample_stored(cell, 0, dtype)) for _ in range(repeat))
    problems = [sample_stored(cell, r, dtype) for r in range(REPLICATES)]
    task = task_of(cell, range(REPLICATES))
    layers = task.layers
    session, ones = load_engine("fused").start(task), np.ones(REPLICATES)
    chunk = max(20, 20_000_000 // (cell.d_out * cell.d_in * 1000))

    def advance() -> None:
        session.advance(0, chunk, 1e-3 * ones, ones, np.ones(chunk))

    def estimate() -> None:
        stable_learning_rate(session.layers(), n=cell.n, batch=50, label_scale=ones, noise_std=ones)

    wanted = trace_evaluations(cell, 50)
    blocks = [(wanted[i : i + BLOCK] + [False] * BLOCK)[:BLOCK] for i in range(0, len(wanted), BLOCK)]
    evaluators: list[Evaluator] = []
    advance()
    step = statistics.median(seconds(advance) for _ in range(repeat)) / chunk
    moments = seconds(lambda: evaluators.extend(Evaluator(p, cell.depth, sum(wanted)) for p in problems))
    snapshots = [[np.stack([w] * BLOCK).astype(float) for w in start] for start in layers]

    def evaluate(chosen: list[bool]) -> None:
        for evaluator, snapshot in zip(evaluators, snapshots, strict=True):
            evaluator(snapshot, chosen)

    def after_steps(action: Callable[[], None]) -> float:
        advance()
        return seconds(action)

    total = step * cell.steps
    evaluations = {  # blocks with the same number of traces cost the same
        sum(block): statistics.median(after_steps(lambda b=block: evaluate(b)) for _ in range(repeat))
        for block in blocks
    }
    without = statistics.median(after_steps(lambda: evaluate([False] * BLOCK)) for _ in range(repeat)) * len(blocks)
    all_of_them = sum(evaluations[sum(block)] for block in blocks)
    step_sizes = statistics.median(after_steps(estimate) for _ in range(repeat)) * len(estimate_steps(cell.steps))
    return {
        "shape": f"{cell.d_out}x{cell.d_in}",
        "depth": cell.depth,
        "n": cell.n,
        "step_us": step / REPLICATES * 1e6,
        "traces": sum(wanted),
        "moments": moments / total,
        "trace": (all_of_them - without) / total,
        "rest": without / total,
        "metrics": (moments + all_of_them) / total,
        "sampling": sampling / total,
        "both": (sampling + moments + all_of_them) / total,
        "step_size": step_sizes / total,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="d = 12 and 20 only")
    parser.add_argument("--json", type=Path, default=None, help="where to write the rows")
    options = parser.parse_args()
    set_threads(1)
    rows = []
    names = ("moments", "trace", "rest", "metrics", "sampling", "both", "step_size")
    print("| shape | depth | n | us a step | traces | " + " | ".join(names) + " |\n" + "|---" * (5 + len(names)) + "|")
    for d_out, d_in, rank in QUICK_SHAPES if options.quick else SHAPES:
        for depth in DEPTHS:
            n = math.ceil(1.5 * statistical_dimension(d_out, d_in, rank))
            row = measure(Cell(d_out=d_out, d_in=d_in, rank=rank, n=n, depth=depth))
            rows.append(row)
            shares = " | ".join(f"{row[name]:.1%}" for name in names)
            print(f"| {row['shape']} | {depth} | {n} | {row['step_us']:.3g} | {row['traces']} | {shares} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
