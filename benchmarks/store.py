"""Time of store operations: writing parts, reading them before and after compaction, finding out what is done.

    python -m benchmarks.store                    # 40,000 trials and 1,000,000 rows of history in 5,000 parts
    python -m benchmarks.store --parts 200

Prints medians over ``--repeat`` runs, in seconds and in CPU seconds, before and after compaction, beside pyarrow
reading the same rows from one file. The store is a temporary folder, deleted afterwards.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import resource
import statistics
import subprocess
import sys
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
    times, spent = [], []
    for _ in range(repeat):
        began, cpu = time.perf_counter(), _cpu()
        answer = action()
        times.append(time.perf_counter() - began)
        spent.append(_cpu() - cpu)
    print(f"{what:58s} {statistics.median(times):9.4f} s {statistics.median(spent):9.4f} CPU s   ({repeat} runs)")
    return answer


def _cpu() -> float:
    """CPU seconds of this process and of its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=5000)
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=25)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()

    import pandas as pd  # so that importing it is no part of the first read
    import pyarrow.parquet as pq

    def command(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "flatdist", *words], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        times = []
        for number in range(options.parts):
            cell = Cell(d_out=80, d_in=80, rank=1, n=100 + number)
            rows = rows_of(cell, range(options.replicates), options.evaluations)
            began = time.perf_counter()
            store.write(*rows)
            times.append(time.perf_counter() - began)
        fixed = f"replicates: {options.replicates}\nfixed: {{d_out: 80, d_in: 80, rank: 1}}"
        source = f"name: all\n{fixed}\naxes: {{n: {{range: [100, {100 + options.parts}, 1]}}}}\n"
        store.save_sweep("all", source, [], options.replicates)
        print(f"{options.parts} parts of {options.replicates} replicates x {options.evaluations} rows of history")
        print(f"{'write one part (two files, durable)':58s} {statistics.median(times):9.4f} s   (median of all)")
        measure("flatdist status, before compaction", 1, lambda: command("status", "all", "--store", folder))
        loose = measure("history of all parts, before compaction", 1, lambda: load_history(folder))
        measure("trials of all parts, before compaction", 1, lambda: load_trials(folder))
        print(measure("compact", 1, lambda: Store(folder).compact(grace=0)))
        Store(folder).compact(grace=0)
        measure("flatdist --version", options.repeat, lambda: command("--version"))
        measure("flatdist status", options.repeat, lambda: command("status", "all", "--store", folder))
        measure("flatdist plan", options.repeat, lambda: command("plan", "all", "--store", folder))
        measure("what is done", options.repeat, lambda: Store(folder).done())
        few = ["step", "train_loss", "population_loss"]
        for name, load in (("history", load_history), ("trials", load_trials)):
            one = f"{folder}/{name}.parquet"
            pq.write_table(Store(folder).table(name), one)
            rows = measure(f"{name}, all columns", options.repeat, lambda load=load: load(folder))
            measure("  pyarrow, one file", options.repeat, lambda one=one: pq.read_table(one).to_pandas())
            if name == "history":
                pd.testing.assert_frame_equal(rows, loose)
                measure("history, three columns", options.repeat, lambda: load_history(folder, columns=few))
                part = functools.partial(pq.read_table, one, columns=few)
                measure("  pyarrow, one file", options.repeat, lambda part=part: part().to_pandas())
        where = {"n": list(range(100, 110))}
        measure("history of 10 cells", options.repeat, lambda: load_history(folder, where=where, columns=few))


if __name__ == "__main__":
    main()
