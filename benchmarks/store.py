"""What the store costs: asking what is done, loading, and loading much, beside pyarrow, DuckDB, Polars and other code.

    python -m benchmarks.store                    # 40,000 trials and 1,000,000 rows of history in 5,000 parts
    python -m benchmarks.store --before fe91866   # the same, after the code of that revision, in one run
    python -m benchmarks.store --large            # 1,000,000 trials and 20,000,000 rows of history: time and memory

Prints medians of CPU seconds over ``--repeat`` runs, for a store as its parts were written and for a compacted one; and
the same for pyarrow reading the same rows from one file. Stores are temporary folders (``--large``: 6 GB, and
``pip install polars``).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flatdist import Cell, load_history, load_trials
from flatdist.store import Store

try:
    from flatdist.cells.columns import HISTORY, RESULTS
except ImportError:  # release 0.1
    from flatdist.columns import HISTORY, RESULTS  # type: ignore[import-not-found, no-redef]

FEW = ["step", "train_loss", "population_loss"]
TABLES = ("trials", "history")
COMMAND = [sys.executable, "-m", "flatdist"]


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


def spent(repeat: int, action: Callable[[], Any]) -> float:
    """Return the median of an action's CPU seconds, those of programs that it starts included."""
    times = []
    for _ in range(repeat):
        began = _cpu()
        action()
        times.append(_cpu() - began)
    return statistics.median(times)


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(parts: int, replicates: int, evaluations: int, repeat: int, place: str | None) -> dict[str, float]:
    """Return CPU seconds of what one does with a store, by the code that Python finds; at a place it is kept."""
    import pyarrow.parquet as pq

    seconds: dict[str, float] = {}
    with contextlib.nullcontext(place) if place else tempfile.TemporaryDirectory() as folder:
        store, sweep = Store(folder), Path(folder, "all.yaml")
        times = []
        for number in range(len(list(Path(folder).glob("trials/v1/part/*/*"))), parts):
            cell = Cell(d_out=80, d_in=80, rank=1, n=100 + number)
            rows = rows_of(cell, range(replicates), evaluations)
            began = _cpu()
            store.write(*rows)
            times.append(_cpu() - began)
        seconds["write a part"] = statistics.median(times or [math.nan])
        fixed = f"replicates: {replicates}\nfixed: {{d_out: 80, d_in: 80, rank: 1}}"
        sweep.write_text(f"name: all\n{fixed}\naxes: {{n: {{range: [100, {99 + parts}, 1]}}}}\n")

        asked = {
            "flatdist status": lambda: command("status", str(sweep), "--store", folder),
            "flatdist plan": lambda: command("plan", str(sweep), "--store", folder),
            "what is done": lambda: Store(folder).done(),
            "trials, all columns": lambda: load_trials(folder),
            "history, all columns": lambda: load_history(folder),
            "history, three columns": lambda: load_history(folder, columns=FEW),
        }
        load_history(folder, where={"n": 100})  # what is imported is no part of the first read
        for what, ask in asked.items():
            seconds[f"{what}, in parts"] = spent(1, ask)
        seconds["compact"] = spent(1, lambda: Store(folder).compact(grace=0))
        Store(folder).compact(grace=0)
        for what, ask in asked.items():
            seconds[what] = spent(repeat, ask)
        if not hasattr(store, "table"):  # release 0.1
            return seconds
        for name in TABLES:
            one = f"{folder}/{name}.parquet"
            pq.write_table(Store(folder).table(name), one)
            read = functools.partial(pq.read_table, one)
            seconds[f"pyarrow: {name}, all columns"] = spent(repeat, lambda read=read: read().to_pandas())
        seconds["pyarrow: history, three columns"] = spent(repeat, lambda: read(columns=FEW).to_pandas())
    return seconds


def _most_memory() -> float:
    """GiB that this program has held at most; the kernel's count of it for a child begins with its parent's."""
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) / 2**20


def command(*words: str) -> None:
    """Run flatdist's command line."""
    subprocess.run([*COMMAND, *words], check=True, capture_output=True)


