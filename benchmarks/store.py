"""How long the store takes: writing parts, reading them as parts and compacted, and asking what is done.

    python benchmarks/store.py                    # 1,000,000 rows of history in 2,000 parts
    python benchmarks/store.py --parts 200 --replicates 8 --evaluations 64

Prints medians over ``--repeat`` runs, in seconds. The store is a temporary folder, deleted afterwards.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.columns import HISTORY, RESULTS
from flatdist.results import load_history, load_trials
from flatdist.store import Store


def rows_of(cell: Cell, replicates: range, evaluations: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows as a trial would write them, with random numbers for results."""
    random = np.random.default_rng(cell.n)
    shared = {**cell.row(), "cell_id": cell.cell_id, "configuration_id": cell.configuration_id}
    shared |= {"status": "converged", "numerics_version": 1, "sampling_version": 1, "engine": "fused", "host": "here"}
    shared["finished_at"] = datetime.datetime.now(datetime.UTC)
    numbers = [column.name for column in RESULTS if column.type == "float64"]
    trials = [
        shared | {"replicate": replicate, "singular_values": random.random(12)} | dict(zip(numbers, row, strict=True))
        for replicate, row in zip(replicates, random.random((len(replicates), len(numbers))), strict=True)
    ]
    measured = [column.name for column in HISTORY if column.type == "float64"]
    history = [
        {"cell_id": cell.cell_id, "replicate": replicate, "step": 600 * step} | dict(zip(measured, row, strict=True))
        for replicate in replicates
        for step, row in enumerate(random.random((evaluations, len(measured))))
    ]
    return trials, history


def measure(what: str, repeat: int, action: Callable[[], Any]) -> Any:
    """Print the median time of an action; return its last answer."""
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        answer = action()
        times.append(time.perf_counter() - began)
    print(f"{what:58s} {statistics.median(times):9.4f} s   (min {min(times):.4f}, max {max(times):.4f}, {repeat} runs)")
    return answer


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()

    import pandas as pd  # so that importing it is no part of the first read

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        times = []
        for number in range(options.parts):
            cell = Cell(d_out=60, d_in=60, rank=1 + number % 3, n=100 + number)
            rows = rows_of(cell, range(options.replicates), options.evaluations)
            began = time.perf_counter()
            store.write(*rows)
            times.append(time.perf_counter() - began)
        print(f"{options.parts} parts of {options.replicates} replicates x {options.evaluations} rows of history")
        print(f"{'write one part (two files, durable)':58s} {statistics.median(times):9.4f} s   (median of all)")
        loose = measure("history of all parts, before compaction", 1, lambda: load_history(folder))
        measure("trials of all parts, before compaction", 1, lambda: load_trials(folder))
        measure("done(), before compaction", 1, lambda: Store(folder).done())
        print(measure("compact", 1, lambda: Store(folder).compact()))
        history = measure(f"history, all {len(loose)} rows", options.repeat, lambda: load_history(folder))
        pd.testing.assert_frame_equal(history, loose)
        where, few = {"rank": 2, "n": list(range(100, 130))}, ["cell_id", "replicate", "step", "population_loss"]
        measure("history, four columns", options.repeat, lambda: load_history(folder, columns=few))
        measure("history, 10 cells", options.repeat, lambda: load_history(folder, where=where, columns=few))
        measure("trials, all", options.repeat, lambda: load_trials(folder))
        measure("done()", options.repeat, lambda: Store(folder).done())


if __name__ == "__main__":
    main()