def compare(before: str | None, sizes: dict[str, Any]) -> None:
    """Measure one tree or two, and print a table."""
    here = Path(__file__).resolve().parent.parent
    trees = {"this code": here}
    with contextlib.ExitStack() as stack:
        if before:
            trees[before] = stack.enter_context(_worktree(here, before))
        found: dict[str, dict[str, float]] = {}
        for name, tree in trees.items():
            words = [sys.executable, __file__, "--json", *(f"--{key}={value}" for key, value in sizes.items())]
            ended = subprocess.run(
                words, env={**os.environ, "PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, check=True, cwd=tree
            )
            found[name] = json.loads(ended.stdout)
            print(f"{name}: {ended.stdout.decode()}", file=sys.stderr)
    parts, replicates, evaluations = (sizes[name] for name in ("parts", "replicates", "evaluations"))
    rows = f"{parts * replicates:,} trials, {parts * replicates * evaluations:,} rows of history"
    print(f"{parts:,} parts of {replicates} replicates x {evaluations} rows of history: {rows}; CPU seconds\n")
    _print_row("", *reversed(found), "pyarrow, one file", "ratio")
    _print_row("---", *("---" for _ in found), "---", "---")
    for what in found["this code"]:
        if not what.startswith("pyarrow"):
            mine = [found[name][what] for name in reversed(found)]
            theirs = found["this code"].get(f"pyarrow: {what}")
            _print_row(
                what,
                *(f"{one:.3f}" for one in mine),
                *((f"{theirs:.3f}", f"{mine[-1] / theirs:.2f}") if theirs else ("", "")),
            )


def _print_row(*entries: str) -> None:
    print("| " + " | ".join(entries) + " |")


@contextlib.contextmanager
def _worktree(here: Path, revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ["git", "-C", str(here), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), revision], check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)


def write_large(folder: str, trials: int, evaluations: int) -> None:
    """Write a store through its own writer of parts, 8,000 trials a part; the numbers are random."""
    import pyarrow as pa

    from flatdist.store.layout import digest, part_name
    from flatdist.store.parquet import write_part
    from flatdist.store.schema import schema

    store, replicates, at_once = Store(folder), 8, 1000
    example, steps_of = rows_of(Cell(d_out=80, d_in=80, rank=1, n=100), range(1), 1)
    constant = {"trials": example[0], "history": steps_of[0]}
    for first in range(0, trials // replicates, at_once):
        names = [digest(str(cell).encode())[:20] for cell in range(first, first + at_once)]
        keys = [(name, replicate, 0) for name in names for replicate in range(replicates)]
        part, random = part_name(keys), np.random.default_rng(first)

        def table(which: str, each: int, part: str = part, random: Any = random, **mine: Any) -> pa.Table:
            count, columns = at_once * replicates * each, []
            for one in schema(which):
                value = {"part": part, "generation": 0}.get(one.name, constant[which].get(one.name))
                if one.name in mine:
                    columns.append(pa.array(mine[one.name], one.type))
                elif one.type == pa.float64() and value is not None:
                    columns.append(pa.array(random.random(count)))
                elif one.type == pa.list_(pa.float64()):
                    offsets = pa.array(np.arange(0, 12 * count + 1, 12, np.int32))
                    columns.append(pa.ListArray.from_arrays(offsets, pa.array(random.random(12 * count))))
                else:
                    columns.append(pa.repeat(pa.scalar(value, one.type), count))
            return pa.Table.from_arrays(columns, schema=schema(which))

        cells = np.repeat(names, replicates)
        numbers = np.tile(np.arange(replicates), at_once)
        n = np.repeat(100 + np.arange(first, first + at_once) % 5000, replicates)
        rows = table("trials", 1, cell_id=cells, configuration_id=cells, replicate=numbers, n=n)
        history = table(
            "history",
            evaluations,
            cell_id=np.repeat(cells, evaluations),
            replicate=np.repeat(numbers, evaluations),
            step=np.tile(600 * np.arange(evaluations), len(numbers)),
        )
        write_part(store.files, part, rows, history)


def readings(folder: str) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is asked of a large store, and how each tool answers; the others read its compacted files as they are."""
    import duckdb
    import polars
    import pyarrow.parquet as pq

    files = {name: f"{folder}/{name}/v1/segment/*.parquet" for name in TABLES}
    few, mean = ", ".join(FEW), "SELECT n, avg(relative_error) FROM '{}' GROUP BY n ORDER BY n"

    def flatdist_mean() -> Any:
        frame = load_trials(folder, columns=["n", "relative_error"])
        return frame.groupby("n")["relative_error"].mean()

    def query(text: str) -> Callable[[], Any]:
        return lambda: duckdb.sql(text).df()

    def scan(name: str, change: Callable[[Any], Any] = lambda frame: frame) -> Callable[[], Any]:
        return lambda: change(polars.scan_parquet(files[name])).collect().to_pandas()

    def arrow(name: str, columns: list[str] | None = None) -> Callable[[], Any]:
        return lambda: pq.read_table(os.path.dirname(files[name]), columns=columns).to_pandas()

    return {
        "what is done": {"flatdist": lambda: Store(folder).done()},
        "mean error by n": {
            "flatdist": flatdist_mean,
            "duckdb": query(mean.format(files["trials"])),
            "polars": scan("trials", lambda one: one.group_by("n").agg(polars.col("relative_error").mean()).sort("n")),
        },
        "trials, all columns": {
            "flatdist": lambda: load_trials(folder),
            "pyarrow": arrow("trials"),
            "duckdb": query(f"SELECT * FROM '{files['trials']}'"),
            "polars": scan("trials"),
        },
        "history, three columns": {
            "flatdist": lambda: load_history(folder, columns=FEW),
            "pyarrow": arrow("history", FEW),
            "duckdb": query(f"SELECT {few} FROM '{files['history']}'"),
            "polars": scan("history", lambda one: one.select(FEW)),
        },
        "history, all columns": {
            "flatdist": lambda: load_history(folder),
            "pyarrow": arrow("history"),
            "duckdb": query(f"SELECT * FROM '{files['history']}'"),
            "polars": scan("history"),
        },
    }


def read_once(folder: str, what: str, tool: str) -> None:
    """Print what one reading takes in this process: seconds, CPU seconds and bytes."""
    ask = readings(folder)[what][tool]
    base = _most_memory()
    began, cpu = time.perf_counter(), _cpu()
    count = len(ask())
    peak = _most_memory() - base
    _print_row(
        what,
        tool,
        f"{count:,}",
        f"{time.perf_counter() - began:.2f}",
        f"{_cpu() - cpu:.2f}",
        f"{peak:.2f}",
    )


def large(trials: int, evaluations: int) -> None:
    """Write a large store, compact it, and read it by every tool, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write = spent(1, lambda: write_large(folder, trials, evaluations))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        compaction: list[Any] = []
        cpu = spent(1, lambda: compaction.append(Store(folder).compact(grace=0)))
        Store(folder).compact(grace=0)
        peak = _most_memory()
        print(f"{trials:,} trials, {trials * evaluations:,} rows of history, {size / 2**30:.1f} GiB")
        print(f"written in {write:.0f} CPU s, compacted in {cpu:.0f} CPU s, at most {peak:.1f} GiB: {compaction[0]}\n")
        _print_row("", "tool", "rows", "seconds", "CPU seconds", "GiB more")
        _print_row(*["---"] * 6)
        for what, tools in readings(folder).items():
            for tool in tools:
                sys.stdout.flush()
                subprocess.run([sys.executable, __file__, "--read", folder, what, tool], check=False)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=5000)
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=25)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--place", metavar="FOLDER", help="go on with the store in this folder, and keep it")
    parser.add_argument("--before", metavar="REVISION", help="compare with this revision of the repository")
    parser.add_argument("--large", type=int, nargs="?", const=1_000_000, metavar="TRIALS", help="multiples of 8,000")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("parts", "replicates", "evaluations", "repeat")}
    sizes |= {"place": options.place} if options.place else {}
    if options.read:
        read_once(*options.read)
    elif options.json:
        print(json.dumps(measure(**{"place": None, **sizes})))
    elif options.large:
        large(options.large, 20)
    else:
        compare(options.before, sizes)


if __name__ == "__main__":
    main()
